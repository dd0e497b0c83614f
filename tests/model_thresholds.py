"""The model with thresholds: figures counted again from the events, whatever is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.thresholds import Reached, Watched, reached_delivery
from meterd.watching import Look
from tests.model_deliveries import order_of_customers
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meterd.domain.admission import Admission
    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.events import UsageEvent
    from meterd.domain.idempotency import Recorded
    from meterd.ledger import CatchUp, Closed


class ModelThresholds(ModelLedger):
    """See ``watching.Watching``. What is appended is posted at once."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__(clock_ms)
        self._watched: Watched | None = None
        self._noted: list[Look] = []
        self._unseen_since_ms: Mapping[PeriodType, int] | None = None
        self._unseen_on_disk_ms: Mapping[PeriodType, int] | None = None
        self._more_noted = trio.Event()

    def restarted(self) -> None:
        """See ``ModelOutbox.restarted``."""
        super().restarted()
        self._watched = None
        self._noted.clear()
        self._unseen_since_ms = self._unseen_on_disk_ms

    async def close(
        self, period: Period, rules: ClosingRules, *, catch_up: CatchUp | None = None
    ) -> Closed:
        """See ``Ledger.close``."""
        before_ms = self._all_closed_until_ms() if self._watched else None
        closed_before = len(self._closed)
        closed = await super().close(period, rules, catch_up=catch_up)
        if len(self._closed) > closed_before:
            self._unseen_on_disk_ms = self._unseen_since_ms or before_ms
        return closed

    async def append(
        self,
        events: Sequence[UsageEvent],
        *,
        partial: bool = False,
        admission: Admission | None = None,
    ) -> list[Recorded]:
        """See ``Ledger.append``."""
        before = len(self._log)
        more = {} if admission is None else {"admission": admission}
        outcomes = await super().append(events, partial=partial, **more)
        for stored in self._log[before:] if self._watched else ():
            assert self._watched is not None
            customer_id, event_type = stored.event.customer_id, stored.event.event_type
            kinds = self._watched.periods(customer_id, [event_type])
            periods = [period_at(kind, stored.happened_ms) for kind in kinds]
            if watched := tuple(one for one in periods if self._is_watched(one)):
                self._noted.append(Look(customer_id, watched))
                self._unseen_since_ms = self._unseen_since_ms or self._all_closed_until_ms()
        self._more_noted.set()
        self._more_noted = trio.Event()
        return outcomes

    def _is_watched(self, period: Period) -> bool:
        """Whether the one behind it is not closed."""
        following = period_at(period.type, period.end_ms)
        return not self._closed or following > max(self._closed)

    def watch(self, watched: Watched | None) -> Mapping[PeriodType, int]:
        """See ``Watching.watch``."""
        since_ms = self._unseen_since_ms or self._all_closed_until_ms()
        self._watched = watched
        self._unseen_since_ms = since_ms if watched else None
        self._noted.clear()
        return since_ms

    def _all_closed_until_ms(self) -> Mapping[PeriodType, int]:
        return {kind: self._closed_until_ms(kind) for kind in PeriodType}

    def _closed_until_ms(self, kind: PeriodType) -> int:
        last = max(self._closed, default=None)
        if last is None:
            return 0
        before = period_at(kind, last.end_ms - 1)
        return before.end_ms if before <= last else before.start_ms

    async def changed(self, *, limit: int) -> list[Look]:
        """See ``Watching.changed``."""
        if not self._noted:
            self._unseen_since_ms = None
        while not self._noted:
            await self._more_noted.wait()
        found = self._noted[:limit]
        del self._noted[:limit]
        return found

    async def users(
        self,
        watched: Watched,
        since_ms: Mapping[PeriodType, int],
        *,
        limit: int,
        after: str | None = None,
    ) -> list[Look]:
        """See ``Watching.users``."""
        await trio.lowlevel.checkpoint()
        periods: dict[str, set[Period]] = {}
        for stored in self._log:
            around = {period_at(kind, stored.happened_ms) for kind in watched.kinds}
            periods.setdefault(stored.event.customer_id, set()).update(around)
        names = sorted(periods, key=order_of_customers)
        if after is not None:
            names = [one for one in names if order_of_customers(one) > order_of_customers(after)]
        return [
            Look(name, tuple(one for one in theirs if one.end_ms >= since_ms[one.type]))
            for name in names[:limit]
            for theirs in [sorted(periods[name])]
        ]

    async def tell(
        self, watched: Watched, looks: Sequence[Look], endpoints: tuple[str, ...]
    ) -> list[Reached]:
        """See ``Watching.tell``."""
        await trio.lowlevel.checkpoint()
        new: list[Reached] = []
        for look in looks:
            for period in look.periods:
                new += self._reach(watched, look.customer_id, period, endpoints)
        self._wake(len(new) * len(endpoints))
        return new

    def _reach(
        self, watched: Watched, customer_id: str, period: Period, endpoints: tuple[str, ...]
    ) -> list[Reached]:
        new = []
        figures = self._figures(customer_id, period, watched.operations)
        for alert in watched.alerts:
            figure = figures.get(alert.event)
            if figure is None or alert.period is not period.type:
                continue
            if alert.customer not in {None, customer_id}:
                continue
            for threshold in alert.thresholds:
                known = [
                    one
                    for one in self._reached
                    if (one.customer_id, one.period, one.event_type, one.threshold)
                    == (customer_id, period, alert.event, threshold)
                ]
                if known or threshold > figure.value:
                    continue
                reached = Reached(
                    customer_id,
                    period.type,
                    period.start_ms,
                    alert.event,
                    threshold,
                    figure.operation,
                    figure.value,
                    figure.count,
                    alert.id,
                    self.now_ms(),
                    endpoints,
                )
                self._reached.append(reached)
                for endpoint_id in endpoints:
                    made = reached_delivery(reached, endpoint_id, self.now_ms(), self._clock_ms())
                    self._add(made, self.now_ms())
                new.append(reached)
        return new
