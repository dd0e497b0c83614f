"""The embedded engine: the Ledger over an LMDB store, with its actors.

An append travels registry, aggregators, committer; readers take snapshots of the store in their own
worker threads. Events are in the log when they are acknowledged, and are posted, that is written
into their customers' totals and indexes, in passes that begin ``POST_SECONDS`` after each other;
before that for whoever asks for a customer's events, when a period closes, and at the end. A start
posts the rest (``recovery``).

The engine's time is never behind the last event, nor behind an hour that it has closed, so a clock
that steps back cannot bring an event into totals that are final.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from heapq import merge
from itertools import chain, groupby, islice
from math import inf
from typing import TYPE_CHECKING, Final, Self, TypeVar

import trio

from meterd.domain.errors import DiskFullError, OverloadedError, UnavailableError
from meterd.domain.event_ids import ID_BYTES, Stamp, next_stamp, stamp_of
from meterd.domain.idempotency import Judged, Recorded, judge
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.receipts import group_by_customer, receive
from meterd.embedded import journal, keys, log, outbox, queries, recovery
from meterd.embedded.aggregator import Append, Close, Post, TakeSnapshot
from meterd.embedded.committer import Committer
from meterd.embedded.mailbox import Bell, InFlight, Reply
from meterd.embedded.registry import Registry
from meterd.ledger import (
    AggregationPlace,
    AggregationQuery,
    Claim,
    Closed,
    DeliveredAggregation,
    EventQuery,
    SnapshotCounts,
    StoredEvent,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from meterd.domain.aggregations import Aggregation, ClosingRules
    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent
    from meterd.embedded.committer import Hop
    from meterd.embedded.store import Store, Transaction

T = TypeVar("T")

# Twenty full batches, or as many singles: two commits' worth at the highest rate ever measured.
EVENTS_IN_FLIGHT_MAX: Final = 20_000
# Customers closed or looked at in one transaction: 0.3 ms each, and events wait meanwhile.
CLOSED_AT_ONCE: Final = 32
# Customers posted in one transaction, 0.05 ms each: while events wait for it, and in haste.
POSTED_AT_ONCE: Final = 32
POSTED_IN_HASTE: Final = 64
# How long a pass takes that posts everyone who was not at rest when it began. What a start after a
# crash must count again came in the last two of them, unless the machine cannot keep up.
POST_SECONDS: Final = 10.0
# What is left of the 10 s that a stop may take. A start counts what was not posted in time.
LAST_POSTING_S: Final = 1.0
# Snapshots being read at once; each holds a transaction and an answer's page.
READERS_AT_ONCE: Final = 4


class EmbeddedLedger:
    """See ``ledger.Ledger``. Usable while ``running``."""

    def __init__(
        self, store: Store, *, now_ms: Callable[[], int], nonce: int, hop: Hop, read_hop: Hop
    ) -> None:
        """``nonce``: 36 random bits, new in each process. ``hop`` is where the writer runs."""
        self._store = store
        self._clock_ms = now_ms
        self._nonce = nonce
        self._hop = hop
        self._read_hop = read_hop
        self._committer = Committer(store, hop)
        self._registry = Registry(store, self._committer)
        self._in_flight = InFlight(EVENTS_IN_FLIGHT_MAX)
        self._closing = trio.Lock()
        self._unposted = Bell()
        with store.read() as txn:
            self._floor_ms = journal.floor_ms(txn)
            self._last = log.last_stamp(txn) or Stamp(0, 0, nonce)
            self._posted_through = b""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """The actors live within; leave it only when nobody is waiting for an answer any more."""
        await self._hop(partial(recovery.post_rest, self._store))
        self._posted_through = self._last.id()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._registry.run)
            nursery.start_soon(self._committer.run)
            nursery.start_soon(self._post_regularly)
            yield self
            with trio.move_on_after(LAST_POSTING_S):
                await self._post_all()  # so that the next start has nothing to do
            nursery.cancel_scope.cancel()

    def now_ms(self) -> int:
        """The time of day, but never before the last event or the end of a closed period."""
        return max(self._clock_ms(), self._floor_ms, self._last.received_ms)

    async def append(
        self, events: Sequence[UsageEvent], *, partial: bool = False
    ) -> list[Recorded]:
        """See ``Ledger.append``."""
        if not events:
            return []
        self._require_room()
        if not self._in_flight.take(len(events)):
            raise OverloadedError("too many events are waiting to be written")
        reply = Reply(1, self._in_flight, len(events), may_go=True)
        try:
            judged = self._judge(events, partial=partial)
            if judged.new:
                self._send(judged, reply)
            else:
                # What they repeat may be on its way to the disk.
                self._committer.follow(reply)
        except OverloadedError:
            self._in_flight.give_back(len(events))
            raise
        await reply.wait()
        if reply.is_given_up:
            raise UnavailableError("the disk is full: the events may be stored when it has room")
        return judged.outcomes

    async def events(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> list[StoredEvent]:
        """See ``Ledger.events``."""
        await self._post_customer(query.customer_id)
        return await self._read(
            lambda txn: queries.read_events(txn, self._store.parts, query, limit, before)
        )

    async def page_end(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> bytes | None:
        """See ``Ledger.page_end``."""
        await self._post_customer(query.customer_id)
        return await self._read(
            lambda txn: queries.page_end(txn, self._store.parts, query, limit, before)
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
        self._require_room()
        while self._may_be_unposted(self._last_hour().start_ms):
            await self._post_all()
        # What is not posted is of the last hour, of which nothing may be stored yet.
        unposted = self._last_hour() if self._may_be_unposted(self._last_hour().end_ms) else None
        stored = await self._stored_next_to_close()
        return min((period for period in (unposted, stored) if period is not None), default=None)

    async def close(self, period: Period, rules: ClosingRules) -> Closed:
        """See ``Ledger.close``."""
        self._require_room()
        async with self._closing:
            now_ms = self.now_ms()
            if period.end_ms > now_ms:
                return Closed()  # the clock was set back since the caller looked at it
            floor_ms = self._floor_ms = max(self._floor_ms, period.end_ms)
            # From here on no event is dated within the period, also after a crash. Those that were
            # are on their way: when they are posted their customers are found.
            await self._committer.execute(lambda txn: journal.write_floor(txn, floor_ms))
            if self._may_be_unposted(period.end_ms):
                await self._post_all()
            # No earlier one can appear any more; one that did since the caller asked goes first.
            if await self._stored_next_to_close() != period:
                return Closed()
            snapshots: Counter[bool] = Counter()
            for part in range(self._store.parts):
                after: str | None = None
                while customers := await self._customers_in(part, period, after):
                    made: list[Aggregation] = []
                    reply = Reply(len(customers))
                    for customer_id in customers:
                        self._registry.send(customer_id, Close(period, rules, now_ms, made, reply))
                    await reply.wait()
                    self._registry.retire(customers)
                    snapshots.update(closed.created_ms != closed.computed_ms for closed in made)
                    after = customers[-1]
            await self._committer.execute(lambda txn: journal.write_closed(txn, period))
        return Closed(snapshots[False], snapshots[True])

    async def snapshot(self, rules: ClosingRules) -> SnapshotCounts:
        """See ``Ledger.snapshot``."""
        self._require_room()
        async with self._closing:
            now_ms = self.now_ms()
            await self._post_all()
            running = tuple(period_at(kind, now_ms) for kind in PeriodType)
            published = tuple(period for period in running if period.type in rules.published)
            # More than the hour and the day that run: a clock may have stepped back out of others.
            open_parts = await self._read(lambda txn: journal.open_parts(txn, self._store.parts))
            periods = tuple(sorted({*running, *open_parts}))
            made: Counter[bool] = Counter()
            for part in range(self._store.parts):
                after: str | None = None
                while customers := await self._customers_in_any(part, periods, after):
                    first: list[bool] = []
                    reply = Reply(len(customers))
                    for customer_id in customers:
                        self._registry.send(
                            customer_id,
                            TakeSnapshot(published, open_parts, rules, now_ms, first, reply),
                        )
                    await reply.wait()
                    self._registry.retire(customers)
                    made.update(first)
                    after = customers[-1]
        known, events = await self._read(
            lambda txn: (txn.count("customers"), log.count_events(txn))
        )
        return SnapshotCounts(made[True], made[False], known, events)

    async def claim(self, endpoint_id: str, *, limit: int) -> Claim:
        """See ``Ledger.claim``."""
        now_ms = self._clock_ms()
        has_due = await self._read(lambda txn: outbox.next_due_ms(txn, endpoint_id))
        if has_due is None or has_due > now_ms:
            return Claim([], has_due)
        return await self._committer.execute(
            lambda txn: outbox.claim(txn, endpoint_id, limit, now_ms)
        )

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Ledger.settle``."""
        await self._committer.execute(lambda txn: outbox.settle(txn, deliveries))

    def deliveries_made(self) -> int:
        """See ``Ledger.deliveries_made``."""
        return self._committer.deliveries_made

    async def wait_deliveries_made(self, beyond: int) -> None:
        """See ``Ledger.wait_deliveries_made``."""
        await self._committer.wait_deliveries_made(beyond)

    def _judge(self, events: Sequence[UsageEvent], *, partial: bool) -> Judged:
        """In one go with sending the new ones, so that no two callers take one key."""
        if not any(event.idempotency_key for event in events):
            return Judged([Recorded.RECORDED] * len(events), events)
        with self._store.read() as txn:

            def known(event: UsageEvent) -> bytes | None:
                key = self._idempotency_key(event)
                claim = self._committer.claimed(key) or txn.get("idempotency_keys", key)
                return None if claim is None else claim[ID_BYTES:]

            return judge(events, known, partial=partial)

    def _idempotency_key(self, event: UsageEvent) -> bytes:
        part = keys.part_of(event.customer_id, self._store.parts)
        return keys.idempotency_key(part, event.customer_id, event.idempotency_key)

    def _send(self, judged: Judged, reply: Reply) -> None:
        """Records the events and has their customers count them; in one go, so in one round."""
        events = judged.new
        by_customer = group_by_customer(events)
        self._registry.require_room(by_customer)
        stamp = next_stamp(self._last, len(events), self.now_ms(), self._nonce)
        self._last = stamp.later(len(events) - 1)
        self._unposted.ring()
        receipt = receive(stamp, events)
        claims = {}
        for offset, fingerprint in judged.prints.items():
            key = self._idempotency_key(events[offset])
            claims[key] = stamp.id(offset, key[0]) + fingerprint
        self._committer.record(receipt, reply, claims)
        for customer_id, offsets in by_customer.items():
            self._registry.send(customer_id, Append(receipt, offsets))

    async def _post_regularly(self) -> None:
        while True:
            if self._posted_through == self._last.id():
                await self._unposted.wait()
                await trio.sleep(POST_SECONDS)
            ends_at = trio.current_time() + POST_SECONDS
            await self._post_all(POSTED_AT_ONCE, ends_at)
            await trio.sleep_until(ends_at)

    async def _post_all(self, at_once: int = POSTED_IN_HASTE, ends_at: float = -inf) -> None:
        """Returns when all events sent by now are in their totals and indexes, on disk.

        Spread over the time until ``ends_at``, so that others never wait for long.
        """
        through = self._last.id()
        if through <= self._posted_through:
            return
        began_at = trio.current_time()
        by_part = await self._registry.restless()
        count = sum(map(len, by_part))
        # In the order of keys, where neighbours share pages; sorted when a part's turn comes.
        restless = chain.from_iterable(sorted(part) for part in by_part)
        for done in range(0, count, at_once):
            await self._post(list(islice(restless, at_once)))
            share = min(1.0, (done + at_once) / count)
            await trio.sleep_until(began_at + (ends_at - began_at) * share)
        # Another pass may have overtaken this one.
        if through > self._posted_through:
            await self._committer.execute(lambda txn: journal.write_posted(txn, through))
            self._posted_through = max(self._posted_through, through)

    def _require_room(self) -> None:
        if self._committer.is_full:
            raise DiskFullError("the disk is full")

    def _stored_next_to_close(self) -> Awaitable[Period | None]:
        return self._read(lambda txn: journal.next_to_close(txn, self._store.parts))

    def _last_hour(self) -> Period:
        """In which the last event was counted."""
        return period_at(PeriodType.HOURLY, self._last.received_ms)

    def _may_be_unposted(self, before_ms: int) -> bool:
        """Whether an event that was received before that moment may not be in its totals on disk.

        Events are received in the order of their ids, so none is of before the last one posted.
        """
        if self._posted_through == self._last.id():
            return False
        return stamp_of(self._posted_through).received_ms < before_ms

    async def _post_customer(self, customer_id: str | None) -> None:
        # Of a full disk all is read that is there already.
        if customer_id is not None and not self._committer.is_full:
            await self._post([customer_id], may_go=True)

    async def _post(self, customer_ids: Iterable[str], *, may_go: bool = False) -> None:
        restless = [one for one in customer_ids if not self._registry.at_rest(one)]
        reply = Reply(len(restless), may_go=may_go)
        for customer_id in restless:
            self._registry.send(customer_id, Post(reply))
        await reply.wait()

    async def _customers_in(self, part: int, period: Period, after: str | None) -> list[str]:
        return await self._read(
            lambda txn: journal.customers_in(txn, part, period, after, CLOSED_AT_ONCE)
        )

    async def _customers_in_any(
        self, part: int, periods: tuple[Period, ...], after: str | None
    ) -> list[str]:
        def read(txn: Transaction) -> list[str]:
            found = [
                journal.customers_in(txn, part, period, after, CLOSED_AT_ONCE) for period in periods
            ]
            in_order = merge(*found, key=str.encode)
            return [customer_id for customer_id, _ in groupby(in_order)][:CLOSED_AT_ONCE]

        return await self._read(read)

    def _read(self, work: Callable[[Transaction], T]) -> Awaitable[T]:
        def in_snapshot() -> T:
            with self._store.read() as txn:
                return work(txn)

        return self._read_hop(in_snapshot)
