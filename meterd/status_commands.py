"""The command ``meterd status``: how a meterd that runs is doing."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from meterd.domain.errors import MeterdError
from meterd.options import Daemon, Duration, client_options, config_option, json_option, url_option
from meterd.patience import Patience
from meterd.tables import facts, print_json
from meterd.work.clock import WallClock

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.client import Client
    from meterd.status_reading import Figures, Status

_HIDDEN: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)


@click.command(epilog="Example: until meterd status; do sleep 1; done")
@client_options
@click.option(
    "--interval",
    "interval_s",
    type=Duration(100, 3_600_000),
    default="1s",
    show_default=True,
    help="What rates are measured over: it is looked twice.",
)
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@json_option
@click.pass_context
def status(
    ctx: click.Context,
    daemon: Daemon,
    interval_s: float,
    watch: bool,
    as_json: bool,
) -> None:
    """Show how the meterd that runs is doing.

    Whether it is ready, and if not why; its version, events and rates; how far closing is behind;
    what waits in the outbox, and for which webhooks; its disk. Readiness and version need no key,
    all else one with the scope metrics.

    Exit codes: 0 it is ready; 1 it is not, which is shown, or does not answer; 2 wrong arguments;
    130 interrupted.
    """
    with daemon.client_of_anybody() as client:
        before, at_s = _look(client, is_told=not as_json), time.monotonic()
        while True:
            if before is not None or watch:
                time.sleep(interval_s)
            now, now_s = _look(client, is_told=False), time.monotonic()
            found = _read(client, now, before, now_s - at_s)
            before, at_s = now, now_s
            if as_json:
                print_json(found)
            else:
                _show(found, anew=watch)
            if not watch:
                break
    ctx.exit(0 if found.ready else 1)


@click.command(epilog="Example: meterd healthcheck || systemctl restart meterd")
@config_option
@url_option
@click.option(
    "--timeout",
    "timeout_s",
    type=Duration(100, 60_000),
    default="5s",
    show_default=True,
    help="How long it may take to answer.",
)
@click.option(
    "--wait",
    "wait_s",
    type=Duration(0, 3_600_000),
    default="0s",
    show_default=True,
    help="How long to ask again, in silence, while it does not: behind a start.",
)
@json_option
def healthcheck(
    given: Path | None, url: str | None, timeout_s: float, wait_s: float, as_json: bool
) -> None:
    """Say whether the meterd that runs answers, for whoever restarts what does not.

    Not whether it is ready: while it recovers it answers, and a restart would only make it begin
    anew; `meterd status` says that. No key is needed. Of a daemon with TLS the certificate is not
    judged: it is for the name that clients use, and nothing is told that is worth protecting.

    Exit codes: 0 it answers; 1 it does not, with the reason on stderr; 2 wrong arguments.
    """
    from meterd.client import check_health  # noqa: PLC0415 -- others pay nothing for httpx

    where = Daemon(given, url).where()
    if wait_s:
        patience = Patience(wait_s, say=lambda _: None)
        patience.until_answered(lambda: check_health(where, timeout_s))
    else:
        check_health(where, timeout_s)
    if as_json:
        print_json({"url": where, "answers": True})
    else:
        click.echo(f"{where} answers")


def _look(client: Client, *, is_told: bool) -> Figures | None:
    """None without a key that may; which is said."""
    from meterd.status_reading import parse  # noqa: PLC0415 -- others pay nothing for it

    answer = client.look("/metrics")
    if answer.status == HTTPStatus.OK:
        return parse(answer.content.decode())
    if answer.status not in _HIDDEN:
        raise MeterdError(f"{client.url}/metrics: HTTP {answer.status}: is that a meterd?")
    if is_told:
        is_unknown = client.has_key and answer.status == HTTPStatus.UNAUTHORIZED
        fault = "the key is not known; " if is_unknown else ""
        more = "a key with the scope metrics shows more: METERD_API_KEY"
        click.echo(f"note: {fault}{more}", err=True)
    return None


def _read(client: Client, now: Figures | None, before: Figures | None, between_s: float) -> Status:
    from meterd.status_reading import Status, measured  # noqa: PLC0415

    ready = client.look("/readyz")
    about = client.look("/")
    try:
        told: dict[str, Any] = msgspec.json.decode(ready.content)
        version = msgspec.json.decode(about.content)["version"]
    except (msgspec.DecodeError, LookupError, TypeError) as fault:
        raise MeterdError(f"{client.url} is no meterd") from fault
    notes = {name: text for name, text in told.items() if name != "status"}
    now_s = WallClock().now_ms() / 1000
    figures = None if now is None else measured(now, before, now_s=now_s, between_s=between_s)
    return Status(client.url, version, ready.status == HTTPStatus.OK, notes, figures)


def _show(found: Status, *, anew: bool) -> None:
    from meterd.status_reading import facts_of  # noqa: PLC0415

    if anew:
        click.clear()
    facts(facts_of(found))
