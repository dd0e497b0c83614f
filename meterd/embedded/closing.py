"""Ends periods: closes them, in the order of their ends, revises what is late, takes snapshots.

Customers are taken in small portions, each one's part decided by its own aggregator, so events go
on being counted meanwhile.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from meterd.domain.aggregations import Aggregation
from meterd.domain.hierarchy import closed_with
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded import journal, keys
from meterd.embedded.aggregator import Close, Revise, TakeSnapshot
from meterd.embedded.mailbox import Reply
from meterd.ledger import Closed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from meterd.domain.aggregations import ClosingRules
    from meterd.embedded.committer import Committer
    from meterd.embedded.posting import Posting
    from meterd.embedded.registry import Registry
    from meterd.embedded.store import Store
    from meterd.embedded.transaction import Transaction
    from meterd.ledger import CatchUp

# Customers closed or looked at in one transaction: 0.3 ms each, and events wait meanwhile.
CLOSED_AT_ONCE: Final = 32

T = TypeVar("T")


class Read(Protocol):
    """Runs the work over a snapshot of the store."""

    def __call__(self, work: Callable[[Transaction], T], /) -> Awaitable[T]: ...


class Closing:
    """See above.

    ``floor_ms`` is when the last period ended that was closed or is being closed: nothing is
    received before. Before ``closed_until_ms`` all periods of a type are, or are being, closed; it
    is replaced and never changed, since it travels with what is sent. Before ``done_until_ms`` they
    are.
    """

    def __init__(
        self,
        store: Store,
        committer: Committer,
        registry: Registry,
        posting: Posting,
        *,
        read: Read,
        clock_ms: Callable[[], int],
        dated: Callable[[int], int],
    ) -> None:
        self._store = store
        self._committer = committer
        self._registry = registry
        self._posting = posting
        self._read = read
        self._clock_ms = clock_ms
        self._dated = dated
        self._lock = trio.Lock()
        with store.read() as txn:
            self.floor_ms = journal.floor_ms(txn)
            self.closed_until_ms = self.done_until_ms = journal.all_closed_until_ms(txn)

    async def next_to_close(self, last_received_ms: int) -> Period | None:
        """See ``Ledger.next_to_close``; the last event came at that moment."""
        last_hour = period_at(PeriodType.HOURLY, last_received_ms)
        # But for the last hour, and once: events that come amid this would keep it from its end.
        if self._posting.may_lack(last_hour.start_ms):
            await self._posting.post_all()
        earliest_ms = self._posting.earliest_ms
        unposted = None
        if self.closed_until_ms[PeriodType.HOURLY] <= earliest_ms < inf:  # else it is late
            unposted = period_at(PeriodType.HOURLY, int(earliest_ms))
        stored = await self._stored_next_to_close()
        return min((period for period in (unposted, stored) if period is not None), default=None)

    async def close(self, period: Period, rules: ClosingRules, catch_up: CatchUp | None) -> Closed:
        """See ``Ledger.close``."""
        async with self._lock:
            # Due by the clock, as a claim goes by it: what is stored may be ahead of it.
            due_ms = self._clock_ms()
            now_ms = self._dated(due_ms)
            if period.end_ms > now_ms:
                return Closed()  # the clock was set back since the caller looked at it
            self.floor_ms = max(self.floor_ms, period.end_ms)
            # From here on no event is received within the period, also after a crash, and what
            # happened within it is late. Those that were sent before are on their way: when they
            # are posted their customers are found.
            before = self.closed_until_ms
            self.closed_until_ms = closed_with(period, before)
            try:
                closed = await self._close_all(period, rules, catch_up, now_ms, due_ms)
            except BaseException:
                # Of whatever kind: it is to be closed still, and would not be found while what is
                # in it is not posted.
                self.closed_until_ms = before
                raise
            if closed is None:
                self.closed_until_ms = before
                return Closed()
            # Whoever watches usage may not come to look before a crash: the next start then does.
            unseen_ms = self._committer.posted.unseen_since_ms(self.done_until_ms)
            await self._committer.execute(partial(_write_done, period=period, unseen_ms=unseen_ms))
            self.done_until_ms = self.closed_until_ms
        return closed

    async def _close_all(
        self,
        period: Period,
        rules: ClosingRules,
        catch_up: CatchUp | None,
        now_ms: int,
        due_ms: int,
    ) -> Closed | None:
        """The period of every customer; None, with nothing closed, where another goes first."""
        floor_ms = self.floor_ms
        await self._committer.execute(lambda txn: journal.write_floor(txn, floor_ms))
        if self._posting.may_lack(period.end_ms):
            await self._posting.post_all()
        # No earlier one can appear any more; one that did since the caller asked goes first.
        if await self._stored_next_to_close() != period:
            return None
        snapshots: Counter[bool] = Counter()
        for part in range(self._store.parts):
            after: str | None = None
            while customers := await self._customers_in(part, period, after):
                began_s = trio.current_time()
                made: list[Aggregation] = []
                reply = Reply(len(customers))
                for customer_id in customers:
                    message = Close(period, rules, now_ms, made, reply, due_ms)
                    self._registry.send(customer_id, message)
                await reply.wait()
                self._registry.retire(customers)
                snapshots.update(closed.created_ms != closed.computed_ms for closed in made)
                after = customers[-1]
                if catch_up is not None:
                    await catch_up(len(customers), trio.current_time() - began_s)
        return Closed(snapshots[False], snapshots[True])

    async def revise(self, rules: ClosingRules, until_ms: int) -> int:
        """See ``Ledger.revise``."""
        revised = 0
        while late := await self._read(
            lambda txn: journal.late_until(txn, until_ms, CLOSED_AT_ONCE)
        ):
            periods: defaultdict[str, set[Period]] = defaultdict(set)
            for key in map(keys.late_totals_key, late):
                periods[keys.totals_customer(key)].add(keys.totals_period(key))
            due_ms, made, reply = self._clock_ms(), list[Aggregation](), Reply(len(periods))
            for customer_id, theirs in periods.items():
                in_order = tuple(sorted(theirs))
                now_ms = self._dated(due_ms)
                message = Revise(in_order, rules, now_ms, made, reply, due_ms)
                self._registry.send(customer_id, message)
            await reply.wait()
            self._registry.retire(periods)
            revised += len(made)
        return revised

    async def snapshot(self, rules: ClosingRules) -> tuple[int, int]:
        """See ``Ledger.snapshot``: how many were made, and how many made anew."""
        async with self._lock:
            now_ms = self._dated(self._clock_ms())
            await self._posting.post_all()
            running = tuple(period_at(kind, now_ms) for kind in PeriodType)
            published = tuple(period for period in running if period.type in rules.published)
            # More than the hour and the day that run: a clock may have stepped back out of others.
            # These two also where nothing of them is stored: events may come amid this.
            stored = await self._read(lambda txn: journal.open_parts(txn, self._store.parts))
            open_parts = tuple(sorted({*running[:2], *stored}))
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
        return made[True], made[False]

    def _stored_next_to_close(self) -> Awaitable[Period | None]:
        return self._read(lambda txn: journal.next_to_close(txn, self._store.parts))

    async def _customers_in(self, part: int, period: Period, after: str | None) -> list[str]:
        return await self._read(
            lambda txn: journal.customers_in(txn, part, period, after, CLOSED_AT_ONCE)
        )

    async def _customers_in_any(
        self, part: int, periods: tuple[Period, ...], after: str | None
    ) -> list[str]:
        return await self._read(
            lambda txn: journal.customers_in_any(txn, part, periods, after, CLOSED_AT_ONCE)
        )


def _write_done(
    txn: Transaction, period: Period, unseen_ms: Mapping[PeriodType, int] | None
) -> None:
    journal.write_closed(txn, period)
    journal.write_unseen(txn, unseen_ms)
