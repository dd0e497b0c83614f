"""The part of the engine that reads usage: what was acknowledged is posted first, and so in it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from meterd.domain.periods import period_at
from meterd.embedded import usage
from meterd.embedded.delivery_desk import DeliveryDesk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

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


class UsageDesk(DeliveryDesk):
    """See ``ledger.Ledger``."""

    _registry: Registry
    _posting: Posting

    @abstractmethod
    async def _post_asked(self, customer_id: str | None) -> None:
        """Has what was sent of the customer written to its totals and index, but on a full disk."""

    async def event_types_of_open(self, kinds: Iterable[PeriodType]) -> list[str]:
        """Of what events were received since the first period of these types began that is open."""
        return await self._read(lambda txn: usage.event_types_of_open(txn, kinds))

    async def customers(self, *, limit: int, after: str | None = None) -> list[Customer]:
        """See ``Ledger.customers``."""
        parts = self._store.parts

        def read() -> Awaitable[list[Customer]]:
            return self._read(lambda txn: usage.read_customers(txn, parts, after, limit))

        page = await read()
        unlisted = await self._unlisted(page, limit, after)
        if unlisted and not self._committer.is_full:
            await self._posting.post_customers(unlisted, may_go=True)
            page = await read()
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
        await self._post_asked(customer_id)
        period = period_at(period_type, self.now_ms() if at_ms is None else at_ms)
        parts = self._store.parts
        return await self._read(
            lambda txn: usage.read_customer_usage(txn, parts, customer_id, period)
        )

    async def usage_windows(
        self, query: UsageQuery, *, limit: int, after_ms: int | None = None
    ) -> list[WindowTotals]:
        """See ``Ledger.usage_windows``."""
        await self._post_asked(query.customer_id)
        parts = self._store.parts
        return await self._read(lambda txn: usage.read_windows(txn, parts, query, after_ms, limit))

    async def usage_groups(
        self, query: UsageQuery, period: Period, *, limit: int, before: bytes | None = None
    ) -> UsagePortion:
        """See ``Ledger.usage_groups``."""
        if before is None:
            await self._post_asked(query.customer_id)
        parts = self._store.parts
        return await self._read(
            lambda txn: usage.read_groups(txn, parts, query, period, before, limit)
        )
