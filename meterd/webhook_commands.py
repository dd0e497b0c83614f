"""The commands ``meterd webhooks``: how they stand, a test, and what would be sent, shown here.

They ask a meterd that runs.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from meterd import __version__
from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.endpoints import endpoint_url
from meterd.domain.errors import MeterdError
from meterd.domain.sections import Refused
from meterd.domain.signatures import sign
from meterd.options import (
    Daemon,
    Name,
    client_options,
    config_source,
    id_in_path,
    json_option,
    nobody,
)
from meterd.tables import print_json, printable, table
from meterd.work.clock import WallClock

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.client import Client, Receiver

_COLUMNS: Final = {
    "id": "id",
    "url": "url",
    "state": "state",
    "pending": "pending",
    "parked": "parked",
    "delivered": "delivered since start",
    "failed": "failed since start",
    "consecutiveFailures": "failed in a row",
    "lastSuccessAt": "last success",
    "lastFailureAt": "last failure",
    "lastError": "last error",
}
_POLL_SECONDS: Final = 1.0
_PAGE: Final = 100
_ANSWER_SHOWN_MAX: Final = 2000


class Pulled(msgspec.Struct, frozen=True):
    """An element of an endpoint's stream; ``payload`` to the byte."""

    id: str
    sequence: int
    customerId: str  # noqa: N815 -- as the API names it
    period: str
    periodKey: str  # noqa: N815
    status: DeliveryStatus
    payload: msgspec.Raw


@click.group(epilog="Example: meterd webhooks list")
def webhooks() -> None:
    """List, test and enable webhooks, or see what they get."""


@webhooks.command(
    "list",
    epilog="Example: meterd webhooks list --json",
    short_help="List webhooks: state, what waits, what came of attempts.",
)
@client_options
@json_option
def list_webhooks(daemon: Daemon, as_json: bool) -> None:
    """List webhooks: state, what waits and is parked, and what came of attempts.

    What came of attempts is counted from meterd's last start, or a reload that switched the webhook
    on: deliveries list has all. Counts of what waits end at 10,000, shown as 10,000+. Webhooks that
    are not configured any more are listed while something waits for them, or is parked.

    The state is on; off (enabled = false); paused (it asked to be left alone); gone (it answered
    410); or removed.

    Exit codes: 0 listed; 1 no answer; 2 wrong arguments.
    """
    with daemon.client() as client:
        found = client.get("/webhooks")
    if as_json:
        for one in found:
            print_json(one)
    else:
        table(_COLUMNS, [_row(one) for one in found])


def _row(found: dict[str, Any]) -> dict[str, Any]:
    counts = {
        name: f"{found[name]:,}{'+' if found[name] == found['countedTo'] else ''}"
        for name in ("pending", "parked")
    }
    return {**found, **counts, **found.get("statistics", {})}


@webhooks.command(
    epilog="Example: meterd webhooks test billing",
    short_help="Send a signed test at once, and say what came of it.",
)
@client_options
@click.argument("endpoint_id", metavar="ID")
@json_option
@click.pass_context
def test(
    ctx: click.Context,
    daemon: Daemon,
    endpoint_id: str,
    as_json: bool,
) -> None:
    """Send a signed message of type webhook.test at once, and say what came of it.

    It goes from the daemon, the way that deliveries go, also while the webhook is paused. Nothing
    of it is kept. Of a refusal the body is shown, where the reason often is.

    Exit codes: 0 received (2xx); 1 not received, also since DRY_RUN is set, or no such webhook, or
    no answer of meterd; 2 wrong arguments.
    """
    with daemon.client() as client:
        told = client.post(f"/webhooks/{_segment(endpoint_id)}/test")
    if as_json:
        print_json(told)
    else:
        where = f" at {told['address']}" if "address" in told else ""
        came = "dry run: not sent" if told.get("dryRun") else told.get("error") or told["status"]
        click.echo(f"{endpoint_id}: {came} ({told['url']}{where}, {told['durationMs']} ms)")
        if not told["delivered"]:
            for line in told.get("responseBody", "")[:_ANSWER_SHOWN_MAX].splitlines():
                click.echo(printable(line))
    ctx.exit(0 if told["delivered"] else 1)


@webhooks.command(
    epilog="Example: meterd webhooks enable billing",
    short_help="End a pause, or that a webhook is gone (410).",
)
@client_options
@click.argument("endpoint_id", metavar="ID")
@json_option
def enable(daemon: Daemon, endpoint_id: str, as_json: bool) -> None:
    """End the pause of a webhook, or that it is gone: what waits is sent when it is due.

    One with enabled = false in the configuration, or taken out of it, is changed there. What closes
    meanwhile is not kept for it: meterd deliveries replay --since sends that.

    Exit codes: 0 done; 1 there is none of that id, it is off or taken out, or no answer; 2 wrong
    arguments.
    """
    with daemon.client() as client:
        shown = client.post(f"/webhooks/{_segment(endpoint_id)}/enable")
    if as_json:
        print_json(shown)
    else:
        click.echo(f"{endpoint_id} is {shown['state']}; {_row(shown)['pending']} waiting")


def _segment(endpoint_id: str) -> str:
    return id_in_path(endpoint_id, "webhook", "webhooks")


class _Url(click.ParamType[str]):
    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return endpoint_url(value)
        except Refused as error:
            self.fail(str(error), param, ctx)


@webhooks.command(
    epilog="Example: meterd webhooks listen --endpoint a --forward http://localhost:3000",
    short_help="Show what a webhook gets, and forward it.",
)
@client_options
@click.option(
    "--endpoint", "endpoint_id", type=Name(), required=True, help="What this webhook gets."
)
@click.option(
    "--forward",
    "to",
    type=_Url(),
    metavar="URL",
    help="Send each there, signed; without it they are shown.",
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    envvar="METERD_WEBHOOK_SECRET",
    show_envvar=True,
    help="Sign with this one; may be repeated. Default: those of the configuration.",
)
@click.option(
    "--after",
    type=click.IntRange(0),
    metavar="SEQUENCE",
    help="Begin behind this one; 0 is the first of all. Default: with what is made from now on.",
)
@json_option
def listen(
    daemon: Daemon,
    endpoint_id: str,
    to: str | None,
    secrets: tuple[str, ...],
    after: int | None,
    as_json: bool,
) -> None:
    """Show what a webhook gets, and forward it, to a receiver on this machine say.

    It reads the webhook's stream beside the daemon, once a second: what the daemon sends and what
    comes of that does not change. The receiver gets the ids and bodies that the webhook gets, or,
    of a webhook with batch, each aggregation by itself, under an id and a body of its own: no
    aggregation.batch. Ctrl-C ends it.

    Exit codes: 130 interrupted; 1 there is no such webhook, no secret, or no answer; 2 wrong
    arguments.
    """
    from meterd.client import Receiver  # noqa: PLC0415 -- others pay nothing for httpx

    if to is not None:
        secrets = secrets or _configured_secrets(daemon.config, endpoint_id)
    with (
        daemon.client() as client,
        nullcontext() if to is None else Receiver(to) as receiver,
    ):
        behind = _last_sequence(client, endpoint_id) if after is None else after
        if not as_json:
            click.echo(f"listening to {endpoint_id} behind sequence {behind}", err=True)
        while True:
            pulled = _pull(client, endpoint_id, behind)
            for one in pulled:
                came = None if receiver is None else _forward(receiver, one, secrets)
                _show(one, came, as_json=as_json)
                behind = one.sequence
            if len(pulled) < _PAGE:
                time.sleep(_POLL_SECONDS)


def _configured_secrets(given: Path | None, endpoint_id: str) -> tuple[str, ...]:
    source = config_source(given)
    for endpoint in source.configured().webhooks:
        if endpoint.id == endpoint_id:
            return endpoint.secrets
    raise MeterdError(f"{source.path} has no webhook {endpoint_id}: give --secret")


def _last_sequence(client: Client, endpoint_id: str) -> int:
    for one in client.get("/webhooks"):
        if one["id"] == endpoint_id:
            return int(one["lastSequence"])
    raise nobody(endpoint_id, "webhook", "webhooks")


def _pull(client: Client, endpoint_id: str, behind: int) -> list[Pulled]:
    page = client.get_text("/deliveries", endpoint=endpoint_id, afterSequence=behind, limit=_PAGE)
    return msgspec.json.decode(page, type=list[Pulled])


def _forward(receiver: Receiver, one: Pulled, secrets: tuple[str, ...]) -> str:
    body = bytes(one.payload)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"meterd/{__version__}",
        **sign(
            body,
            message_id=one.id,
            timestamp_s=WallClock().now_ms() // 1000,
            secrets=secrets,
        ),
    }
    return receiver.post(headers, body)


def _show(one: Pulled, came: str | None, *, as_json: bool) -> None:
    if as_json:
        shown = {"id": one.id, "sequence": one.sequence, "payload": one.payload}
        print_json(shown if came is None else {**shown, "forwarded": came})
        return
    line = f"{one.sequence}  {one.id}  {one.customerId}  {one.period} {one.periodKey}"
    click.echo(f"{line}\n{bytes(one.payload).decode()}" if came is None else f"{line}  {came}")
