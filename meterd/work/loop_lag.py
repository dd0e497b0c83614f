"""How long everything waits for everything else: one loop does all of it, one piece at a time.

An actor because only a task that wants its turn at a known moment can tell how late it got it. It
looks while somebody wants to know and sleeps else, since an idle meterd sleeps; told so by whoever
reads ``seconds``.
"""

from __future__ import annotations

from math import inf
from typing import Final

import trio

from meterd.domain.counts import LAG_SECONDS_BOUNDS, Histogram

# A piece of work of 25 ms is met by a tenth of its turns; to look costs 0.02 % of a core.
LOOK_SECONDS: Final = 0.25
# Behind the last time that somebody read it: several scrapes' time.
WATCHED_SECONDS: Final = 300.0


class LoopLag:
    """``seconds`` has one value for each look: how late it was."""

    def __init__(self) -> None:
        self.seconds = Histogram(LAG_SECONDS_BOUNDS)
        self._watched_until = -inf
        self._somebody = trio.lowlevel.ParkingLot()

    def watch(self) -> None:
        """Somebody reads ``seconds``, and will again."""
        self._watched_until = trio.current_time() + WATCHED_SECONDS
        self._somebody.unpark_all()

    async def run(self) -> None:
        """Looks, while it is watched, until cancelled."""
        while True:
            if trio.current_time() >= self._watched_until:
                await self._somebody.park()
            wanted_at = trio.current_time() + LOOK_SECONDS
            await trio.sleep_until(wanted_at)
            self.seconds.observe(max(0.0, trio.current_time() - wanted_at))
