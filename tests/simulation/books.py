"""What an accountant would keep of the same events: who sent what, what is stored, in fractions.

Nothing here is derived by meterd's own arithmetic: a period's result is counted anew from the list
of its values, each time somebody claims one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import msgspec

from meterd.domain.aggregations import Figure
from meterd.domain.instants import format_instant
from meterd.domain.periods import PeriodType, period_at
from tests.model_ledger import result_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.operations import Operation
    from meterd.domain.periods import Period
    from meterd.domain.voids import Void


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
    # When it says that it happened, if it does.
    timestamp_ms: int | None = None

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
        if self.timestamp_ms is not None:
            document["timestamp"] = format_instant(self.timestamp_ms)
        return document


class Entry(msgspec.Struct, frozen=True):
    """An event as it is stored, at that place in the log."""

    number: int
    received_ms: int
    happened_ms: int
    id: bytes
    place: int


class _Series:
    """One customer's values of one type that count, by when they happened, then as stored."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.values: list[Decimal] = []
        self.places: list[int] = []
        # Of all values before that place, as far as they were asked for since the last change: a
        # year's sum would take its time.
        self._sums = [Fraction(0)]

    def add(self, entry: Entry, value: Decimal) -> None:
        at = bisect_right(self.times, entry.happened_ms)
        self.times.insert(at, entry.happened_ms)
        self.values.insert(at, value)
        self.places.insert(at, entry.place)
        del self._sums[at + 1 :]

    def remove(self, entry: Entry) -> None:
        at = bisect_left(self.times, entry.happened_ms)
        at = self.places.index(entry.place, at)
        del self.times[at], self.values[at], self.places[at], self._sums[at + 1 :]

    def bounds(self, period: Period) -> tuple[int, int]:
        start = bisect_left(self.times, period.start_ms)
        return start, bisect_left(self.times, period.end_ms, start)

    def figure(self, operation: Operation, period: Period, until: int | None) -> Figure | None:
        start, end = self.bounds(period)
        if start == end:
            return None
        values = self.values[start:end]
        if until is not None and max(self.places[start:end]) >= until:
            places = self.places[start:end]
            values = [one for one, place in zip(values, places, strict=True) if place < until]
            total = sum(map(Fraction, values), Fraction(0))
        else:
            total = self._sum(end) - self._sum(start)
        return (
            Figure(operation, result_of(operation, values, total), len(values)) if values else None
        )

    def _sum(self, end: int) -> Fraction:
        sums = self._sums
        while len(sums) <= end:
            sums.append(sums[-1] + Fraction(self.values[len(sums) - 1]))
        return sums[end]


class Books:
    """Everything that was ever sent, the log, and what of it was taken back."""

    def __init__(self) -> None:
        self.sent: dict[int, Sent] = {}
        self.stored: dict[int, Entry] = {}
        self.log: list[Entry] = []
        self.by_id: dict[bytes, Entry] = {}
        self.voids: dict[bytes, Void] = {}
        self.customers: defaultdict[str, list[Entry]] = defaultdict(list)
        self.keys: dict[tuple[str, str], int] = {}
        # So many of the log are deleted, and so many of a customer's; their last hour's end.
        self.pruned = self.pruned_until_ms = 0
        self.pruned_of: Counter[str] = Counter()
        # When each happened, and its place in the log.
        self._times: list[tuple[int, int]] = []
        self._series: defaultdict[tuple[str, str], _Series] = defaultdict(_Series)

    def sending(self, event: Sent) -> None:
        """Before its first byte is sent."""
        self.sent.setdefault(event.number, event)

    def enter(self, event: Sent, received_ms: int, event_id: bytes) -> Entry:
        """It is in the log, on disk."""
        happened_ms = received_ms if event.timestamp_ms is None else event.timestamp_ms
        entry = Entry(event.number, received_ms, happened_ms, event_id, len(self.log))
        self.stored[event.number] = self.by_id[event_id] = entry
        self.log.append(entry)
        insort(self._times, (happened_ms, entry.place))
        self.customers[event.customer_id].append(entry)
        if event.key:
            self.keys[event.customer_id, event.key] = event.number
        self._series_of(event).add(entry, Decimal(event.value))
        return entry

    def prune(self, through: bytes) -> list[Entry]:
        """All up to that one are deleted, on disk; returns those that were not."""
        # Whose part it is, is not said there.
        end = bisect_right(self.log, through[:-1], key=lambda entry: entry.id[:-1])
        gone = self.log[self.pruned : end]
        self.pruned = max(self.pruned, end)
        for entry in gone:
            self.pruned_of[self.sent[entry.number].customer_id] += 1
            for instant_ms in (entry.received_ms, entry.happened_ms):
                hour = period_at(PeriodType.HOURLY, instant_ms)
                self.pruned_until_ms = max(self.pruned_until_ms, hour.end_ms)
        return gone

    def take_back(self, entry: Entry, void: Void) -> None:
        """It is void, on disk."""
        self.voids[entry.id] = void
        self._series_of(self.sent[entry.number]).remove(entry)

    @contextmanager
    def before_taking_back(self, entries: Iterable[Entry]) -> Iterator[None]:
        """As if these were not void yet."""
        found = [(entry, self.sent[entry.number]) for entry in entries]
        for entry, event in found:
            self._series_of(event).add(entry, Decimal(event.value))
        yield
        for entry, event in found:
            self._series_of(event).remove(entry)

    def recount(
        self, customer_id: str, period: Period, by: ClosingRules, until: int | None = None
    ) -> dict[str, Figure]:
        """What that customer's period comes to; or came to, when the log had so many events."""
        return self.figures(customer_id, period, by.operations, until)

    def figures(
        self,
        customer_id: str,
        period: Period,
        operations: Mapping[str, Operation],
        until: int | None = None,
    ) -> dict[str, Figure]:
        """The same, of these types."""
        figures = {}
        for event_type, operation in operations.items():
            series = self._series.get((customer_id, event_type))
            figure = series and series.figure(operation, period, until)
            if figure:
                figures[event_type] = figure
        return figures

    def moments(self, customer_id: str, period: Period, since: int = 0) -> Iterator[int]:
        """Lengths of the log from that one on, the greatest first: one for each thing that the
        customer's period may have come to.
        """
        places: list[int] = []
        for (whose, _), series in self._series.items():
            if whose == customer_id:
                start, end = series.bounds(period)
                places += series.places[start:end]
        yield len(self.log)
        yield from sorted((place for place in places if place >= since), reverse=True)

    def customers_in(self, period: Period, until: int) -> set[str]:
        """Who had events in that period, when the log had so many."""
        found = set()
        for (customer_id, _), series in self._series.items():
            start, end = series.bounds(period)
            if start < end and min(series.places[start:end]) < until:
                found.add(customer_id)
        return found

    def first_behind(self, instant_ms: int, until: int | None = None) -> int | None:
        """When the first event happened that was not before that moment, of so many in the log."""
        for at in range(bisect_left(self._times, (instant_ms, 0)), len(self._times)):
            happened_ms, place = self._times[at]
            if until is None or place < until:
                return happened_ms
        return None

    def _series_of(self, event: Sent) -> _Series:
        return self._series[event.customer_id, event.event_type]
