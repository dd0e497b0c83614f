"""The commands ``meterd customers`` and ``meterd usage``: who there is, and what they have used.

Figures are exact, and live: an event that was acknowledged is in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click
import msgspec
from msgspec import Raw

from meterd.domain.periods import PeriodType
from meterd.listing import all_option, cursor_option, limit_option, list_pages, paging, shown
from meterd.options import Daemon, Instant, Name, client_options, json_option, require_order
from meterd.tables import table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd.client import Client

_LIMIT_MAX: Final = 10_000
_METADATA: Final = "metadata."
_NULL: Final = Raw(b"null")
_CUSTOMER_COLUMNS: Final = {"customerId": "customer", "firstSeen": "first seen"}
_PERIODS: Final = [kind.value for kind in PeriodType]
_OF_WINDOWS: Final = {
    "event_type": "--type",
    "since": "--from",
    "until": "--to",
    "group_by": "--group-by",
    "filters": "--filter",
    "all_pages": "--all",
    "cursor": "--cursor",
}


class _Group(click.ParamType[str]):
    name = "metadata.name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.startswith(_METADATA) or value == _METADATA:
            self.fail(f"{value!r} is not metadata.NAME", param, ctx)
        return value


class _Filter(click.ParamType[tuple[str, str]]):
    name = "metadata.name=value"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, _, text = value.partition("=")
        if not text or not name.startswith(_METADATA) or name == _METADATA:
            self.fail(f"{value!r} is not metadata.NAME=VALUE", param, ctx)
        return name, text


@click.command(epilog="Example: meterd customers --all --json")
@client_options
@limit_option(_LIMIT_MAX)
@all_option
@cursor_option
@json_option
def customers(
    daemon: Daemon,
    limit: int,
    all_pages: bool,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List the customers of whom events came, by their ids.

    Exit codes: 0 listed, also where there are none; 1 no answer; 2 wrong arguments.
    """
    with daemon.client() as client:
        pages = client.pages("/customers", **paging(limit, cursor, all_pages=all_pages))
        list_pages(pages, _CUSTOMER_COLUMNS, _texts, all_pages=all_pages, as_json=as_json)


@click.command(epilog="Example: meterd usage --customer acme --window daily --from 2026-01-01")
@client_options
@click.option("--customer", type=Name(), required=True, help="What this customer has used.")
@click.option(
    "--period", type=click.Choice(_PERIODS), help="In the period that runs.  [default: monthly]"
)
@click.option("--at", type=Instant(), help="In the period of that moment.")
@click.option("--window", type=click.Choice(_PERIODS), help="In each period that had events.")
@click.option("--type", "event_type", type=Name(), help="With --window: of this type.")
@click.option(
    "--from", "since", type=Instant(), help="With --window: from there on, where one begins."
)
@click.option("--to", "until", type=Instant(), help="With --window: until there, where one ends.")
@click.option(
    "--group-by",
    type=_Group(),
    multiple=True,
    help="With --window: a row for each value of it; may be repeated.",
)
@click.option(
    "--filter",
    "filters",
    type=_Filter(),
    multiple=True,
    help="With --window: of events that have it; may be repeated: any of the values of a name, and"
    " of several names all.",
)
@limit_option(_LIMIT_MAX)
@all_option
@cursor_option
@json_option
@click.pass_context
def usage(
    ctx: click.Context,
    daemon: Daemon,
    customer: str,
    period: str | None,
    at: str | None,
    window: str | None,
    event_type: str | None,
    since: str | None,
    until: str | None,
    group_by: tuple[str, ...],
    filters: tuple[tuple[str, str], ...],
    limit: int,
    all_pages: bool,
    cursor: str | None,
    as_json: bool,
) -> None:
    """Show what a customer has used: in the period that runs, or over time with --window.

    An event that was acknowledged is in it. Figures are exact; value is that of the operation that
    is configured, and --json has sum, avg, min, max, first and last, too. --limit counts windows.

    Exit codes: 0 shown, also where there is none; 1 no answer; 2 wrong arguments.
    """
    _refuse_mixed(ctx.params)
    require_order(since, until)
    with daemon.client() as client:
        if window is None:
            _show_live(client, customer, period, at, as_json=as_json)
            return
        asked = {"customerId": customer, "window": window, "eventType": event_type}
        paged = {"from": since, "to": until, **paging(limit, cursor, all_pages=all_pages)}
        pages = client.pages("/usage", groupBy=group_by, **asked, **_by_name(filters), **paged)
        columns = _columns(group_by)
        list_pages(pages, columns, _window_row, all_pages=all_pages, as_json=as_json)


def _refuse_mixed(given: dict[str, Any]) -> None:
    if given["window"] is None:
        for name, option in _OF_WINDOWS.items():
            if given[name]:
                raise click.BadParameter("needs --window", param_hint=option)
    for name, option in (("period", "--period"), ("at", "--at")):
        if given["window"] and given[name]:
            raise click.BadParameter("does not go with --window", param_hint=option)


def _by_name(filters: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, text in filters:
        found.setdefault(f"filter.{name}", []).append(text)
    return found


def _columns(group_by: Iterable[str]) -> dict[str, str]:
    return {
        "periodKey": "period",
        "status": "status",
        "eventType": "type",
        **{name: name for name in group_by},
        "operation": "operation",
        "value": "value",
        "count": "count",
    }


def _show_live(
    client: Client, customer: str, period: str | None, at: str | None, *, as_json: bool
) -> None:
    # A dot by itself would be a folder of the path.
    path = f"/customers/{quote(customer, safe='').replace('.', '%2E')}/usage"
    text = client.get_text(path, period=period, at=at)
    if as_json:
        click.echo(text)
        return
    found = msgspec.json.decode(text, type=dict[str, Raw])
    by_type = msgspec.json.decode(found["usage"], type=dict[str, dict[str, Raw]])
    of_period = {name: shown(found[name]) for name in ("periodKey", "status")}
    table(
        _columns(()),
        [{**of_period, "eventType": name, **_figures(one)} for name, one in by_type.items()],
    )
    if found["firstSeen"] == _NULL:
        click.echo("note: no event of that customer ever came", err=True)


def _window_row(found: dict[str, Raw]) -> dict[str, str]:
    group: dict[str, Raw] = {}
    if "group" in found:
        group = msgspec.json.decode(found["group"], type=dict[str, Raw])
    return {**_texts(found), **_texts(group), **_figures(found)}


def _figures(found: dict[str, Raw]) -> dict[str, str]:
    """With every digit. A type that is configured no more has no operation, and so no value."""
    exact = msgspec.json.decode(found["exact"], type=dict[str, Raw])
    return _texts(
        {name: found[name] for name in ("operation", "count")} | {"value": exact["value"]}
    )


def _texts(found: dict[str, Raw]) -> dict[str, str]:
    return {name: shown(value) for name, value in found.items() if value != _NULL}
