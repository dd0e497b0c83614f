"""A time of day that goes with trio's mock clock, and is set back and forth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from meterd.work.clock import NAP_SECONDS

if TYPE_CHECKING:
    from random import Random


class VirtualClock:
    """See ``work.clock.Clock``.

    Who waits is woken when the time has come, and by a step; not by naps, of which a simulated year
    would have two million. As with naps, a step is noticed a moment late, and a step back that is
    shorter than that moment is not noticed to be one.
    """

    def __init__(self, start_ms: int, random: Random) -> None:
        self._zero_ms = start_ms
        self._random = random
        self._lot = trio.lowlevel.ParkingLot()
        self._is_behind = False
        # What it showed at most before it was last set back.
        self._before_step_ms = start_ms
        # By trio's clock, which is never set.
        self.stepped_at_s = -math.inf

    def now_ms(self) -> int:
        """See ``Clock``."""
        return self._zero_ms + int(trio.current_time() * 1000 + 1e-4)

    @property
    def latest_ms(self) -> int:
        """The latest time that it ever showed."""
        return max(self._before_step_ms, self.now_ms())

    async def wait_until(self, instant_ms: int) -> None:
        """See ``Clock``."""
        while (now_ms := self.now_ms()) < instant_ms:
            with trio.move_on_after((instant_ms - now_ms) / 1000):
                await self._lot.park()
                if self._is_behind:
                    break
        await trio.lowlevel.checkpoint()

    def fault(self) -> None:
        """It steps by days, and not by months."""

    async def step(self, ms: int) -> None:
        """Sets it forward, or back."""
        self._before_step_ms = self.latest_ms
        self.stepped_at_s = trio.current_time()
        self._zero_ms += ms
        late_s = self._random.uniform(0, NAP_SECONDS)
        await trio.sleep(late_s)
        self._is_behind = ms + late_s * 1000 < 0
        self._lot.unpark_all()
        # They look at it in their next turn, which comes before anybody sleeps to an end.
        await trio.sleep(0.001)
        self._is_behind = False
