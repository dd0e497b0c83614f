"""The commands ``meterd events`` and ``meterd aggregations``: what a meterd that runs has stored.

On stdout is what was asked for, as a table or as JSON, an object a line, as meterd sent it: numbers
to the digit. Where more is to be had, stderr says how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from meterd.domain.periods import PeriodType
from meterd.domain.plurals import number_of
from meterd.listing import all_option, cursor_option, limit_option, list_pages, paging, shown
from meterd.options import Daemon, Instant, Name, client_options, json_option, require_order

if TYPE_CHECKING:
    from msgspec import Raw

_EVENT_COLUMNS: Final = {
    "receivedAt": "received",
    "timestamp": "happened",
    "customerId": "customer",
    "eventType": "type",
    "value": "value",
    "metadata": "metadata",
    "idempotencyKey": "key",
    "void": "taken back",
    "_id": "id",
}
_AGGREGATION_COLUMNS: Final = {
    "customerId": "customer",
    "period": "period",
    "periodKey": "key",
    "status": "status",
    "revision": "revision",
    "eventCount": "events",
    "figures": "figures",
    "webhooks": "webhooks",
    "_id": "id",
}
_customer = click.option("--customer", type=Name(), help="Those of this customer.")


@click.command(epilog="Example: meterd events --customer acme --from 2026-01-01 --all --json")
@client_options
@_customer
@click.option("--type", "event_type", type=Name(), help="Those of this type.")
@click.option("--from", "since", type=Instant(), help="Received from then on.")
@click.option("--to", "until", type=Instant(), help="Received until then.")
@click.option("--oldest-first", is_flag=True, help="In the order in which they were received.")
@limit_option(100_000)
@all_option
@cursor_option
@json_option
def events(
    daemon: Daemon,
    customer: str | None,
    event_type: str | None,
    since: str | None,
    until: str | None,
    oldest_first: bool,
    limit: int,
    all_pages: bool,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List events, the newest first.

    The id is what meterd void takes. meterd export writes them to a file.

    Exit codes: 0 listed, also where there are none; 1 no answer; 2 wrong arguments.
    """
    require_order(since, until)
    asked = {
        "customerId": customer,
        "eventType": event_type,
        "from": since,
        "to": until,
        "order": "oldest" if oldest_first else None,
    }
    with daemon.client() as client:
        pages = client.pages("/events", **asked, **paging(limit, cursor, all_pages=all_pages))
        list_pages(pages, _EVENT_COLUMNS, _event_row, all_pages=all_pages, as_json=as_json)


@click.command(epilog="Example: meterd aggregations --customer acme --period monthly")
@client_options
@_customer
@click.option(
    "--period",
    type=click.Choice([kind.value for kind in PeriodType]),
    help="Those of such periods.",
)
@click.option("--from", "since", type=Instant(), help="Of periods that began from then on.")
@click.option("--to", "until", type=Instant(), help="Of periods that began until then.")
@click.option("--revisions", is_flag=True, help="Also what was revised; not counted by --limit.")
@limit_option(100_000)
@all_option
@cursor_option
@json_option
def aggregations(
    daemon: Daemon,
    customer: str | None,
    period: str | None,
    since: str | None,
    until: str | None,
    revisions: bool,
    limit: int,
    all_pages: bool,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List aggregations, those of the newest periods first.

    Figures are exact. Those of periods that are open are as of the last POST
    /aggregations/trigger. Webhooks says whether each has it, or the last error.

    Exit codes: 0 listed, also where there are none; 1 no answer; 2 wrong arguments.
    """
    require_order(since, until)
    asked = {
        "customerId": customer,
        "period": period,
        "from": since,
        "to": until,
        "revisions": "all" if revisions else None,
    }
    with daemon.client() as client:
        pages = client.pages("/aggregations", **asked, **paging(limit, cursor, all_pages=all_pages))
        list_pages(
            pages, _AGGREGATION_COLUMNS, _aggregation_row, all_pages=all_pages, as_json=as_json
        )


def _event_row(found: dict[str, Raw]) -> dict[str, Any]:
    row = {name: shown(value) for name, value in found.items()}
    if row["metadata"] == "{}":
        del row["metadata"]
    if "void" in found:
        row["void"] = msgspec.json.decode(found["void"])["reason"]
    return row


class _Status(msgspec.Struct, rename="camel"):
    delivered: bool = False
    attempts: int = 0
    last_error: str | None = None


def _aggregation_row(found: dict[str, Raw]) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: shown(found[name]) for name in _AGGREGATION_COLUMNS if name in found
    }
    exact = msgspec.json.decode(found["exact"])
    row["figures"] = ", ".join(f"{name} {figure}" for name, figure in exact.items())
    row["webhooks"] = _webhooks(msgspec.json.decode(found["webhookStatus"], type=_Status))
    return row


def _webhooks(status: _Status) -> str:
    if status.delivered:
        return "delivered"
    if status.last_error is not None:
        return f"{number_of(status.attempts, 'attempt')}: {status.last_error}"
    return "waiting" if status.attempts else ""
