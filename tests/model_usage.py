"""The part of the model that reads usage: every total counted again from the events."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from meterd.domain.event_ids import position
from meterd.domain.periods import period_at
from meterd.domain.totals import Totals
from meterd.domain.usage import Customer, CustomerUsage, UsagePortion, WindowTotals
from tests.model_pruning import ModelPruning

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meterd.domain.periods import Period, PeriodType
    from meterd.domain.stored_events import StoredEvent
    from meterd.domain.usage import UsageQuery

K = TypeVar("K")
_EXACT: Final = Context(prec=5000, traps=[Inexact])


class ModelUsage(ModelPruning, ABC):
    """See ``ledger.Ledger``."""

    @abstractmethod
    def now_ms(self) -> int:
        """The model's time."""

    async def customers(self, *, limit: int, after: str | None = None) -> list[Customer]:
        """See ``Ledger.customers``."""
        await trio.lowlevel.checkpoint()
        seen: dict[str, int] = {}
        for stored in self._log:
            seen.setdefault(stored.event.customer_id, stored.received_ms)
        names = sorted(name for name in seen if after is None or name > after)
        return [Customer(name, seen[name]) for name in names[:limit]]

    async def customer_usage(
        self, customer_id: str, period_type: PeriodType, *, at_ms: int | None = None
    ) -> CustomerUsage:
        """See ``Ledger.customer_usage``."""
        await trio.lowlevel.checkpoint()
        period = period_at(period_type, self.now_ms() if at_ms is None else at_ms)
        theirs = [one for one in self._log if one.event.customer_id == customer_id]
        counted = [one for one in theirs if one.void is None and is_in(one, period)]
        by_type = self._by_type(counted)
        closed_ms = [one.end_ms for one in self._closed if one.type is period_type]
        is_closed = period.end_ms <= max(closed_ms, default=0)
        return CustomerUsage(
            customer_id,
            theirs[0].received_ms if theirs else None,
            WindowTotals(period, is_closed, by_type),
        )

    async def usage_windows(
        self, query: UsageQuery, *, limit: int, after_ms: int | None = None
    ) -> list[WindowTotals]:
        """See ``Ledger.usage_windows``."""
        await trio.lowlevel.checkpoint()
        found: defaultdict[Period, list[StoredEvent]] = defaultdict(list)
        for stored in self._asked(query):
            found[period_at(query.window, stored.happened_ms)].append(stored)
        return [
            WindowTotals(period, period in self._closed, self._by_type(found[period]))
            for period in sorted(found)
            if (query.from_ms is None or query.from_ms <= period.start_ms)
            and (query.to_ms is None or period.end_ms <= query.to_ms)
            and (after_ms is None or after_ms < period.start_ms)
        ][:limit]

    async def usage_groups(
        self, query: UsageQuery, period: Period, *, limit: int, before: bytes | None = None
    ) -> UsagePortion:
        """See ``Ledger.usage_groups``."""
        await trio.lowlevel.checkpoint()
        self._require_events(period)
        asked = [
            one
            for one in self._asked(query)
            if is_in(one, period) and (before is None or one.id < before)
        ]
        some = asked[max(0, len(asked) - limit) :]
        groups = _totals(
            ((one.event.event_type, group_of(one, query.group_by)), one)
            for one in some
            if all(group_of(one, (name,))[0] in texts for name, texts in query.filters.items())
        )
        return UsagePortion(groups, some[0].id if len(some) < len(asked) else None)

    def _asked(self, query: UsageQuery) -> list[StoredEvent]:
        return [
            one
            for one in self._log
            if one.void is None
            and one.event.customer_id == query.customer_id
            and query.event_type in {None, one.event.event_type}
        ]

    def _by_type(self, events: Iterable[StoredEvent]) -> dict[str, Totals]:
        return _totals((one.event.event_type, one) for one in events)


def is_in(stored: StoredEvent, period: Period) -> bool:
    return period.start_ms <= stored.happened_ms < period.end_ms


def group_of(stored: StoredEvent, names: Iterable[str]) -> tuple[str | None, ...]:
    metadata: Mapping[str, Any] = json.loads(stored.event.metadata)
    return tuple(_text(metadata.get(name)) for name in names)


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _totals(events: Iterable[tuple[K, StoredEvent]]) -> dict[K, Totals]:
    """The totals of what stands behind each key."""
    found: defaultdict[K, list[StoredEvent]] = defaultdict(list)
    for key, stored in events:
        found[key].append(stored)
    return {key: totals_of_events(some) for key, some in found.items()}


def totals_of_events(events: list[StoredEvent]) -> Totals:
    """Worked out in fractions, which never round; the first is the one that happened first."""
    events = sorted(events, key=_position)
    values = [one.event.value for one in events]
    total = sum(map(Fraction, values), Fraction(0))
    return Totals(
        count=len(values),
        sum=_EXACT.divide(Decimal(total.numerator), Decimal(total.denominator)),
        min=min(values),
        max=max(values),
        first=values[0],
        first_at=_position(events[0]),
        last=values[-1],
        last_at=_position(events[-1]),
    )


def _position(stored: StoredEvent) -> bytes:
    return position(stored.happened_ms, stored.id)
