"""The part of the engine that looks for thresholds that were reached, and tells of them once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from meterd.embedded import reached
from meterd.embedded.usage_desk import UsageDesk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.domain.periods import PeriodType
    from meterd.domain.thresholds import Reached, Watched
    from meterd.embedded.closing import Closing
    from meterd.watching import Look

# Deliveries made in one transaction, some 80 us each: events wait meanwhile.
AT_ONCE: Final = 64


class ThresholdDesk(UsageDesk):
    """See ``watching.Watching``."""

    _closing: Closing

    def watch(self, watched: Watched | None) -> Mapping[PeriodType, int]:
        """See ``Watching.watch``."""
        return self._committer.posted.watch(watched, lambda: self._closing.done_until_ms)

    async def changed(self, *, limit: int) -> list[Look]:
        """See ``Watching.changed``."""
        return await self._committer.posted.take(limit)

    async def users(
        self,
        watched: Watched,
        since_ms: Mapping[PeriodType, int],
        *,
        limit: int,
        after: str | None = None,
    ) -> list[Look]:
        """See ``Watching.users``."""
        parts = self._store.parts
        return await self._read(
            lambda txn: reached.users(txn, parts, watched, since_ms, after, limit)
        )

    async def tell(
        self, watched: Watched, looks: Sequence[Look], endpoints: tuple[str, ...]
    ) -> list[Reached]:
        """See ``Watching.tell``."""
        parts, now_ms = self._store.parts, self.now_ms()
        found = await self._read(
            lambda txn: reached.find(txn, parts, watched, looks, now_ms, endpoints)
        )
        new: list[Reached] = []
        size = max(1, AT_ONCE // max(1, len(endpoints)))
        for start in range(0, len(found), size):
            portion, due_ms = found[start : start + size], self._clock_ms()
            written = await self._committer.execute(
                partial(reached.write, parts=parts, found=portion, due_ms=due_ms),
                made=lambda written: len(written) * len(endpoints),
            )
            new += written
        return new
