"""Checks every transaction, the moment it is on disk, against the books.

Stored is only what was sent, and once; what closes has ended, is closed once, in order, and comes
to what the recount says; and its deliveries are made with it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import xxhash

from meterd.domain.aggregations import ClosingRules
from meterd.domain.deliveries import delivery_id
from meterd.domain.event_ids import Stamp, stamp_of
from meterd.domain.periods import PeriodType, period_at
from meterd.embedded import keys, records
from meterd.embedded.store import PARTS
from tests.simulation.books import Books, BrokenPromiseError, Entry
from tests.simulation.parcels import Parcels

if TYPE_CHECKING:
    from meterd.domain.aggregations import Aggregation, Figure
    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent
    from meterd.domain.periods import Period
    from tests.simulation.clock import VirtualClock
    from tests.simulation.disk import Written
    from tests.simulation.trace import Trace

_KIND_OF_CLOSED_KEY = {keys.closed_key(kind): kind for kind in PeriodType}


class InForce(msgspec.Struct):
    """Rules and grace, and how many periods were closed when others took their place."""

    rules: ClosingRules
    grace_ms: int
    until: int | None = None


class Oracle:
    """See above; ``parcels`` has the deliveries."""

    def __init__(self, clock: VirtualClock, trace: Trace) -> None:
        self.books = Books()
        self.closed: dict[tuple[str, Period], Aggregation] = {}
        self.closed_until: dict[PeriodType, int] = dict.fromkeys(PeriodType, 0)
        self._triggers = 0
        # How many events were in the log when the first trigger began that may still go on.
        self._asked_for_at = 0
        self._in_force: list[InForce] = []
        self._closings = 0
        self._closed_in: defaultdict[Period, set[str]] = defaultdict(set)
        self._last_closed: Period | None = None
        self._clock = clock
        self._trace = trace
        self.parcels = Parcels(trace, lambda *place: place in self.closed)

    # What it is told

    def started(self, rules: ClosingRules, grace_ms: int) -> None:
        """A daemon has started with these: no other one is in force any more."""
        self._in_force = [InForce(rules, grace_ms)]
        self._triggers = 0
        self.parcels.started()

    def triggering(self) -> None:
        """A trigger is sent."""
        if not self._triggers:
            self._asked_for_at = len(self.books.log)
        self._triggers += 1

    def triggered(self) -> None:
        """It was answered; one that was not may go on until the daemon ends."""
        self._triggers = max(0, self._triggers - 1)

    def reconfigured(self, rules: ClosingRules, grace_ms: int) -> None:
        self._in_force[-1].until = self._closings
        self._in_force.append(InForce(rules, grace_ms))

    def candidates(self) -> list[InForce]:
        """What a closing that is under way may have begun with."""
        self._in_force = [
            one for one in self._in_force if one.until is None or one.until >= self._closings - 2
        ]
        return self._in_force

    def committed(self, written: Written) -> None:
        """A transaction is on disk. Raises BrokenPromiseError."""
        aggregations: list[Aggregation] = []
        deliveries: dict[str, Delivery] = {}
        totals_closed: list[tuple[str, Period]] = []
        closed_kinds: list[tuple[PeriodType, int]] = []
        # In order: a set of event types has none, and what is on disk is the same.
        seal = xxhash.xxh3_64()
        for table, key, payload in sorted(written.puts):
            seal.update(table.encode() + key + payload)
        for table, key, payload in written.puts:
            if table == "events":
                self._log(key, payload)
            elif table == "aggregations":
                aggregations.append(records.decode_aggregation(payload))
            elif table == "deliveries":
                delivery = records.decode_delivery(payload)
                deliveries[delivery.id] = delivery
            elif table == "totals" and records.decode_totals(payload).closed:
                totals_closed.append((keys.totals_customer(key), keys.totals_period(key)))
            elif table == "meta" and key in _KIND_OF_CLOSED_KEY:
                closed_kinds.append((_KIND_OF_CLOSED_KEY[key], records.read_number(payload)))
        self._trace.add(f"commit {len(written.puts)} {seal.hexdigest()}")
        for aggregation in aggregations:
            self._published(aggregation, deliveries)
        for place in totals_closed:
            self._totals_closed(*place)
        for table, key in written.deletes:
            if table == "aggregations":
                self._withdrawn(key)
        self.parcels.committed(written)
        for kind, until_ms in closed_kinds:
            self._period_closed(kind, until_ms)

    # What it checks

    def _log(self, key: bytes, payload: bytes) -> None:
        first = stamp_of(key)
        for block in records.decode_record(payload):
            stamp = block.stamp(first)
            for offset, event in enumerate(block.events):
                self._event(stamp, offset, event)

    def _event(self, stamp: Stamp, offset: int, event: UsageEvent) -> None:
        number = json.loads(event.metadata)["n"]
        sent = self.books.sent.get(number)
        if sent is None or sent.is_unfit:
            raise BrokenPromiseError("wrong", f"event {number} is stored and must not be")
        told = (event.customer_id, event.event_type, event.value, event.idempotency_key)
        if told != (sent.customer_id, sent.event_type, Decimal(sent.value), sent.key):
            raise BrokenPromiseError("wrong", f"event {number} is stored as {event}")
        if number in self.books.stored:
            raise BrokenPromiseError("twice", f"event {number} is stored again")
        if sent.key and (sent.customer_id, sent.key) in self.books.keys:
            raise BrokenPromiseError("twice", f"key {sent.key} counts again, event {number}")
        part = keys.part_of(event.customer_id, PARTS)
        entry = Entry(number, stamp.received_ms, stamp.id(offset, part))
        last = self.books.log[-1] if self.books.log else None
        if last is not None and (
            entry.received_ms < last.received_ms or entry.id[:-1] <= last.id[:-1]
        ):
            raise BrokenPromiseError("wrong", f"event {number} is dated before the one before it")
        final_ms = self.closed_until[PeriodType.HOURLY]
        if entry.received_ms < final_ms:
            raise BrokenPromiseError("wrong", f"event {number} is dated in a closed hour")
        earliest_ms = last.received_ms if last is not None else 0
        if entry.received_ms > max(self._clock.latest_ms, final_ms, earliest_ms):
            raise BrokenPromiseError("wrong", f"event {number} is dated in the future")
        self.books.enter(sent, entry)

    def _published(self, made: Aggregation, deliveries: dict[str, Delivery]) -> None:
        period, customer_id = made.period, made.customer_id
        if (customer_id, period) in self.closed:
            self._replayed(made)
            return
        rules = [one.rules for one in self.candidates()]
        if not made.closed:
            self._snapshot(made, rules)
            return
        expected = [self.books.recount(customer_id, period, by) for by in rules]
        places = [place for place, figures in enumerate(expected) if figures == made.figures]
        if not places:
            raise BrokenPromiseError("wrong", f"{made.id} is {made.figures}, not {expected}")
        if made.endpoints not in [rules[place].endpoints for place in places]:
            raise BrokenPromiseError("wrong", f"{made.id} goes to {made.endpoints}")
        self._in_time(made)
        if self._last_closed is not None and period < self._last_closed:
            raise BrokenPromiseError("wrong", f"{made.id} closed after {self._last_closed.key}")
        self._last_closed = period
        self.closed[customer_id, period] = made
        self._trace.seen["aggregations closed"] += 1
        for endpoint_id in made.endpoints:
            delivery = deliveries.get(delivery_id(endpoint_id, made.id, made.revision))
            if delivery is None:
                raise BrokenPromiseError("lost", f"{made.id} closed without its deliveries")
            _require_body(delivery.body, made, made.figures)

    def _replayed(self, made: Aggregation) -> None:
        """It is written again for one more endpoint, which an operator wants to have it."""
        closed = self.closed[made.customer_id, made.period]
        more = made.endpoints[len(closed.endpoints) :]
        if made != msgspec.structs.replace(closed, endpoints=(*closed.endpoints, *more)):
            raise BrokenPromiseError("twice", f"{made.id} is written after it was closed")
        if not all(self.parcels.was_asked_for(one, made.period) for one in more):
            raise BrokenPromiseError("wrong", f"{made.id} is to go to {more}")
        self.closed[made.customer_id, made.period] = made

    def _snapshot(self, made: Aggregation, rules: list[ClosingRules]) -> None:
        """As of some moment since it was asked for."""
        self._trace.seen["snapshots"] += 1
        for until in range(len(self.books.log), self._asked_for_at - 1, -1):
            for by in rules:
                if self.books.recount(made.customer_id, made.period, by, until) == made.figures:
                    return
        raise BrokenPromiseError("wrong", f"the snapshot {made.id} is {made.figures}")

    def _totals_closed(self, customer_id: str, period: Period) -> None:
        """Once, and with an aggregation unless there is nothing to be published."""
        is_over = period.end_ms <= self.closed_until[period.type]
        if is_over or customer_id in self._closed_in[period]:
            raise BrokenPromiseError("twice", f"{customer_id}, {period.key} is closed again")
        self._closed_in[period].add(customer_id)
        if (customer_id, period) in self.closed:
            return
        rules = [one.rules for one in self.candidates() if period.type in one.rules.published]
        may_be_silent = len(rules) < len(self._in_force) or not all(
            self.books.recount(customer_id, period, by) for by in rules
        )
        if not may_be_silent:
            raise BrokenPromiseError("lost", f"{customer_id}, {period.key} is not published")

    def _in_time(self, made: Aggregation) -> None:
        """It has ended; without a trigger its grace is over too."""
        grace_ms = 0 if self._triggers else min(one.grace_ms for one in self.candidates())
        if made.period.end_ms + grace_ms > self._clock.latest_ms:
            raise BrokenPromiseError("wrong", f"{made.id} closed too early")

    def _withdrawn(self, key: bytes) -> None:
        kind, start_ms = tuple(PeriodType)[key[1]], keys.start_of(key[2:6])
        if (key[6:].decode(), period_at(kind, start_ms)) in self.closed:
            raise BrokenPromiseError("lost", f"a closed aggregation is deleted: {key!r}")

    def _period_closed(self, kind: PeriodType, until_ms: int) -> None:
        if until_ms < self.closed_until[kind]:
            raise BrokenPromiseError("wrong", f"{kind} periods are opened again")
        period = period_at(kind, until_ms - 1)
        self._trace.count("closed")
        self._trace.add(f"closed {kind} {period.key}")
        missing = self.books.customers_in(period) - self._closed_in.pop(period, set())
        if missing:
            raise BrokenPromiseError("lost", f"{kind} {period.key} closed without {missing}")
        overlooked_ms = self.books.first_behind(self.closed_until[kind])
        if overlooked_ms is not None and overlooked_ms < period.start_ms:
            raise BrokenPromiseError("lost", f"{kind} {period.key} closed before an earlier one")
        self.closed_until[kind] = until_ms
        self._closings += 1

    def overdue(self, by_ms: int) -> Period | None:
        """A period with events whose grace was over by so much, and that is still open."""
        grace_ms = max(one.grace_ms for one in self.candidates())
        for kind in PeriodType:
            first_ms = self.books.first_behind(self.closed_until[kind])
            if first_ms is not None:
                period = period_at(kind, first_ms)
                if period.end_ms + grace_ms + by_ms <= self._clock.now_ms():
                    return period
        return None


def _require_body(body: bytes, made: Aggregation, figures: dict[str, Figure]) -> None:
    """The webhook says what the recount says, in the words of the contract."""
    told = json.loads(body)
    data = told["data"]
    start, end = (dt.datetime.fromisoformat(data[name]) for name in ("periodStart", "periodEnd"))
    span_ms = round((end - start) / dt.timedelta(milliseconds=1)) + 1
    is_right = (
        told["type"] == "aggregation.completed"
        and told["customerId"] == made.customer_id
        and told["period"] == made.period_type
        and start.timestamp() * 1000 == made.start_ms
        and span_ms == made.period.end_ms - made.start_ms
        and {name: Decimal(text) for name, text in data["exact"].items()}
        == {name: figure.value for name, figure in figures.items()}
        and data["eventCounts"] == {name: figure.count for name, figure in figures.items()}
    )
    if not is_right:
        raise BrokenPromiseError("wrong", f"the webhook of {made.id} says {body!r}")
