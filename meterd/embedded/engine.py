"""The embedded engine: the Ledger over an LMDB store, with its actors.

An append travels registry, aggregators, committer; readers take snapshots of the store in their own
worker threads. The engine's time is never behind an hour that it has closed, so a clock that steps
back cannot bring an event into totals that are final: it is counted, and dated, at the start of the
first hour still open.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING, Final, Self, TypeVar

import trio

from meterd.domain.account import PlacedEvent
from meterd.domain.errors import OverloadedError
from meterd.domain.event_ids import COUNTER_LIMIT, Stamp
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded import journal, outbox, queries
from meterd.embedded.aggregator import Append, Close, TakeSnapshot
from meterd.embedded.committer import Committer
from meterd.embedded.mailbox import Gate, InFlight, Reply
from meterd.embedded.registry import Registry
from meterd.ledger import (
    AggregationPlace,
    AggregationQuery,
    Claim,
    Closed,
    DeliveredAggregation,
    EventQuery,
    Recorded,
    SnapshotCounts,
    StoredEvent,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from meterd.domain.aggregations import Aggregation, ClosingRules
    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent
    from meterd.embedded.committer import Hop
    from meterd.embedded.store import Store, Transaction

T = TypeVar("T")

# Twenty full batches, or as many singles: two commits' worth at the highest rate ever measured.
EVENTS_IN_FLIGHT_MAX: Final = 20_000
# Customers closed or looked at in one go: what bounds the memory of closing a period.
CUSTOMERS_AT_ONCE: Final = 512
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
        self._read_hop = read_hop
        self._gate = Gate()
        self._committer = Committer(store, self._gate, hop)
        self._registry = Registry(store, self._committer, self._gate)
        self._in_flight = InFlight(EVENTS_IN_FLIGHT_MAX)
        self._closing = trio.Lock()
        with store.read() as txn:
            self._floor_ms = journal.floor_ms(txn)
            # Goes on where the last process stopped, so that ids of one millisecond stay in order.
            self._counter = journal.count_events(txn) % COUNTER_LIMIT

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """The actors live within; leave it only when nobody is waiting for an answer any more."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._registry.run)
            nursery.start_soon(self._committer.run)
            yield self
            nursery.cancel_scope.cancel()

    def now_ms(self) -> int:
        """The time of day, but never before the end of a period that was closed."""
        return max(self._clock_ms(), self._floor_ms)

    async def append(self, events: Sequence[UsageEvent]) -> list[Recorded]:
        """See ``Ledger.append``."""
        if not events:
            return []
        if not self._in_flight.take(len(events)):
            raise OverloadedError("too many events are waiting to be written")
        reply: Reply | None = None
        try:
            await self._gate.wait_open()
            by_customer: dict[str, list[PlacedEvent]] = {}
            for offset, event in enumerate(events):
                by_customer.setdefault(event.customer_id, []).append(PlacedEvent(offset, event))
            self._registry.require_room(by_customer)
            stamp = self._stamp(len(events))
            reply = Reply(len(by_customer), self._in_flight, len(events))
            for customer_id, placed in by_customer.items():
                self._registry.send(customer_id, Append(stamp, placed, reply))
        finally:
            if reply is None:
                self._in_flight.give_back(len(events))
        await reply.wait()
        return [Recorded.RECORDED] * len(events)

    async def events(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> list[StoredEvent]:
        """See ``Ledger.events``."""
        return await self._read(
            lambda txn: queries.read_events(txn, self._store.parts, query, limit, before)
        )

    async def page_end(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> bytes | None:
        """See ``Ledger.page_end``."""
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
        return await self._read(lambda txn: journal.next_to_close(txn, self._store.parts))

    async def close(self, period: Period, rules: ClosingRules) -> Closed:
        """See ``Ledger.close``."""
        async with self._closing:
            now_ms = self.now_ms()
            if period.end_ms > now_ms:
                return Closed()  # the clock was set back since the caller looked at it
            floor_ms = self._floor_ms = max(self._floor_ms, period.end_ms)
            # From here on no event is dated within the period, also after a crash. Those that were
            # are on their way: behind this transaction they are on disk, their customers are found.
            await self._committer.execute(lambda txn: journal.write_floor(txn, floor_ms))
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
        async with self._closing:
            now_ms = self.now_ms()
            await self._committer.execute(lambda _: None)
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
            lambda txn: (txn.count("customers"), journal.count_events(txn))
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

    def _stamp(self, events: int) -> Stamp:
        if self._counter + events > COUNTER_LIMIT:
            self._counter = 0
        stamp = Stamp(self.now_ms(), self._counter, self._nonce)
        self._counter += events
        return stamp

    async def _customers_in(self, part: int, period: Period, after: str | None) -> list[str]:
        return await self._read(
            lambda txn: journal.customers_in(txn, part, period, after, CUSTOMERS_AT_ONCE)
        )

    async def _customers_in_any(
        self, part: int, periods: tuple[Period, ...], after: str | None
    ) -> list[str]:
        def read(txn: Transaction) -> list[str]:
            found = [
                journal.customers_in(txn, part, period, after, CUSTOMERS_AT_ONCE)
                for period in periods
            ]
            in_order = merge(*found, key=str.encode)
            return [customer_id for customer_id, _ in groupby(in_order)][:CUSTOMERS_AT_ONCE]

        return await self._read(read)

    def _read(self, work: Callable[[Transaction], T]) -> Awaitable[T]:
        def in_snapshot() -> T:
            with self._store.read() as txn:
                return work(txn)

        return self._read_hop(in_snapshot)
