"""The embedded engine: the Ledger over an LMDB store, with its actors.

An append travels registry, aggregators, committer; readers take snapshots of the store in their own
worker threads. Events are in the log when they are acknowledged, and in totals and indexes some
time later (``posting``); a start sees to the rest (``recovery``).

The engine's time is never behind the last event, nor behind an hour that it has closed, so a clock
that steps back cannot bring an event into totals that are final.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self, TypeVar

import trio

from meterd.domain.admission import USUAL, Admission
from meterd.domain.errors import OverloadedError, UnavailableError
from meterd.domain.event_ids import Stamp, next_stamp, stamp_of
from meterd.domain.idempotency import Judged, Recorded, judge
from meterd.domain.receipts import group_by_customer, receive
from meterd.embedded import forgetting, journal, keys, log, queries, records, recovery
from meterd.embedded.aggregator import Append
from meterd.embedded.ahead import TOLERATED_MS, Ahead
from meterd.embedded.closing import Closing
from meterd.embedded.committer import Committer
from meterd.embedded.mailbox import InFlight, Reply
from meterd.embedded.posted import Posted
from meterd.embedded.posting import Posting
from meterd.embedded.pruning_desk import PruningDesk
from meterd.embedded.registry import Registry
from meterd.embedded.threshold_desk import ThresholdDesk
from meterd.embedded.used_keys import UsedKeys
from meterd.embedded.vital_signs import Backlog, read_vital_signs
from meterd.ledger import (
    AggregationPlace,
    AggregationQuery,
    Closed,
    DeliveredAggregation,
    EventQuery,
    SnapshotCounts,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.events import UsageEvent
    from meterd.domain.periods import Period
    from meterd.domain.stored_events import StoredEvent
    from meterd.embedded.committer import Hop
    from meterd.embedded.store import Store
    from meterd.embedded.transaction import Transaction
    from meterd.embedded.vital_signs import VitalSigns
    from meterd.ledger import CatchUp

T = TypeVar("T")

# Twenty full batches, or as many singles: two commits' worth at the highest rate ever measured.
EVENTS_IN_FLIGHT_MAX: Final = 20_000
# Snapshots being read at once; each holds a transaction and an answer's page.
READERS_AT_ONCE: Final = 4
_TOO_MANY: Final = "too many events are waiting to be written"
_MAY_BE_STORED: Final = "the disk is full: the events may be stored when it has room"


class EmbeddedLedger(PruningDesk, ThresholdDesk):
    """See ``ledger.Ledger``. Usable while ``running``, or when it has ``started``."""

    def __init__(
        self, store: Store, *, now_ms: Callable[[], int], nonce: int, hop: Hop, read_hop: Hop
    ) -> None:
        """``nonce``: 36 random bits, new in each process. ``hop`` is where the writer runs."""
        super().__init__(store, Committer(store, hop), now_ms, read_hop)
        self._nonce = nonce
        self._registry = Registry(store, self._committer)
        self._used_keys = UsedKeys(self._committer, store.parts)
        self._in_flight = InFlight(EVENTS_IN_FLIGHT_MAX)
        self._posting = Posting(self._committer, self._registry, self._used_keys)
        self._ahead = Ahead()
        self._closing = Closing(
            store,
            self._committer,
            self._registry,
            self._posting,
            read=self._read,
            clock_ms=now_ms,
            dated=self._dated,
        )
        self._past_events = 0
        self._past_waited_for = trio.lowlevel.ParkingLot()
        with store.read() as txn:
            self._last = log.last_stamp(txn) or Stamp(0, 0, nonce)
            self._committer.posted = Posted(journal.read_unseen(txn))
        self._last_before_start_ms = self._last.received_ms
        self.started = trio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """The actors live within; leave it only when nobody is waiting for an answer any more."""
        async with self.starting():
            await self.started.wait()
            yield self

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[Self]:
        """As ``running``, but entered at once: what a crash left unposted is posted within, and
        nothing may be asked before ``started`` is set but to read: of one customer's events those
        that are not posted are missing then.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._committer.run)
            nursery.start_soon(self._start, nursery)
            yield self
            if self.started.is_set():
                await self._posting.finish()
            nursery.cancel_scope.cancel()

    async def _start(self, nursery: trio.Nursery) -> None:
        last = self._last
        await recovery.post_rest(self._committer.execute, self._store.parts, last.received_ms)
        await recovery.put_back_attempts(self._committer.execute, self._clock_ms)
        self._posting.begin(last.id())
        self._ahead.look(self._clock_ms(), self.now_ms())
        for actor in (self._registry.run, self._used_keys.run, self._posting.run):
            nursery.start_soon(actor)
        self.started.set()

    def require_room(self) -> None:
        """See ``Ledger.require_room``."""
        if self._in_flight.is_full:
            raise OverloadedError(_TOO_MANY)

    def now_ms(self) -> int:
        """The time of day, but never before the last event or the end of a closed period."""
        return self._dated(self._clock_ms())

    @property
    def ahead_ms(self) -> int:
        """How far that is ahead of a clock that is behind what is stored; 0 where it is hardly."""
        clock_ms = self._clock_ms()
        ahead_ms = self._dated(clock_ms) - clock_ms
        return ahead_ms if ahead_ms > TOLERATED_MS else 0

    def _dated(self, clock_ms: int) -> int:
        return max(clock_ms, self._closing.floor_ms, self._last.received_ms)

    async def append(
        self,
        events: Sequence[UsageEvent],
        *,
        partial: bool = False,
        admission: Admission = USUAL,
    ) -> list[Recorded]:
        """See ``Ledger.append``."""
        if not events:
            return []
        if self._committer.is_full:
            return self._repeats(events, admission, partial=partial)
        if not self._in_flight.take(len(events)):
            raise OverloadedError(_TOO_MANY)
        reply = Reply(1, self._in_flight, len(events), may_go=True)
        try:
            judged = self._judge(events, admission, partial=partial)
            by_customer = group_by_customer(judged.new) if judged.new else {}
            self._registry.require_room(by_customer)
        except BaseException:
            # Of whatever kind: the reply, which gives it back, has not been handed over yet.
            self._in_flight.give_back(len(events))
            raise
        if judged.new:
            self._send(judged, by_customer, reply)
        else:
            # What they repeat may be on its way to the disk.
            self._committer.follow(reply)
        await reply.wait()
        if reply.is_given_up:
            raise UnavailableError(_MAY_BE_STORED)
        return judged.outcomes

    async def events(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> list[StoredEvent]:
        """See ``Ledger.events``."""
        return await self._read_of(
            query.customer_id,
            lambda txn: queries.read_events(txn, self._store.parts, query, limit, before),
        )

    async def page_end(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> bytes | None:
        """See ``Ledger.page_end``."""
        return await self._read_of(
            query.customer_id,
            lambda txn: queries.page_end(txn, self._store.parts, query, limit, before),
        )

    async def aggregations(
        self, query: AggregationQuery, *, limit: int, after: AggregationPlace | None = None
    ) -> list[DeliveredAggregation]:
        """See ``Ledger.aggregations``."""
        return await self._read(
            lambda txn: queries.read_aggregations(txn, self._store.parts, query, limit, after)
        )

    async def aggregations_page_end(
        self, query: AggregationQuery, *, limit: int, after: AggregationPlace | None = None
    ) -> AggregationPlace | None:
        """See ``Ledger.aggregations_page_end``."""
        return await self._read(
            lambda txn: queries.aggregations_page_end(txn, self._store.parts, query, limit, after)
        )

    async def next_to_close(self) -> Period | None:
        """See ``Ledger.next_to_close``."""
        self._require_disk()
        return await self._closing.next_to_close(self._last.received_ms)

    async def close(
        self, period: Period, rules: ClosingRules, *, catch_up: CatchUp | None = None
    ) -> Closed:
        """See ``Ledger.close``."""
        self._require_disk()
        return await self._closing.close(period, rules, catch_up)

    async def late_since_ms(self) -> int | None:
        """See ``Ledger.late_since_ms``."""
        return await self._read(journal.late_since_ms)

    async def revise(self, rules: ClosingRules, *, until_ms: int) -> int:
        """See ``Ledger.revise``."""
        self._require_disk()
        return await self._closing.revise(rules, until_ms)

    async def snapshot(self, rules: ClosingRules) -> SnapshotCounts:
        """See ``Ledger.snapshot``."""
        self._require_disk()
        created, updated = await self._closing.snapshot(rules)
        known, events = await self._read(
            lambda txn: (txn.count("customers"), log.count_events(txn))
        )
        return SnapshotCounts(created, updated, known, events)

    async def forget_keys(self, *, before_ms: int) -> int:
        """See ``Ledger.forget_keys``."""
        self._require_disk()
        found = await self._expired(before_ms)
        if found.is_unposted and not found.events:
            await self._used_keys.post_all()
            await self._posting.post_all()
            found = await self._expired(before_ms)
        if found.events:
            await self._committer.execute(lambda txn: forgetting.forget(txn, found))
        return found.events

    async def _expired(self, before_ms: int) -> forgetting.Expired:
        return await self._read(lambda txn: forgetting.expired(txn, self._store.parts, before_ms))

    def last_before_start_ms(self) -> int:
        """See ``Forgetting.last_before_start_ms``."""
        return self._last_before_start_ms

    def past_events(self) -> int:
        """See ``Ledger.past_events``."""
        return self._past_events

    async def wait_past_events(self, beyond: int) -> None:
        """See ``Ledger.wait_past_events``."""
        while self._past_events <= beyond:
            await self._past_waited_for.park()

    def _note_past(self) -> None:
        self._past_events += 1
        self._past_waited_for.unpark_all()

    async def vital_signs(self) -> VitalSigns:
        """How the engine is doing at this moment, also before it has started."""
        backlog = Backlog(
            self._in_flight.events, self._posting.backlog, len(self._used_keys), len(self._registry)
        )
        return await self._read(
            lambda txn: read_vital_signs(txn, self._store, backlog, self._committer.counts)
        )

    def _repeats(
        self, events: Sequence[UsageEvent], admission: Admission, *, partial: bool
    ) -> list[Recorded]:
        """While the disk is full: the outcomes of events that all repeat stored ones, or clash with
        them. Raises DiskFullError where there are others, and UnavailableError where one repeats
        what waits for room.
        """
        # Without keys they are refused as cheaply as under overload: ever more come.
        named = [self._idempotency_key(event) for event in events if event.idempotency_key]
        found: list[bytes] = []
        last = None
        if named:
            with self._store.read() as txn:
                used = (self._used_keys.find(txn, key) for key in named)
                found = [record for record in used if record is not None]
                last = log.last_stamp(txn) if found else None
        through = b"" if last is None else last.id()
        if any(stamp_of(records.event_in(record)).id() > through for record in found):
            raise UnavailableError(_MAY_BE_STORED)
        if len(found) < len(events):
            self._require_disk()
        return self._judge(events, admission, partial=partial).outcomes

    def _judge(
        self, events: Sequence[UsageEvent], admission: Admission, *, partial: bool
    ) -> Judged:
        """In one go with sending the new ones, so that no two callers take one key."""
        has_keys = any([event.idempotency_key for event in events])  # noqa: C419 - faster
        # Most often they have neither keys nor times.
        if not has_keys and all([event.timestamp_ms is None for event in events]):  # noqa: C419
            return Judged([Recorded.RECORDED] * len(events), events)
        now_ms, closed_until_ms = self.now_ms(), self._closing.closed_until_ms

        def admit(event: UsageEvent) -> Recorded:
            return admission.judge(event, now_ms, closed_until_ms)

        if not has_keys:
            return judge(events, self._idempotency_key, lambda _: None, admit, partial=partial)
        self._used_keys.require_room()
        with self._store.read() as txn:

            def known(key: bytes) -> bytes | None:
                record = self._used_keys.find(txn, key)
                return None if record is None else records.fingerprint_in(record)

            return judge(events, self._idempotency_key, known, admit, partial=partial)

    def _idempotency_key(self, event: UsageEvent) -> bytes:
        part = keys.part_of(event.customer_id, self._store.parts)
        return keys.idempotency_key(part, event.customer_id, event.idempotency_key)

    def _send(self, judged: Judged, by_customer: Mapping[str, Sequence[int]], reply: Reply) -> None:
        """Records the events and has their customers count them; in one go, so in one round."""
        events = judged.new
        clock_ms = self._clock_ms()
        now_ms = self._dated(clock_ms)
        self._ahead.look(clock_ms, now_ms)
        stamp = next_stamp(self._last, len(events), now_ms, self._nonce)
        self._last = stamp.later(len(events) - 1)
        receipt = receive(stamp, events)
        earliest_ms = receipt.earliest_ms
        self._posting.sent(self._last.id(), earliest_ms)
        if receipt.is_dated and earliest_ms < receipt.hour.start_ms:
            self._note_past()
        for offset, key, fingerprint in judged.used:
            self._used_keys.use(key, records.used_key(stamp.id(offset, key[0]), fingerprint))
        self._committer.record(receipt, reply)
        for customer_id, offsets in by_customer.items():
            self._registry.send(
                customer_id, Append(receipt, offsets, self._closing.closed_until_ms)
            )

    async def _read_of(self, customer_id: str | None, work: Callable[[Transaction], T]) -> T:
        if customer_id is None:
            return await self._read(work)
        if not self._committer.is_full:
            await self._posting.post_customers([customer_id], may_go=True)
        is_posted = self.started.is_set() and self._registry.at_rest(customer_id)
        if is_posted or not self._committer.is_full:
            return await self._read(work)
        return await self._read_unposted([customer_id], work)
