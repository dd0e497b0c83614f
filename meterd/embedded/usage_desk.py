"""The part of the engine that reads usage: what was acknowledged is posted first, and so in it.

A full disk has no room for that. Then it is posted in a transaction that is read from and thrown
away: the answers are the same, and cost as much as what is not posted.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

from meterd.domain.periods import period_at
from meterd.embedded import recovery, usage
from meterd.embedded.delivery_desk import DeliveryDesk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    import trio

    from meterd.domain.periods import Period, PeriodType
    from meterd.domain.usage import (
        Customer,
        CustomerUsage,
        UsagePortion,
        UsageQuery,
        WindowTotals,
    )
    from meterd.embedded.posting import Posting
    from meterd.embedded.registry import Registry
    from meterd.embedded.transaction import Transaction

T = TypeVar("T")


class UsageDesk(DeliveryDesk):
    """See ``ledger.Ledger``."""

    _registry: Registry
    _posting: Posting
    started: trio.Event

    @abstractmethod
    async def _read_of(self, customer_id: str | None, work: Callable[[Transaction], T]) -> T:
        """Runs the work over a snapshot in which all that was acknowledged of the customer is in
        totals and index.
        """

    def _read_unposted(
        self, customer_ids: Collection[str], work: Callable[[Transaction], T]
    ) -> Awaitable[T]:
        """The same of these customers, on a full disk."""
        parts = self._store.parts

        def posted(txn: Transaction) -> T:
            recovery.post_theirs(txn, parts, customer_ids)
            return work(txn)

        return self._committer.try_out(posted)

    async def event_types_of_open(self, kinds: Iterable[PeriodType]) -> list[str]:
        """Of what events were received since the first period of these types began that is open."""
        return await self._read(lambda txn: usage.event_types_of_open(txn, kinds))

    async def customers(self, *, limit: int, after: str | None = None) -> list[Customer]:
        """See ``Ledger.customers``."""
        parts = self._store.parts

        def read(txn: Transaction) -> list[Customer]:
            return usage.read_customers(txn, parts, after, limit)

        def read_all(txn: Transaction) -> list[Customer]:
            recovery.list_new(txn, parts)
            return read(txn)

        if not self.started.is_set():
            return await self._committer.try_out(read_all)
        page = await self._read(read)
        unlisted = await self._unlisted(page, limit, after)
        if unlisted and not self._committer.is_full:
            await self._posting.post_customers(unlisted, may_go=True)
            page = await self._read(read)
        if unlisted and self._committer.is_full:
            page = await self._committer.try_out(read_all)
        return page

    async def _unlisted(self, page: list[Customer], limit: int, after: str | None) -> list[str]:
        """Those who belong on the page and whose first events are not posted yet."""
        listed = {customer.id for customer in page}
        last = page[-1].id if len(page) == limit else None
        return sorted(
            customer_id
            for part in await self._registry.restless()
            for customer_id in part
            if customer_id not in listed
            and (after is None or customer_id > after)
            and (last is None or customer_id < last)
        )[:limit]

    async def customer_usage(
        self, customer_id: str, period_type: PeriodType, *, at_ms: int | None = None
    ) -> CustomerUsage:
        """See ``Ledger.customer_usage``."""
        parts = self._store.parts

        def read(txn: Transaction) -> CustomerUsage:
            # When all that was acknowledged is posted, which may have taken until now.
            period = period_at(period_type, self.now_ms() if at_ms is None else at_ms)
            return usage.read_customer_usage(txn, parts, customer_id, period)

        return await self._read_of(customer_id, read)

    async def usage_windows(
        self, query: UsageQuery, *, limit: int, after_ms: int | None = None
    ) -> list[WindowTotals]:
        """See ``Ledger.usage_windows``."""
        parts = self._store.parts
        return await self._read_of(
            query.customer_id,
            lambda txn: usage.read_windows(txn, parts, query, after_ms, limit),
        )

    async def usage_groups(
        self, query: UsageQuery, period: Period, *, limit: int, before: bytes | None = None
    ) -> UsagePortion:
        """See ``Ledger.usage_groups``."""
        parts = self._store.parts
        return await self._read_of(
            query.customer_id,
            lambda txn: usage.read_groups(txn, parts, query, period, before, limit),
        )
