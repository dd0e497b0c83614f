"""The commands ``meterd events`` and ``meterd aggregations``: what a meterd that runs has stored.

On stdout is what was asked for, as a table or as JSON, an object a line, as meterd sent it: numbers
to the digit. Where more is to be had, stderr says how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from msgspec import Raw

from meterd.domain.periods import PeriodType
from meterd.options import (
    Instant,
    Name,
    config_option,
    daemon,
    json_option,
    key_option,
    url_option,
)
from meterd.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from meterd.client import Page

_LISTED: Final = 50
# So many are in memory at once where all are listed, and a table has its own widths.
_PAGE: Final = 1000
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
_limit = click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=_LISTED,
    show_default=True,
    help="So many at most.",
)
_all = click.option("--all", "all_pages", is_flag=True, help="All there are, a page at a time.")
_cursor = click.option(
    "--cursor", type=Name(), help="Go on where one ended that had more, which printed this."
)


@click.command(epilog="Example: meterd events --customer acme --from 2026-01-01 --all --json")
@config_option
@url_option
@key_option
@_customer
@click.option("--type", "event_type", type=Name(), help="Those of this type.")
@click.option("--from", "since", type=Instant(), help="Received from then on.")
@click.option("--to", "until", type=Instant(), help="Received until then.")
@click.option("--oldest-first", is_flag=True, help="In the order in which they were received.")
@_limit
@_all
@_cursor
@json_option
def events(
    given: Path | None,
    url: str | None,
    key: str | None,
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

    The id is what POST /events/{id}/void takes. meterd export writes them to a file.

    Exit codes: 0 listed, also where there are none; 1 no answer; 2 wrong arguments.
    """
    asked = {
        "customerId": customer,
        "eventType": event_type,
        "from": since,
        "to": until,
        "order": "oldest" if oldest_first else None,
    }
    with daemon(given, url, key) as client:
        pages = client.pages("/events", **asked, **_paging(limit, cursor, all_pages=all_pages))
        _list(pages, _EVENT_COLUMNS, _event_row, all_pages=all_pages, as_json=as_json)


@click.command(epilog="Example: meterd aggregations --customer acme --period monthly")
@config_option
@url_option
@key_option
@_customer
@click.option(
    "--period",
    type=click.Choice([kind.value for kind in PeriodType]),
    help="Those of such periods.",
)
@click.option("--from", "since", type=Instant(), help="Of periods that began from then on.")
@click.option("--to", "until", type=Instant(), help="Of periods that began until then.")
@click.option("--revisions", is_flag=True, help="Also what was revised; not counted by --limit.")
@_limit
@_all
@_cursor
@json_option
def aggregations(
    given: Path | None,
    url: str | None,
    key: str | None,
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
    asked = {
        "customerId": customer,
        "period": period,
        "from": since,
        "to": until,
        "revisions": "all" if revisions else None,
    }
    with daemon(given, url, key) as client:
        paging = _paging(limit, cursor, all_pages=all_pages)
        pages = client.pages("/aggregations", **asked, **paging)
        _list(pages, _AGGREGATION_COLUMNS, _aggregation_row, all_pages=all_pages, as_json=as_json)


def _paging(limit: int, cursor: str | None, *, all_pages: bool) -> dict[str, str | int | None]:
    return {"limit": _PAGE if all_pages else limit, "cursor": cursor}


def _list(
    pages: Iterable[Page],
    columns: Mapping[str, str],
    row_of: Callable[[dict[str, Raw]], dict[str, Any]],
    *,
    all_pages: bool,
    as_json: bool,
) -> None:
    """Page by page, so that what is listed may be larger than memory."""
    listed = 0
    for page in pages:
        found = msgspec.json.decode(page.content, type=list[Raw])
        if as_json:
            for one in found:
                click.echo(bytes(one))
        elif found or not listed:
            table(columns, [row_of(one) for one in _fields(found)])
        listed += len(found)
        if all_pages:
            continue
        if page.pruned_until is not None:
            click.echo(
                f"note: of before {page.pruned_until} some were pruned (retention.events)", err=True
            )
        if page.cursor is not None:
            click.echo(
                f"there are more: --all lists them, --cursor {page.cursor} goes on", err=True
            )
        return


def _fields(found: Iterable[Raw]) -> Iterator[dict[str, Raw]]:
    for one in found:
        yield msgspec.json.decode(one, type=dict[str, Raw])


def _event_row(found: dict[str, Raw]) -> dict[str, Any]:
    row = {name: _shown(value) for name, value in found.items()}
    if row["metadata"] == "{}":
        del row["metadata"]
    if "void" in found:
        row["void"] = msgspec.json.decode(found["void"])["reason"]
    return row


def _shown(value: Raw) -> str:
    """Texts without quotes, numbers with their digits."""
    text = bytes(value).decode()
    return msgspec.json.decode(value, type=str) if text.startswith('"') else text


class _Status(msgspec.Struct, rename="camel"):
    delivered: bool = False
    attempts: int = 0
    last_error: str | None = None


def _aggregation_row(found: dict[str, Raw]) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: _shown(found[name]) for name in _AGGREGATION_COLUMNS if name in found
    }
    exact = msgspec.json.decode(found["exact"])
    row["figures"] = ", ".join(f"{name} {figure}" for name, figure in exact.items())
    row["webhooks"] = _webhooks(msgspec.json.decode(found["webhookStatus"], type=_Status))
    return row


def _webhooks(status: _Status) -> str:
    if status.delivered:
        return "delivered"
    if status.last_error is not None:
        return f"{status.attempts} attempts: {status.last_error}"
    return "waiting" if status.attempts else ""
