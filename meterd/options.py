"""What the commands have in common.

Answers go to stdout, everything else to stderr; a failure is one line for each fault, and never a
traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec

from meterd.domain.durations import examples_within, parse_duration
from meterd.domain.errors import MeterdError
from meterd.domain.instants import EXPECTED, parse_instant
from meterd.domain.sections import Refused, identifier, quoted
from meterd.source import ConfigSource, locate

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.client import Client
    from meterd.domain.addresses import Server


# No room, or nobody has opened it (``__main__``).
_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)


class OneLineErrors(click.Group):
    """Ends with exit code 1 and the failure's own lines.

    2 is for what is wrong on the command line itself, whatever the machine has. What stands at a
    path that is named there, a file instead of a folder say, is found out on the machine: 1.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Ends in one line, too, where stdout is closed, or a file on a full disk."""
        try:
            return super().main(*args, **kwargs)
        except OSError as fault:
            if fault.errno not in _UNWRITABLE or fault.filename is not None:
                raise
            # What is kept back would be tried again at the end, and be another exit code.
            with Path(os.devnull).open("w") as nowhere, suppress(OSError, ValueError):
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            click.echo(f"stdout cannot be written: {fault.strerror}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MeterdError as error:
            for line in str(error).splitlines():
                click.echo(line, err=True)
            ctx.exit(1)
        except click.MissingParameter:
            raise
        except click.BadParameter as error:
            if error.param is not None and isinstance(error.param.type, click.IntRange):
                said = _no_number(error.message, error.param.type)
                raise click.BadParameter(said, error.ctx, error.param) from error
            if error.param is None or not isinstance(error.param.type, click.Path):
                raise
            click.echo(error.message, err=True)
            ctx.exit(1)


def _no_number(message: str, takes: click.IntRange) -> str:
    """In place of ``'x' is not a valid integer range.``, which begins with the value."""
    value = message.split(" is not ", maxsplit=1)[0].strip("'")
    until = "on" if takes.max is None else f"to {takes.max:,}"
    return f"{value!r} is no whole number from {takes.min} {until}"


class Name(click.ParamType[str]):
    """A text that names something: an empty one is a variable that was not set."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("must not be empty", param, ctx)
        return value


class Instant(click.ParamType[str]):
    """As it was given, which the daemon reads again."""

    name = "instant"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if parse_instant(value) is None:
            self.fail(f"{value!r} is not {EXPECTED}", param, ctx)
        return value


def instant_ms(given: str) -> int:
    """Of what ``Instant`` took."""
    found = parse_instant(given)
    assert found is not None, "it was looked at before"
    return found


def require_order(
    since: str | None, until: str | None, names: tuple[str, str] = ("--from", "--to")
) -> None:
    """Refuses an end before the beginning: nothing can be found in between."""
    if since is not None and until is not None and instant_ms(until) < instant_ms(since):
        raise click.BadParameter(f"{until} is before {names[0]} {since}", param_hint=names[1])


class Duration(click.ParamType[float]):
    """In seconds."""

    name = "duration"

    def __init__(self, at_least_ms: int, at_most_ms: int) -> None:
        self._at_least_ms = at_least_ms
        self._at_most_ms = at_most_ms

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found_ms = parse_duration(value)
        if found_ms is None or not self._at_least_ms <= found_ms <= self._at_most_ms:
            takes = examples_within(self._at_least_ms, self._at_most_ms)
            self.fail(f"{value!r} is no duration such as {takes}", param, ctx)
        return found_ms / 1000


config_option: Final = click.option(
    "--config",
    "given",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help=(
        "Default: METERD_CONFIG, else systemconfig.toml or systemconfig.json in this folder."
        " METERD_DATA_DIR wins over its storage.path."
    ),
)
patience_option: Final = click.option(
    "--patience",
    "patience_s",
    type=Duration(0, 86_400_000),
    default="5m",
    show_default=True,
    help="How long to try again while no meterd answers, or it has no room.",
)
json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, an object a line."
)


url_option: Final = click.option(
    "--url", help="The meterd to ask. Default: the address that the configuration has it listen on."
)
key_option: Final = click.option(
    "--key",
    envvar="METERD_API_KEY",
    show_envvar=True,
    help="Its API key; others see it in the list of processes, but not in the environment.",
)


class Daemon(NamedTuple):
    """The meterd that a command is about, as it was named; nothing is looked up before it is asked.

    A command with wrong arguments says so (2) before what fails on the machine (1).
    """

    config: Path | None
    url: str | None
    key: str | None = None

    def client(self) -> Client:
        """To ask what needs a key. Raises ConfigError and MeterdError."""
        if not self.key:
            raise MeterdError("an API key is needed: set METERD_API_KEY, or give --key")
        return self.client_of_anybody()

    def client_of_anybody(self) -> Client:
        """As ``client``, also without a key."""
        from meterd.client import Client  # noqa: PLC0415 -- others pay nothing for httpx

        return Client(self.where(), self.key or None)

    def where(self) -> str:
        """The URL given, or that of where the configuration has it listen. Raises ConfigError, and
        MeterdError where the configuration does not say which port.
        """
        return self.url or _url(config_source(self.config).server())


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --config, --url and --key of commands that ask a meterd: its ``daemon``."""

    @wraps(command)
    def with_daemon(
        *args: Any, given: Path | None, url: str | None, key: str | None, **kwargs: Any
    ) -> Any:
        return command(*args, daemon=Daemon(given, url, key), **kwargs)

    return config_option(url_option(key_option(with_daemon)))


def id_in_path(given: str, kind: str, command: str) -> str:
    """The id as a part of a path. Raises MeterdError for what is nobody's, and could be a path."""
    try:
        return identifier(given)
    except Refused as error:
        raise nobody(given, kind, command) from error


def nobody(given: str, kind: str, command: str) -> MeterdError:
    """As the daemon says it, too."""
    return MeterdError(f"No {kind} has the id {quoted(given)}; meterd {command} list shows them")


def config_source(given: Path | None) -> ConfigSource:
    """The one given, or that of the environment, or of this folder. Raises ConfigError."""
    return locate(given, os.environ.copy(), Path())


def data_folder(given: Path | None) -> Path:
    """The configured one. Raises ConfigError."""
    return Path(config_source(given).configured().storage.path)


def _url(server: Server) -> str:
    if server.port == 0:
        raise MeterdError("the configuration leaves the port to the system: give --url")
    scheme = "https" if server.has_tls else "http"
    # Who listens everywhere listens here, too.
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104  # noqa: S104
    host = here.get(server.host, server.host)
    return f"{scheme}://{msgspec.structs.replace(server, host=host).bind}"
