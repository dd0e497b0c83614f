"""Holds against the log what is made of it: totals of hours, indexes, idempotency keys, and the
count of events. It is read in spans of hours, here or by several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded import keys, log, queries
from meterd.embedded.differences import PRUNED, Difference, at_key
from meterd.embedded.index_check import BlockIndex
from meterd.embedded.span_check import Span, SpanCheck, SpanFound
from meterd.embedded.totals_check import starts

if TYPE_CHECKING:
    from meterd.domain.events import UsageEvent
    from meterd.embedded.differences import Checking
    from meterd.embedded.marks import Marks
    from meterd.embedded.transaction import Transaction

# Checks these spans, and says what was found of each; counts and progress are in ``checking``.
RunSpans = Callable[[Sequence[Span], "Checking"], Iterator[Difference | SpanFound]]


class LogCheck:
    """See above. The log is cut into so many spans at most."""

    def __init__(
        self,
        txn: Transaction,
        parts: int,
        marks: Marks,
        checking: Checking,
        run_spans: RunSpans | None = None,
        spans_max: int = 1,
    ) -> None:
        self._txn = txn
        self._parts = parts
        self._marks = marks
        self._checking = checking
        self._run_spans = run_spans or self._run_here
        self._spans_max = spans_max
        self._found = SpanFound(set(), 0, 0, 0)

    def run(self) -> Iterator[Difference]:
        """Every difference; of each span in the order of the log."""
        counts, pruned = self._checking.counts, self._marks.pruned.events
        expected = log.count_events(self._txn) - pruned
        spans = _spans(self._txn, self._marks, self._spans_max)
        for found in self._run_spans(spans, self._checking):
            if isinstance(found, SpanFound):
                self._add(found)
            else:
                yield found
        self._checking.progress("events", counts["events"], expected)
        counts[PRUNED] = pruned
        if counts["events"] != expected:
            stands, should = str(expected + pruned), str(counts["events"] + pruned)
            yield Difference("meta", "count of events", stands, should)
        found = self._found
        by_customer = BlockIndex(self._txn, self._parts, is_by_hour=False)
        mark = self._marks.pruned
        yield from by_customer.finish(self._checking, mark, found.by_customer)
        by_hour = BlockIndex(self._txn, self._parts, is_by_hour=True)
        yield from by_hour.finish(self._checking, mark, found.by_hour)
        yield from self._other_hours()
        counts["idempotency keys"] += self._txn.count("idempotency_keys")
        if found.used_keys != counts["idempotency keys"]:
            yield from self._other_keys()

    def _run_here(
        self, spans: Sequence[Span], checking: Checking
    ) -> Iterator[Difference | SpanFound]:
        for span in spans:
            check = SpanCheck(self._txn, self._parts, self._marks, span, checking)
            yield from check.run()
            yield check.found

    def _add(self, found: SpanFound) -> None:
        total = self._found
        total.hours |= found.hours
        total.by_customer += found.by_customer
        total.by_hour += found.by_hour
        total.used_keys += found.used_keys

    def _other_hours(self) -> Iterator[Difference]:
        """Hours in which nothing was received."""
        stored = {
            hour
            for part in range(self._parts)
            for hour in starts(self._txn, part, PeriodType.HOURLY)
        }
        others = sorted(stored | set(self._dated_hours()))
        check = SpanCheck(self._txn, self._parts, self._marks, Span(0), self._checking)
        yield from check.check_others(
            hour for hour in others if hour.start_ms not in self._found.hours
        )

    def _dated_hours(self) -> Iterator[Period]:
        """Those of ``blocks_by_hour``, found with one seek for each."""
        start = b""
        while (key := self._txn.first_key("blocks_by_hour", start)) is not None:
            hour = keys.hour_of_blocks(key)
            yield hour
            start = keys.hour(hour.end_ms)

    def _other_keys(self) -> Iterator[Difference]:
        """Keys of no event, found by reading the log at each."""
        for key, payload in self._txn.forward("idempotency_keys", b"", b""):
            event = self._event(payload[:ID_BYTES])
            wanted = None
            if event is not None and event.idempotency_key:
                part = keys.part_of(event.customer_id, self._parts)
                wanted = keys.idempotency_key(part, event.customer_id, event.idempotency_key)
            is_forgotten = stamp_of(payload[:ID_BYTES]).id() <= self._marks.forgotten
            if wanted != key or is_forgotten:
                should = "nothing: it has another key, or none any more, or is not there"
                yield at_key("idempotency_keys", key, "event", payload.hex(), should)

    def _event(self, event_id: bytes) -> UsageEvent | None:
        return log.event_at(self._txn, stamp_of(event_id))


def _spans(txn: Transaction, marks: Marks, spans_max: int) -> list[Span]:
    """All of the log, in spans of about as many hours with events."""
    hours = list(_hours(txn, marks)) if spans_max > 1 else []
    cuts = [0, *hours[:: -(-len(hours) // spans_max) or 1][1:]]
    return [Span(start, end) for start, end in zip(cuts, [*cuts[1:], None], strict=True)]


def _hours(txn: Transaction, marks: Marks) -> Iterator[int]:
    """When those of the log's hours begin that a span may begin with."""
    posted_ms = stamp_of(marks.posted).received_ms if marks.posted else 0
    start = b""
    while (key := txn.first_key("events", start)) is not None:
        hour = period_at(PeriodType.HOURLY, stamp_of(key).received_ms)
        if hour.start_ms > posted_ms:
            return
        yield hour.start_ms
        if start >= (start := queries.id_at(hour.end_ms)):
            return  # behind a key that is none, which is said of its record
