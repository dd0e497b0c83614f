"""Counts stored events again, in fractions and by a calendar of its own: what periods must say.

Shares no line with meterd.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from decimal import Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tests.system.torture.daemons.clients import EVENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

# Averages are rounded half-even to this many digits; everything else is exact.
_DIGITS_34: Final = Context(prec=34)


class Stored(msgspec.Struct, frozen=True):
    """An event as it was read back; ``place`` orders events as they were stored."""

    place: str
    tag: str
    customer_id: str
    event_type: str
    value: Decimal
    received_ms: int
    key: str
    timestamp_ms: int | None = None
    is_void: bool = False

    @property
    def happened_ms(self) -> int:
        return self.received_ms if self.timestamp_ms is None else self.timestamp_ms


class Count(msgspec.Struct):
    """What seven operations can be read from, of at least one event."""

    number: int
    sum: Fraction
    min: Decimal
    max: Decimal
    first: Decimal
    last: Decimal

    def read(self, operation: str) -> Fraction:
        if operation == "avg":
            exact = self.sum / self.number
            return Fraction(_DIGITS_34.divide(Decimal(exact.numerator), Decimal(exact.denominator)))
        return Fraction(self.number if operation == "count" else getattr(self, operation))

    def add(self, later: Count) -> None:
        self.number += later.number
        self.sum += later.sum
        self.min = min(self.min, later.min)
        self.max = max(self.max, later.max)
        self.last = later.last


Recount = dict[str, dict[str, Count]]


def recount(events: Iterable[Stored]) -> Recount:
    """By the id of the aggregation, by event type. What is void does not count."""
    hours: dict[tuple[int, str, str], Count] = {}
    counting = (event for event in events if not event.is_void)
    for event in sorted(counting, key=_by_time):
        hour = (event.happened_ms // 3_600_000, event.customer_id, event.event_type)
        value = event.value
        one = Count(1, Fraction(value), value, value, value, value)
        if hour in hours:
            hours[hour].add(one)
        else:
            hours[hour] = one
    found: defaultdict[str, dict[str, Count]] = defaultdict(dict)
    for (hour_number, customer_id, event_type), count in sorted(hours.items(), key=_by_hour):
        for period in periods_of(hour_number):
            by_type = found[f"{customer_id}_{period}"]
            if event_type in by_type:
                by_type[event_type].add(count)
            else:
                by_type[event_type] = msgspec.structs.replace(count)
    return dict(found)


def difference(expected: dict[str, Count] | None, document: dict[str, Any]) -> str:
    """What a published aggregation says otherwise; empty where it says the same."""
    expected = expected or {}
    counts = {event_type: count.number for event_type, count in expected.items()}
    if document["eventCounts"] != counts:
        return f"counts {document['eventCounts']}, stored {counts}"
    for event_type, count in expected.items():
        published = Fraction(document["exact"][event_type])
        wanted = count.read(EVENT_TYPES[event_type])
        if published != wanted:
            return f"{event_type} is {published}, stored {wanted}"
    return ""


def _by_hour(item: tuple[tuple[int, str, str], Count]) -> int:
    return item[0][0]


def _by_time(event: Stored) -> tuple[int, str]:
    return event.happened_ms, event.place


def periods_of(hour_number: int) -> list[str]:
    """As ids of aggregations name them, the shortest first."""
    moment = dt.datetime.fromtimestamp(hour_number * 3600, dt.UTC)
    year, week, _ = moment.isocalendar()
    return [
        f"hourly_{moment:%Y%m%d%H}",
        f"daily_{moment:%Y%m%d}",
        f"weekly_{year:04d}{week:02d}",
        f"monthly_{moment:%Y%m}",
        f"yearly_{moment:%Y}",
    ]
