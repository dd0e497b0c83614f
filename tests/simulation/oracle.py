"""Checks every transaction, the moment it is on disk, against the books.

Stored is only what was sent, and once; what closes has ended, is closed once, in order, and comes
to what the recount says; what comes late or is taken back is published once more; and deliveries
are made with what they tell.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING

import trio
import xxhash

from meterd.domain.event_ids import stamp_of
from meterd.domain.periods import PeriodType, period_at
from meterd.embedded import keys, records
from meterd.embedded.store import PARTS
from tests.simulation.books import Books, BrokenPromiseError
from tests.simulation.parcels import Parcels
from tests.simulation.publications import Publications
from tests.simulation.regime import Regime
from tests.simulation.tellings import Tellings

if TYPE_CHECKING:
    from meterd.domain.config import Config
    from meterd.domain.deliveries import Delivery
    from meterd.domain.event_ids import Stamp
    from meterd.domain.events import UsageEvent
    from meterd.domain.periods import Period
    from tests.simulation.books import Entry, Sent
    from tests.simulation.clock import VirtualClock
    from tests.simulation.disk import Written
    from tests.simulation.trace import Trace

_KIND_OF_CLOSED_KEY = {keys.closed_key(kind): kind for kind in PeriodType}


class Oracle:
    """See above; ``parcels`` has the deliveries, ``publications`` what is published."""

    def __init__(self, clock: VirtualClock, trace: Trace) -> None:
        self.books = Books()
        self.regime = Regime()
        self.closed_until: dict[PeriodType, int] = dict.fromkeys(PeriodType, 0)
        # Numbers of events that an operator wants to be void, and why.
        self.to_be_void: dict[int, set[str]] = defaultdict(set)
        self._closed_in: defaultdict[Period, set[str]] = defaultdict(set)
        self._clock = clock
        self._trace = trace
        self.publications = Publications(self.books, self.regime, clock, trace, self.is_closed)
        self.tellings = Tellings(self.books, self.regime, trace, self._is_watched)
        self.parcels = Parcels(trace, self._is_to_be_sent)
        self.publications.was_asked_for = self.parcels.was_asked_for
        self.tellings.was_asked_for = self.parcels.was_asked_for

    # What it is told

    def started(self, config: Config) -> None:
        """A daemon has started with it: no other one is in force any more."""
        self.regime.started(config)
        self.tellings.reconfigured(self._clock.now_ms())
        self.parcels.started()

    def reconfigured(self, config: Config) -> None:
        self.regime.reconfigured(config)
        self.tellings.reconfigured(self._clock.now_ms())

    def committed(self, written: Written) -> None:
        """A transaction is on disk. Raises BrokenPromiseError."""
        before = len(self.books.log)
        puts: defaultdict[str, list[tuple[bytes, bytes]]] = defaultdict(list)
        # In order: a set of event types has none, and what is on disk is the same.
        seal = xxhash.xxh3_64()
        for table, key, payload in sorted(written.puts):
            seal.update(table.encode() + key + payload)
        for table, key, payload in written.puts:
            puts[table].append((key, payload))
        self._trace.add(f"commit {len(written.puts)} {seal.hexdigest()}")
        for key, payload in puts["events"]:
            self._log(key, payload)
        for key, payload in puts["meta"]:
            if key == keys.FLOOR:
                self.regime.floor_ms, self.regime.floor_at = records.read_number(payload), before
        self._prune(puts["meta"], written.deletes)
        self._take_back(puts["voids"])
        found = [records.decode_delivery(payload) for _, payload in puts["deliveries"]]
        deliveries = {one.id: one for one in found}
        superseded = [records.decode_aggregation(payload) for _, payload in puts["superseded"]]
        for _, payload in puts["aggregations"]:
            made = records.decode_aggregation(payload)
            self.publications.published(made, deliveries, superseded)
        for key, payload in puts["totals"]:
            if (totals := records.decode_closed(payload)).closed:
                place = keys.totals_customer(key), keys.totals_period(key)
                self._totals_closed(*place, totals.late_since_ms)
        for _, payload in puts["reached"]:
            self.tellings.reached(payload, deliveries)
        self._deleted(written.deletes, {key for key, _ in puts["aggregations"]})
        self.parcels.committed(written)
        for key, payload in puts["meta"]:
            if key in _KIND_OF_CLOSED_KEY:
                self._period_closed(_KIND_OF_CLOSED_KEY[key], records.read_number(payload))

    # What it is asked

    def is_closed(self, customer_id: str, period: Period) -> bool:
        """Whether what comes for that period, of that customer, is late."""
        is_over = period.end_ms <= self.closed_until[period.type]
        return is_over or customer_id in self._closed_in.get(period, ())

    def _is_watched(self, period: Period) -> bool:
        """The one behind it is not closed."""
        return period.end_ms >= self.closed_until[period.type]

    def _is_to_be_sent(self, delivery: Delivery) -> bool:
        """It tells of what was closed, or reached."""
        if delivery.threshold is not None:
            return self.tellings.is_told(delivery)
        return (delivery.customer_id, delivery.period) in self.publications.closed

    def may_refuse(self, event: Sent, since_s: float) -> bool:
        """Whether what was sent then may have been refused since for its time."""
        happened_ms = event.timestamp_ms
        if happened_ms is None:
            return False
        if self._clock.stepped_at_s >= since_s:
            return True
        admission = self.regime.newest.config.admission
        sent_ms = self._clock.now_ms() - int((trio.current_time() - since_s) * 1000) - 1
        earliest_ms = self._clock.latest_ms - admission.past_ms
        is_within = earliest_ms <= happened_ms <= sent_ms + admission.future_ms
        return not is_within or self.may_be_too_late(happened_ms)

    def may_be_too_late(self, happened_ms: int) -> bool:
        """Whether the hour may be closed, and events of such are refused."""
        end_ms = period_at(PeriodType.HOURLY, happened_ms).end_ms
        is_over = end_ms + self.regime.grace_least_ms <= self._clock.latest_ms
        # It may have closed before the grace became what it is.
        is_over = is_over or end_ms <= self.closed_until[PeriodType.HOURLY]
        return is_over and self.regime.rejects_late is not False

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
            raise BrokenPromiseError("wrong", f"{sent or number} is stored and must not be")
        told = (event.customer_id, event.event_type, event.value, event.idempotency_key)
        if (*told, event.timestamp_ms) != (
            sent.customer_id,
            sent.event_type,
            Decimal(sent.value),
            sent.key,
            sent.timestamp_ms,
        ):
            raise BrokenPromiseError("wrong", f"event {number} is stored as {event}")
        if number in self.books.stored:
            raise BrokenPromiseError("twice", f"event {number} is stored again")
        if sent.key and (sent.customer_id, sent.key) in self.books.keys:
            raise BrokenPromiseError("twice", f"key {sent.key} counts again, event {number}")
        part = keys.part_of(event.customer_id, PARTS)
        event_id, received_ms = stamp.id(offset, part), stamp.received_ms
        last = self.books.log[-1] if self.books.log else None
        if last is not None and (received_ms < last.received_ms or event_id[:-1] <= last.id[:-1]):
            raise BrokenPromiseError("wrong", f"event {number} is dated before the one before it")
        final_ms = self.closed_until[PeriodType.HOURLY]
        if received_ms < final_ms:
            raise BrokenPromiseError("wrong", f"event {number} is dated in a closed hour")
        earliest_ms = last.received_ms if last is not None else 0
        if received_ms > max(self._clock.latest_ms, final_ms, earliest_ms):
            raise BrokenPromiseError("wrong", f"event {number} is dated in the future")
        if sent.timestamp_ms is not None:
            self._require_admitted(sent.timestamp_ms, received_ms)
        entry = self.books.enter(sent, received_ms, event_id)
        self.publications.changed(sent.customer_id, entry.happened_ms, received_ms)
        self.tellings.changed(sent.customer_id, entry.happened_ms)

    def _require_admitted(self, happened_ms: int, received_ms: int) -> None:
        admission = self.regime.newest.config.admission
        is_late = happened_ms < self.closed_until[PeriodType.HOURLY]
        self._trace.seen["late events" if is_late else "dated events"] += 1
        ago_ms = received_ms - happened_ms
        if not -admission.future_ms <= ago_ms <= admission.past_ms:
            raise BrokenPromiseError("wrong", f"an event of {ago_ms} ms ago is stored")
        if is_late and self.regime.rejects_late:
            raise BrokenPromiseError("wrong", f"an event of {ago_ms} ms ago is stored, and late")

    def _take_back(self, puts: list[tuple[bytes, bytes]]) -> None:
        """Because an operator asked for it, once."""
        just_void = []
        for event_id, payload in puts:
            void, entry = records.decode_void(payload), self.books.by_id.get(event_id)
            if entry is None or void.reason not in self.to_be_void[entry.number]:
                raise BrokenPromiseError("wrong", f"{entry} is {void}, and nobody asked")
            if event_id in self.books.voids:
                raise BrokenPromiseError("twice", f"event {entry.number} is void again")
            is_late = entry.happened_ms < self.closed_until[PeriodType.HOURLY]
            self._trace.seen["late voids" if is_late else "voids"] += 1
            if is_late and self.regime.rejects_late:
                raise BrokenPromiseError("wrong", f"{entry} is void, and too late")
            self.books.take_back(entry, void)
            customer_id = self.books.sent[entry.number].customer_id
            self.publications.changed(customer_id, entry.happened_ms, void.voided_ms)
            self.tellings.changed(customer_id, entry.happened_ms)
            just_void.append(entry)
        self.publications.just_void = self.tellings.just_void = just_void

    def _prune(self, puts: list[tuple[bytes, bytes]], deletes: list[tuple[str, bytes]]) -> None:
        """As old as was said, and of no period that may still change; nothing else is deleted."""
        gone: list[Entry] = []
        for payload in (payload for key, payload in puts if key == keys.PRUNED):
            pruned = records.decode_pruned(payload)
            gone = self.books.prune(pruned.through)
            if pruned.events != self.books.pruned:
                raise BrokenPromiseError("wrong", f"{self.books.pruned} are pruned, not {pruned}")
            self._require_over(gone)
        # A record of the log has the name of its first event, but for the customer's part.
        names = {entry.id[:-1] for entry in gone}
        for table, key in deletes:
            if table in ("events", "voids") and key[:-1] not in names:
                raise BrokenPromiseError("lost", f"{key!r} of {table} is deleted, and not pruned")

    def _require_over(self, gone: list[Entry]) -> None:
        latest_ms, kept_ms = self._clock.latest_ms, self.regime.kept_least_ms
        past_ms = self.regime.newest.config.admission.past_ms
        self._trace.seen["pruned"] += len(gone)
        for entry in gone:
            if max(entry.received_ms, entry.happened_ms) + kept_ms > latest_ms:
                raise BrokenPromiseError("lost", f"{entry} is pruned and not old")
            for kind in PeriodType:
                end_ms = period_at(kind, entry.happened_ms).end_ms
                if end_ms > self.closed_until[kind] or end_ms + past_ms > latest_ms:
                    raise BrokenPromiseError("lost", f"{entry} is pruned, its {kind} period open")

    def _totals_closed(self, customer_id: str, period: Period, late_since_ms: int) -> None:
        """With an aggregation, unless there is nothing to be published, or it is late."""
        if self.is_closed(customer_id, period):
            return
        self._closed_in[period].add(customer_id)
        place = customer_id, period
        if late_since_ms:
            self.publications.note_late(place, late_since_ms)
            return
        if place in self.publications.closed:
            return
        found = self.regime.candidates()
        rules = [one.rules for one in found if period.type in one.rules.published]
        may_be_silent = len(rules) < len(found) or not all(
            self.books.recount(customer_id, period, by, self.regime.floor_at) for by in rules
        )
        if not may_be_silent:
            raise BrokenPromiseError("lost", f"{customer_id}, {period.key} is not published")

    def _deleted(self, deletes: list[tuple[str, bytes]], made: set[bytes]) -> None:
        for table, key in deletes:
            if table == "aggregations" and key not in made:
                kind, start_ms = tuple(PeriodType)[key[1]], keys.start_of(key[2:6])
                self.publications.withdrawn(key[6:].decode(), period_at(kind, start_ms))
            elif table == "late":
                late = keys.late_totals_key(key)
                self.publications.settled(keys.totals_customer(late), keys.totals_period(late))
            elif table in ("superseded", "reached"):
                raise BrokenPromiseError("lost", f"{key!r} of {table} is deleted")

    def _period_closed(self, kind: PeriodType, until_ms: int) -> None:
        if until_ms < self.closed_until[kind]:
            raise BrokenPromiseError("wrong", f"{kind} periods are opened again")
        period = period_at(kind, until_ms - 1)
        self._trace.count("closed")
        self._trace.add(f"closed {kind} {period.key}")
        # What came since the closing began may be counted later.
        floor_at = self.regime.floor_at
        missing = self.books.customers_in(period, floor_at) - self._closed_in.pop(period, set())
        if missing:
            raise BrokenPromiseError("lost", f"{kind} {period.key} closed without {missing}")
        overlooked_ms = self.books.first_behind(self.closed_until[kind], floor_at)
        if overlooked_ms is not None and overlooked_ms < period.start_ms:
            raise BrokenPromiseError("lost", f"{kind} {period.key} closed before an earlier one")
        self.closed_until[kind] = until_ms
        self.regime.closings += 1

    def overdue(self, by_ms: int) -> Period | None:
        """A period with events, there for so long, whose grace was over by so much, and that is
        still open.
        """
        grace_ms = max(one.config.grace_ms for one in self.regime.candidates())
        came_before_ms = self._clock.now_ms() - by_ms
        log = bisect_right(self.books.log, came_before_ms, key=lambda entry: entry.received_ms)
        for kind in PeriodType:
            first_ms = self.books.first_behind(self.closed_until[kind], log)
            if first_ms is not None:
                period = period_at(kind, first_ms)
                if period.end_ms + grace_ms + by_ms <= self._clock.now_ms():
                    return period
        return None
