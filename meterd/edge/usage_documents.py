"""Customers and usage as the API shows them: JSON with doubles and exact text, or CSV.

In CSV, RFC 4180, every number is exact and what is not there is an empty field.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain import javascript
from meterd.domain.instants import format_instant
from meterd.domain.operations import Operation
from meterd.edge.documents import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal

    from meterd.domain.config import EventType
    from meterd.domain.periods import Period
    from meterd.domain.totals import Totals
    from meterd.domain.usage import Customer, CustomerUsage, UsageQuery, UsageRow

# Beside the count, which is exact in any notation.
_READ: Final = (
    *(Operation.SUM, Operation.AVG, Operation.MIN, Operation.MAX),
    *(Operation.FIRST, Operation.LAST),
)
_PERIOD: Final = ("periodStart", "periodEnd", "periodKey", "status")
_FIGURES: Final = ("operation", "value", "count", *map(str, _READ))
# What a spreadsheet takes for a formula: by its first letter, but for plain numbers. White space is
# passed over by some, and full-width signs count as narrow ones where those are written (OWASP, CSV
# Injection).
_FORMULA: Final = re.compile(
    r"(?![+-]?[0-9.]+\Z)[=+\-@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}"
    r"\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}]"
)


def customer_document(customer: Customer) -> bytes:
    shown = {"customerId": customer.id, "firstSeen": format_instant(customer.first_seen_ms)}
    return msgspec.json.encode(shown)


def live_document(usage: CustomerUsage, event_types: Mapping[str, EventType]) -> bytes:
    """Event types in the order of the configuration, then those that it lacks."""
    window = usage.window
    by_type = window.by_type
    names = [*(name for name in event_types if name in by_type), *sorted(by_type)]
    seen_ms = usage.first_seen_ms
    document = {
        "customerId": usage.customer_id,
        "firstSeen": None if seen_ms is None else format_instant(seen_ms),
        "period": window.period.type,
        **_period(window.period, closed=window.closed),
        "usage": {
            name: _figures(by_type[name], _operation(name, event_types))
            for name in dict.fromkeys(names)
        },
    }
    return msgspec.json.encode(document)


def row_document(row: UsageRow, query: UsageQuery, event_types: Mapping[str, EventType]) -> bytes:
    document = {
        "customerId": query.customer_id,
        "window": query.window,
        **_period(row.period, closed=row.closed),
        "eventType": row.event_type,
    }
    if query.group_by:
        document["group"] = dict(zip(_columns(query), row.group, strict=True))
    document.update(_figures(row.totals, _operation(row.event_type, event_types)))
    return msgspec.json.encode(document)


def csv_head(query: UsageQuery) -> bytes:
    names = ("customerId", "window", *_PERIOD, "eventType", *_columns(query), *_FIGURES)
    return _line(map(_text, names))


def csv_row(row: UsageRow, query: UsageQuery, event_types: Mapping[str, EventType]) -> bytes:
    operation = _operation(row.event_type, event_types)
    texts = (
        *(query.customer_id, query.window, *_period(row.period, closed=row.closed).values()),
        *(row.event_type, *map(_harmless, row.group), operation),
    )
    results = [row.totals.read(each) for each in _READ]
    value = "" if operation is None else javascript.exact_text(row.totals.read(operation))
    numbers = (value, str(row.totals.count), *map(javascript.exact_text, results))
    return _line([*map(_text, texts), *numbers])


def _columns(query: UsageQuery) -> Sequence[str]:
    """The groups by the names that they were asked for by."""
    return [f"metadata.{name}" for name in query.group_by]


def _operation(name: str, event_types: Mapping[str, EventType]) -> Operation | None:
    """None for a type that is not configured any more: its events are there."""
    found = event_types.get(name)
    return None if found is None else found.op


def _period(period: Period, *, closed: bool) -> dict[str, Any]:
    shown = (
        *(format_instant(period.start_ms), format_instant(period.last_ms)),
        *(period.key, "closed" if closed else "open"),
    )
    return dict(zip(_PERIOD, shown, strict=True))


def _figures(totals: Totals, operation: Operation | None) -> dict[str, Any]:
    value = None if operation is None else totals.read(operation)
    results: dict[str, Decimal] = {str(each): totals.read(each) for each in _READ}
    exact = {name: javascript.exact_text(result) for name, result in results.items()}
    return {
        "operation": operation,
        "value": None if value is None else number(value),
        "count": totals.count,
        **{name: number(result) for name, result in results.items()},
        "exact": {"value": None if value is None else javascript.exact_text(value), **exact},
    }


def _harmless(value: str | None) -> str | None:
    """What customers have put into metadata, accountants open in a spreadsheet, which would run
    what begins like a formula: such text gets an apostrophe in front, as spreadsheets write it.
    """
    return f"'{value}" if value is not None and _FORMULA.match(value) else value


def _text(value: str | None) -> str:
    """A field: quoted where it must be, or where an empty string would be taken for nothing."""
    if value is None:
        return ""
    if value and not any(letter in value for letter in '",\r\n'):
        return value
    return '"' + value.replace('"', '""') + '"'


def _line(fields: Iterable[str]) -> bytes:
    return (",".join(fields) + "\r\n").encode()
