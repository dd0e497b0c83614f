"""The command ``meterd``: what is typed, what is printed, and the exit codes."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from meterd import __version__
from meterd.domain.config import Config, advice
from meterd.domain.credentials import (
    ALL_SCOPES,
    ENVIRONMENT_KEY_ID,
    KEY_BYTES,
    ApiKey,
    Scope,
    new_key,
)
from meterd.domain.durations import format_duration
from meterd.domain.endpoints import masked_url
from meterd.domain.errors import MeterdError
from meterd.domain.instants import format_instant
from meterd.domain.sections import DESCRIPTION, Refused
from meterd.edge.certificates import server_context, validity
from meterd.keyfile import KEY_FILE, add_key, read_keys, remove_key
from meterd.options import OneLineErrors, config_option, config_source
from meterd.upkeep import backup, compact, restore, verify
from meterd.work.clock import WallClock

if TYPE_CHECKING:
    from meterd.domain.addresses import Server

_RELOAD: Final = "A running meterd follows on SIGHUP: kill -HUP $(cat {}/lock)"


@click.group(cls=OneLineErrors, epilog="Example: meterd serve --config systemconfig.toml")
@click.version_option(__version__, prog_name="meterd")
def main() -> None:
    """Self-hosted usage metering: events in, exact totals kept, signed webhooks out."""


@main.command(epilog="Example: meterd serve --config /etc/meterd/systemconfig.toml")
@config_option
@click.pass_context
def serve(ctx: click.Context, given: Path | None) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    SIGHUP reads the configuration again. Exit codes: 0 stopped as told; 1 the configuration or the
    data folder cannot be used, also for want of room; 2 wrong arguments; 70 a write did not reach
    the disk, start again; or a stored record is damaged, see meterd verify.
    """
    from meterd.daemon import serve as serve_until_told  # noqa: PLC0415 -- the whole HTTP stack

    ctx.exit(serve_until_told(config_source(given)))


@main.command(
    epilog="Example: meterd check --config systemconfig.toml && kill -HUP $(cat meterd-data/lock)"
)
@config_option
def check(given: Path | None) -> None:
    """Say whether a configuration is valid, and what would run.

    Exit codes: 0 valid; 1 not valid, with every fault on stderr; 2 wrong arguments.
    """
    source = config_source(given)
    config = source.read()
    summary = _summary(config)
    click.echo(f"{source.path} is valid")
    for name, value in summary:
        click.echo(f"  {name:<12}{value}")
    for line in advice(config):
        click.echo(f"note: {line}", err=True)


def _summary(config: Config) -> list[tuple[str, str]]:
    periods = ", ".join(config.periods) or "none"
    return [
        ("address", config.server.bind),
        ("tls", _tls(config.server)),
        ("data", config.storage.path),
        ("periods", f"{periods}; closed {format_duration(config.grace_ms)} after their end"),
        *[("event type", f"{name} ({kind.op})") for name, kind in config.events.items()],
        *[
            ("webhook", f"{hook.id} {masked_url(hook.url)}{'' if hook.enabled else ' (disabled)'}")
            for hook in config.webhooks
        ],
        ("keys", str(len(config.keys)) if config.keys else "none; the first start makes one"),
        ("dry run", "yes: nothing is sent" if config.dry_run else "no"),
        ("log level", config.log_level),
    ]


def _tls(server: Server) -> str:
    """Raises ConfigError where the files cannot be used."""
    if not server.has_tls:
        return "no"
    context = server_context(server.tls_certificate, server.tls_key)
    until_ms, refusal = validity(context, server.tls_certificate)
    until = "" if until_ms is None else f"until {format_instant(until_ms)}"
    return f"{server.tls_certificate}, {until or f'which clients refuse: {refusal}'}"


@main.group(epilog="Example: meterd keys create --scope read --description dashboard")
def keys() -> None:
    """Make, list and revoke API keys.

    They are kept in the data folder, by their hashes: a lost key cannot be shown again.
    """


@keys.command(epilog="Example: KEY=$(meterd keys create --scope ingest --description 'web shop')")
@config_option
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What the key may do; may be repeated. Default: all three. None implies another.",
)
@click.option("--description", default="", help="Whose key it is.")
def create(given: Path | None, scopes: tuple[str, ...], description: str) -> None:
    """Make a key and print it, this once, to stdout."""
    try:
        DESCRIPTION(description)
    except Refused as refused:
        raise click.BadParameter(str(refused), param_hint="--description") from refused
    config = config_source(given).read()
    text, key = new_key(
        secrets.token_bytes(KEY_BYTES),
        frozenset(map(Scope, scopes)) or ALL_SCOPES,
        description=description,
        created_ms=WallClock().now_ms(),
    )
    add_key(config.storage.path, key)
    reload = _RELOAD.format(config.storage.path)
    click.echo(text)
    click.echo(f"{key.id} made ({_scopes(key)}); it is shown only now. {reload}", err=True)


@keys.command("list", epilog="Example: meterd keys list")
@config_option
def list_keys(given: Path | None) -> None:
    """List every key: id, scopes, when it was made, where it stands, description."""
    source = config_source(given)
    config = source.configured()
    path = Path(config.storage.path) / KEY_FILE
    for key in read_keys(config.storage.path):
        click.echo(_line(key, str(path)))
    for key in config.keys:
        click.echo(_line(key, "" if key.id == ENVIRONMENT_KEY_ID else str(source.path)))


def _line(key: ApiKey, place: str) -> str:
    made = "" if key.created_ms is None else format_instant(key.created_ms)
    return "  ".join(part for part in (key.id, _scopes(key), made, place, key.description) if part)


def _scopes(key: ApiKey) -> str:
    return ",".join(scope for scope in Scope if scope in key.scopes)


@keys.command(epilog="Example: meterd keys revoke key-1f2e3d4c5b6a")
@config_option
@click.argument("key_id", metavar="ID")
def revoke(given: Path | None, key_id: str) -> None:
    """Take back the key with that id; `meterd keys list` shows the ids.

    Exit codes: 0 revoked; 1 there is no such key in the key file; 2 wrong arguments.
    """
    source = config_source(given)
    config = source.configured()
    if remove_key(config.storage.path, key_id):
        click.echo(f"{key_id} revoked. {_RELOAD.format(config.storage.path)}", err=True)
    elif key_id == ENVIRONMENT_KEY_ID and any(key.id == key_id for key in config.keys):
        raise MeterdError(f"{key_id} is in the environment: take it out there and restart")
    elif any(key.id == key_id for key in config.keys):
        raise MeterdError(f"{key_id} stands in {source.path}: take its [[keys]] out there")
    else:
        raise MeterdError(f"no key has the id {key_id}; meterd keys list shows them")


for command in (verify, backup, restore, compact):
    main.add_command(command)
