"""Reads a span of the log, and holds against it what is made of it: the totals of its hours, and
what the indexes and idempotency keys have of it.

One pass in the order of the log, an hour at a time. Behind the mark ``posted`` each customer's
events are counted up to some event of its own, and none after it: that much may be missing in its
totals and index, and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import count, islice, repeat
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.digests import UNKNOWN
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded import journal, keys, log, queries
from meterd.embedded.appended import Append
from meterd.embedded.dated import dated_events
from meterd.embedded.differences import NOTHING, UNPOSTED, Difference, period_name
from meterd.embedded.hour_chains import HourChains
from meterd.embedded.index_check import BlockIndex, TypeIndex
from meterd.embedded.key_check import KeyCheck
from meterd.embedded.log_shape import LogShape
from meterd.embedded.marks import check_closed
from meterd.embedded.recount import HourRecount
from meterd.embedded.totals_check import compare, compare_counts, join, totals_in
from meterd.embedded.void_check import VoidCheck

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from meterd.domain.event_ids import Stamp
    from meterd.domain.events import UsageEvent
    from meterd.domain.voids import Void
    from meterd.embedded.appended import Placed
    from meterd.embedded.differences import Checking
    from meterd.embedded.log import Block
    from meterd.embedded.marks import Marks
    from meterd.embedded.transaction import Transaction

_PROGRESS_RECORDS: Final = 500
_LOOKED_UP_MAX: Final = 100_000


class Span(msgspec.Struct, frozen=True):
    """What was received in whole hours: from that moment on and before ``end_ms``, if there is one.

    All behind the mark ``posted`` and in its hour is of one span.
    """

    start_ms: int
    end_ms: int | None = None

    @property
    def ids(self) -> tuple[bytes, bytes | None]:
        """Its events' ids are not less than the first, and less than the second."""
        start = queries.id_at(self.start_ms) if self.start_ms else b""
        return start, None if self.end_ms is None else queries.id_at(self.end_ms)


class SpanFound(msgspec.Struct):
    """What was found of a span: its hours, and how many entries of the indexes are of it."""

    hours: set[int]
    by_customer: int
    by_hour: int
    used_keys: int


class SpanCheck:
    """See above."""

    def __init__(
        self, txn: Transaction, parts: int, marks: Marks, span: Span, checking: Checking
    ) -> None:
        self._txn = txn
        self._parts = parts
        self._marks = marks
        self._start, self._end = span.ids
        self._checking = checking
        self._by_type = TypeIndex(txn, self._start, self._end)
        self._by_customer = BlockIndex(txn, parts, is_by_hour=False)
        self._by_hour = BlockIndex(txn, parts, is_by_hour=True)
        self._keys = KeyCheck(txn, parts, marks, checking)
        self._hour: Period | None = None
        self._hours: set[int] = set()
        self._recount = HourRecount(parts)
        self._chains = HourChains()
        # What comes next may be of it, too.
        self._append: Append | None = None
        self._voids = VoidCheck(txn, parts, self._start, self._end)
        # Who has void events in the hour.
        self._voided: set[str] = set()
        # Blocks with counted events of another hour than their own, by that, customer and type.
        self._dated: defaultdict[tuple[Period, str, str], list[bytes]] = defaultdict(list)
        # Through which event a customer's are counted in an hour, whether that is closed.
        self._counted: dict[tuple[Period, str], tuple[bytes, bool]] = {}
        self._unposted: set[str] = set()

    @property
    def found(self) -> SpanFound:
        """When it has been run."""
        return SpanFound(
            self._hours, self._by_customer.found, self._by_hour.found, self._keys.found
        )

    def run(self) -> Iterator[Difference]:
        """Every difference, in the order of the log."""
        counts = self._checking.counts
        expected = log.count_events(self._txn) - self._marks.pruned.events
        try:
            for number, (record_id, blocks, shape) in enumerate(self._records()):
                events = [event for block in blocks for event in block.events]
                if record_id >= self._start:
                    yield from shape.of_record(record_id, blocks)
                    event_types = {event.event_type for event in events}
                    yield from self._by_type.expect(sorted(event_types), record_id)
                is_plain = bool(blocks) and self._are_plain(events, blocks[-1].last_id)
                for block in blocks:
                    if self._start <= block.id and (self._end is None or block.id < self._end):
                        yield from self._block(block, is_plain=is_plain)
                if number % _PROGRESS_RECORDS == 0:
                    self._checking.progress("events", counts["events"], expected)
            yield from self._end_hour()
            yield from self._voids.finish()
            yield from self._by_type.finish()
        finally:
            self._recount.close()

    def check_others(self, hours: Iterable[Period]) -> Iterator[Difference]:
        """The same of hours in which nothing was received."""
        try:
            for hour in hours:
                self._count_dated(hour, are_early=True)
                yield from self._compare(hour)
                self._begin_hour()
        finally:
            self._recount.close()

    def _records(self) -> Iterator[tuple[bytes, Sequence[Block], LogShape]]:
        """Those with blocks of the span: the first may have begun before it."""
        shape = LogShape(self._marks.pruned.through)
        for record_id, payload in islice(self._txn.backward("events", self._start, b""), 1):
            blocks = log.blocks_in(record_id, payload)
            shape = LogShape.behind(blocks)
            yield record_id, blocks, shape
        for record_id, payload in self._txn.forward("events", self._start, b""):
            if self._end is not None and record_id >= self._end:
                return
            yield record_id, log.blocks_in(record_id, payload), shape

    def _are_plain(self, events: Sequence[UsageEvent], last: bytes) -> bool:
        """Whether nothing is to be said of any of a record's events but that it is counted in the
        hour in which it was received; ``last`` is the id of the last.
        """
        marks = self._marks
        return (
            last <= marks.posted
            and not self._voids.has_any(last)
            and not any([event.timestamp_ms is not None for event in events])  # noqa: C419 - faster
            and (
                last <= marks.forgotten or not any([event.idempotency_key for event in events])  # noqa: C419
            )
        )

    def _block(self, block: Block, *, is_plain: bool) -> Iterator[Difference]:
        """Gathers a block."""
        append = self._append
        if append is None or not append.has(block):
            yield from self._end_append()
            hour = period_at(PeriodType.HOURLY, block.stamp.received_ms)
            if hour is not self._hour:
                yield from self._end_hour()
                self._hour = hour
                self._hours.add(hour.start_ms)
                self._count_dated(hour, are_early=True)
            append = self._append = Append(block)
        placed: Iterable[Placed] = zip(count(block.begins_at), block.events, repeat(block.id))
        if not is_plain:
            placed = yield from self._counted_of(block, append, placed)
        append.add(placed)
        self._checking.counts["events"] += len(block.events)

    def _counted_of(
        self, block: Block, append: Append, placed: Iterable[Placed]
    ) -> Generator[Difference, None, Sequence[Placed]]:
        """Returns those of a block that count in the hour, or did until they were void."""
        _, stamp, events, begins_at = block
        assert self._hour is not None
        hour, last = self._hour, block.last_id
        if last > self._marks.posted:
            placed = yield from self._posted(hour, append.stamp, placed)
        if any([event.timestamp_ms is not None for event in events]):  # noqa: C419 - faster
            append.is_dated = True
            placed = self._received_in(hour, placed)
        placed = list(placed)
        void = yield from self._voids.of_block(stamp, events)
        self._take_out(append, placed, {begins_at + offset: one for offset, one in void.items()})
        has_keys = any([event.idempotency_key for event in events])  # noqa: C419 - faster
        if has_keys and last > self._marks.forgotten:
            self._keys.use(stamp, events)
        return placed

    def _received_in(self, hour: Period, placed: Iterable[Placed]) -> Iterator[Placed]:
        """Those that happened in that hour; the others are counted in their own, by the index."""
        start_ms, end_ms = hour.start_ms, hour.end_ms
        for one in placed:
            _, event, block_id = one
            happened_ms = event.timestamp_ms
            if happened_ms is None or start_ms <= happened_ms < end_ms:
                yield one
                continue
            its_hour = period_at(PeriodType.HOURLY, happened_ms)
            self._recount.note(event, block_id)
            blocks = self._dated[its_hour, event.customer_id, event.event_type]
            if not blocks or blocks[-1] != block_id:
                blocks.append(block_id)

    def _take_out(self, append: Append, placed: Iterable[Placed], void: Mapping[int, Void]) -> None:
        """Those that are void, by their offsets: they stay in the chain, and in the index."""
        for offset, event, block_id in placed if void else ():
            if offset in void:
                append.void.add(offset)
                self._recount.note(event, block_id)
                self._voided.add(event.customer_id)
                event_id = append.stamp.id(offset, keys.part_of(event.customer_id, self._parts))
                self._chains.expect(event.customer_id, event_id, void[offset])

    def _end_append(self) -> Iterator[Difference]:
        """Counts what was gathered."""
        append, self._append = self._append, None
        if append is not None:
            self._count(append)
            if self._recount.is_full:
                yield from self._fold()

    def _count(self, append: Append) -> None:
        void = append.void
        for customer_id, placed in append.by_customer.items():
            self._chains.add(append.id, customer_id, placed)
            counted = [one for one in placed if one[0] not in void] if void else placed
            if counted:
                self._recount.count(customer_id, counted, are_dated=append.is_dated)

    def _count_dated(self, hour: Period, *, are_early: bool) -> None:
        """Counts what happened in that hour and was received before it, or else behind it."""
        append: Append | None = None
        for block, events in dated_events(self._txn, hour, are_early=are_early):
            if append is not None and not append.has(block):
                self._count(append)
                append = None
                if self._recount.is_full:
                    self._recount.fold()
            if append is None:
                append = Append(block)
                append.is_dated = True
            counted = [
                (offset, event)
                for offset, event in events
                if self._is_counted(hour, event, block.stamp.id(offset))
            ]
            void, begins_at = self._voids.among(block.stamp, counted), block.begins_at
            placed = [(begins_at + offset, event, block.id) for offset, event in counted]
            append.add(placed)
            self._take_out(
                append, placed, {begins_at + offset: one for offset, one in void.items()}
            )
        if append is not None:
            self._count(append)
        self._recount.fold()

    def _is_counted(self, hour: Period, event: UsageEvent, event_id: bytes) -> bool:
        """In the totals of that hour, by how far these say they have come."""
        if event_id <= self._marks.posted:
            return True
        through, _ = self._through(hour, event.customer_id)
        return event_id <= through

    def _posted(
        self, hour: Period, append: Stamp, placed: Iterable[Placed]
    ) -> Generator[Difference, None, list[Placed]]:
        """Returns those of a block behind the mark that are counted in their hour's totals."""
        counted = []
        for one in placed:
            offset, event, _ = one
            its_hour = _hour_of(event, hour)
            through, closed = self._through(its_hour, event.customer_id)
            event_id = append.id(offset)
            if event_id <= max(through, self._marks.posted):
                counted.append(one)
                if event.customer_id in self._unposted:
                    should = "counted behind the customer's earlier events"
                    yield _of(event, hour, "event " + event_id.hex(), "counted before them", should)
                continue
            self._unposted.add(event.customer_id)
            self._checking.counts[UNPOSTED] += 1
            # What came late is posted as late as anything.
            if its_hour is hour and (closed or self._marks.must_be_closed(hour)):
                should = "counted: its hour is closed"
                yield _of(event, hour, "event " + event_id.hex(), "not counted", should)
        return counted

    def _through(self, hour: Period, customer_id: str) -> tuple[bytes, bool]:
        found = self._counted.get((hour, customer_id))
        if found is None:
            part = keys.part_of(customer_id, self._parts)
            totals = journal.read_totals(self._txn, part, hour, customer_id)
            found = (b"", False) if totals is None else (totals.through, totals.closed)
            if len(self._counted) >= _LOOKED_UP_MAX:
                self._counted.clear()
            self._counted[hour, customer_id] = found
        return found

    def _fold(self) -> Iterator[Difference]:
        # In the order of keys, or each would be looked for on a page of its own.
        for (customer_id, event_type), blocks in sorted(self._recount.fold().items()):
            yield from self._by_customer.expect(None, customer_id, event_type, blocks)
        dated, self._dated = self._dated, defaultdict(list)
        for (hour, customer_id, event_type), blocks in sorted(dated.items()):
            yield from self._by_hour.expect(hour, customer_id, event_type, blocks)
        yield from self._keys.compare()

    def _end_hour(self) -> Iterator[Difference]:
        yield from self._end_append()
        yield from self._fold()
        if self._hour is not None:
            yield from self._compare(self._hour)
        self._begin_hour()

    def _begin_hour(self) -> None:
        self._recount.close()
        self._recount = HourRecount(self._parts)
        self._chains = HourChains()
        self._counted.clear()
        self._voided.clear()

    def _compare(self, hour: Period) -> Iterator[Difference]:
        """What was counted in that hour with what stands there."""
        self._count_dated(hour, are_early=False)
        marks = self._marks
        is_pruned = marks.may_lack_events(hour)
        stored = (
            found for part in range(self._parts) for found in totals_in(self._txn, part, hour)
        )
        for customer, counted, stands in join(self._recount.totals(), stored):
            customer_id = customer[1:].decode()
            by_type = {} if stands is None else stands.by_type
            check = compare_counts if is_pruned else compare
            yield from check(hour, customer_id, by_type, counted or {})
            if stands is None:
                continue
            self._checking.counts["totals"] += 1
            if not (by_type or is_pruned or customer_id in self._voided):
                name = period_name(hour)
                yield Difference("totals", "record", "empty", NOTHING, customer_id, name)
            yield from check_closed(marks, hour, customer_id, closed=stands.closed)
            chain = self._chains.of(customer_id)
            if not is_pruned and stands.chain not in {UNKNOWN, chain}:
                name = period_name(hour)
                yield Difference(
                    "totals", "digest", stands.chain.hex(), chain.hex(), customer_id, name
                )
            last = max((one.last_at[8:] for one in by_type.values()), default=b"")
            if not last <= stands.through <= marks.last_id:
                should = f"from {last.hex()} to {marks.last_id.hex()}"
                name = period_name(hour)
                yield Difference(
                    "totals", "through", stands.through.hex(), should, customer_id, name
                )


def _hour_of(event: UsageEvent, received: Period) -> Period:
    """In which it is counted that was received in that one."""
    happened_ms = event.timestamp_ms
    if happened_ms is None or received.start_ms <= happened_ms < received.end_ms:
        return received
    return period_at(PeriodType.HOURLY, happened_ms)


def _of(event: UsageEvent, hour: Period, what: str, stands: str, should: str) -> Difference:
    name = period_name(hour)
    return Difference("totals", what, stands, should, event.customer_id, name, event.event_type)
