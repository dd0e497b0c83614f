"""The part of the model that deletes events: what was counted of them stays, so they are kept, and
only shown no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from meterd.domain.errors import PrunedError
from meterd.domain.periods import HOUR_MS, PeriodType, period_at

if TYPE_CHECKING:
    from meterd.domain.periods import Period
    from meterd.domain.stored_events import StoredEvent


class ModelPruning:
    """See ``forgetting.Forgetting``."""

    _log: list[StoredEvent]
    _closed: set[Period]
    _late: dict[tuple[str, Period], int]
    _forgotten: int
    _pruned = 0
    _last_before_start_ms = 0

    def _kept(self) -> list[StoredEvent]:
        """The events that are not deleted."""
        return self._log[self._pruned :]

    async def prune_events(self, *, before_ms: int, ended_ms: int) -> int:
        """See ``Forgetting.prune_events``."""
        await trio.lowlevel.checkpoint()
        least, _ = self.prunable(before_ms, ended_ms)
        return self.prune_some(least)

    async def sweep_pruned(self) -> int:
        """See ``Forgetting.sweep_pruned``."""
        await trio.lowlevel.checkpoint()
        return 0

    async def pruned_until_ms(self) -> int:
        """See ``Forgetting.pruned_until_ms``."""
        await trio.lowlevel.checkpoint()
        return self._until_ms()

    async def count_kept(self) -> int:
        """See ``Forgetting.count_kept``."""
        await trio.lowlevel.checkpoint()
        return len(self._kept())

    def last_before_start_ms(self) -> int:
        """See ``Forgetting.last_before_start_ms``."""
        return self._last_before_start_ms

    def prune_some(self, count: int) -> int:
        """Deletes the next ones, as many."""
        self._pruned += count
        return count

    def prunable(self, before_ms: int, ended_ms: int) -> tuple[int, int]:
        """How many of the next ones must go, and how many may: where one must stay, so may those
        that came in its transaction.
        """
        most = 0
        for stored in self._log[self._pruned : self._forgotten]:
            if not self._may_go(stored, before_ms, ended_ms):
                break
            most += 1
        least, rest = most, self._log[self._pruned + most :]
        while rest and least and self._kept()[least - 1].received_ms == rest[0].received_ms:
            least -= 1
        return least, most

    def _may_go(self, stored: StoredEvent, before_ms: int, ended_ms: int) -> bool:
        last = max(self._closed, default=None)
        for instant_ms in (stored.received_ms, stored.happened_ms):
            if instant_ms >= before_ms // HOUR_MS * HOUR_MS:
                return False
            for period in (period_at(kind, instant_ms) for kind in PeriodType):
                if last is None or period > last or period.end_ms > ended_ms:
                    return False
            if any(instant_ms >= period.start_ms for _, period in self._late):
                return False
        return True

    def _until_ms(self) -> int:
        gone = self._log[: self._pruned]
        latest = [max(one.received_ms, one.happened_ms) for one in gone]
        return period_at(PeriodType.HOURLY, max(latest)).end_ms if latest else 0

    def _require_events(self, period: Period) -> None:
        if period.start_ms < self._until_ms():
            raise PrunedError(self._until_ms())
