"""Whose totals were posted since somebody looked last: of what is watched, and only if anything is.

Noted by the committer, behind each transaction; taken by whoever watches. Bounded: where more is
noted than may wait, all of it is forgotten, and the one who watches is told to look at everybody.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Final

from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.thresholds import is_watched
from meterd.embedded.mailbox import Bell
from meterd.watching import Look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from meterd.domain.changes import Change
    from meterd.domain.thresholds import Watched

# As many customers may be awake at once; 170 bytes each.
NOTED_MAX: Final = 200_000


class Posted:
    """See above."""

    def __init__(self, since_ms: Mapping[PeriodType, int] | None = None) -> None:
        """``since_ms`` is what ``unseen_since_ms`` was when the last period closed before a start:
        what came since may not have been looked at.
        """
        self._closed_until_ms: Callable[[], Mapping[PeriodType, int]]
        self._watched: Watched | None = None
        # In the order of noting; a dictionary is an ordered set.
        self._noted: dict[tuple[str, Period], None] = {}
        self._is_lost = False
        # Until when periods were closed when the first of what is noted was, and the first of what
        # was not looked at yet: that, and what is in the hands of the one who watches.
        self._noted_since_ms: Mapping[PeriodType, int] | None = None
        self._since_ms = since_ms
        self._something = Bell()

    def watch(
        self, watched: Watched | None, closed_until_ms: Callable[[], Mapping[PeriodType, int]]
    ) -> Mapping[PeriodType, int]:
        """See ``Watching.watch``. Until when periods are closed is asked each time anew."""
        since_ms = self._since_ms or closed_until_ms()
        self._watched, self._closed_until_ms = watched, closed_until_ms
        self._since_ms = None if watched is None else since_ms
        self._forget()
        return since_ms

    def unseen_since_ms(
        self, closed_until_ms: Mapping[PeriodType, int]
    ) -> Mapping[PeriodType, int] | None:
        """Where ``watch`` would begin now; None where nobody watches, and nothing waits for one."""
        return self._since_ms or (closed_until_ms if self._watched else None)

    def note(self, changes: Iterable[Change]) -> None:
        """These are on disk."""
        if self._watched is None:
            return
        closed_until_ms = self._closed_until_ms()
        for change in changes:
            event_types = {*change.blocks, *(event_type for _, event_type in change.dated_blocks)}
            if change.voids:  # a sum goes up where a negative value is taken back
                event_types.update(*(totals.by_type for totals in change.totals.values()))
            if not event_types:
                continue  # no event was counted, or taken back
            kinds = self._watched.periods(change.customer_id, event_types)
            for hour in change.totals if kinds else ():
                if hour.type is PeriodType.HOURLY:
                    for kind in self._watched.kinds:  # in their order: so is what is told
                        if kind not in kinds:
                            continue
                        period = period_at(kind, hour.start_ms)
                        if is_watched(period, closed_until_ms):
                            self._noted[change.customer_id, period] = None
        if self._noted:
            self._noted_since_ms = self._noted_since_ms or closed_until_ms
            self._since_ms = self._since_ms or closed_until_ms
        if len(self._noted) > NOTED_MAX:
            self._forget()
            self._is_lost = True
        if self._noted or self._is_lost:
            self._something.ring()

    async def take(self, limit: int) -> list[Look]:
        """See ``Watching.changed``. Whoever comes has looked at all that was taken before."""
        if not self._is_lost:
            self._since_ms = self._noted_since_ms
        while not self._noted and not self._is_lost:
            await self._something.wait()
        if self._is_lost:
            self._forget()
            return []
        by_customer: defaultdict[str, list[Period]] = defaultdict(list)
        for customer_id, period in list(islice(self._noted, limit)):
            del self._noted[customer_id, period]
            by_customer[customer_id].append(period)
        if not self._noted:
            self._noted_since_ms = None
        return [Look(customer_id, tuple(periods)) for customer_id, periods in by_customer.items()]

    def _forget(self) -> None:
        self._noted.clear()
        self._noted_since_ms = None
        self._is_lost = False
