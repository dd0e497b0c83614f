"""What an accountant would keep of the same events: who sent what, what is stored, in fractions.

Nothing here is derived by meterd's own arithmetic: a period's result is counted anew from the list
of its values, each time somebody claims one.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import msgspec

from meterd.domain.aggregations import Figure
from tests.model_ledger import result_of

if TYPE_CHECKING:
    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.operations import Operation
    from meterd.domain.periods import Period


class BrokenPromiseError(Exception):
    """``kind`` is what a tally counts it as: lost, twice or wrong."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


class Sent(msgspec.Struct, frozen=True):
    """An event that a client has, known by its number, which is in its metadata."""

    number: int
    customer_id: str
    event_type: str
    value: str
    key: str = ""
    # Wrong on purpose, or with a key that was used for another: it must not be stored.
    is_unfit: bool = False

    def document(self, *, with_type: bool) -> dict[str, object]:
        """As it is sent."""
        document: dict[str, object] = {
            "customerId": self.customer_id,
            "value": msgspec.Raw(self.value.encode()),
            "metadata": {"n": self.number},
        }
        if with_type:
            document["eventType"] = self.event_type
        if self.key:
            document["idempotencyKey"] = self.key
        return document


class Entry(msgspec.Struct, frozen=True):
    """An event as it is stored."""

    number: int
    received_ms: int
    id: bytes


class _Series:
    """One customer's values of one type, in the order of storing, which is that of time."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.values: list[Decimal] = []
        self.places: list[int] = []
        # Of all values before that place: a year's sum would take its time.
        self.sums = [Fraction(0)]

    def append(self, received_ms: int, value: Decimal, place: int) -> None:
        self.times.append(received_ms)
        self.values.append(value)
        self.places.append(place)
        self.sums.append(self.sums[-1] + Fraction(value))

    def bounds(self, period: Period, until: int | None = None) -> tuple[int, int]:
        start = bisect_left(self.times, period.start_ms)
        end = bisect_left(self.times, period.end_ms, start)
        if until is not None:
            end = bisect_left(self.places, until, start, max(start, end))
        return start, end

    def figure(self, operation: Operation, start: int, end: int) -> Figure:
        values, total = self.values[start:end], self.sums[end] - self.sums[start]
        return Figure(operation, result_of(operation, values, total), len(values))


class Books:
    """Everything that was ever sent, and the log."""

    def __init__(self) -> None:
        self.sent: dict[int, Sent] = {}
        self.stored: dict[int, Entry] = {}
        self.log: list[Entry] = []
        self.customers: defaultdict[str, list[Entry]] = defaultdict(list)
        self.keys: dict[tuple[str, str], int] = {}
        self.times: list[int] = []
        self._series: defaultdict[tuple[str, str], _Series] = defaultdict(_Series)

    def sending(self, event: Sent) -> None:
        """Before its first byte is sent."""
        self.sent.setdefault(event.number, event)

    def enter(self, event: Sent, entry: Entry) -> None:
        """It is in the log, on disk."""
        self.stored[event.number] = entry
        self.log.append(entry)
        self.times.append(entry.received_ms)
        self.customers[event.customer_id].append(entry)
        if event.key:
            self.keys[event.customer_id, event.key] = event.number
        series = self._series[event.customer_id, event.event_type]
        series.append(entry.received_ms, Decimal(event.value), len(self.log) - 1)

    def recount(
        self, customer_id: str, period: Period, by: ClosingRules, until: int | None = None
    ) -> dict[str, Figure]:
        """What that customer's period comes to; or came to, when the log had so many events."""
        figures = {}
        for event_type, operation in by.operations.items():
            series = self._series.get((customer_id, event_type))
            if series is not None:
                start, end = series.bounds(period, until)
                if start < end:
                    figures[event_type] = series.figure(operation, start, end)
        return figures

    def customers_in(self, period: Period) -> set[str]:
        """Who has events in that period."""
        return {
            customer_id
            for (customer_id, _), series in self._series.items()
            if operator.lt(*series.bounds(period))
        }

    def first_behind(self, instant_ms: int) -> int | None:
        """When the first event came that was not before that moment."""
        place = bisect_left(self.times, instant_ms)
        return self.times[place] if place < len(self.times) else None
