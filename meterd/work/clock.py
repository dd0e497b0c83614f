"""The only reader of the time of day, and the only one who waits for one.

The time of day may be set back or forward while meterd runs, and a machine may sleep. So waiting
for a time of day is done in naps, each of which looks again.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

import trio

# How late a step of the clock may be noticed.
NAP_SECONDS: Final = 15.0


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z."""

    async def wait_until(self, instant_ms: int) -> None:
        """Returns when it is that time of day, or later; or when the clock was set back meanwhile.

        After a step back the caller looks anew what there is to wait for.
        """


class WallClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """See ``Clock``."""
        return time.time_ns() // 1_000_000

    async def wait_until(self, instant_ms: int) -> None:
        """See ``Clock``."""
        now_ms = self.now_ms()
        while now_ms < instant_ms:
            await trio.sleep(min((instant_ms - now_ms) / 1000, NAP_SECONDS))
            before_ms, now_ms = now_ms, self.now_ms()
            if now_ms < before_ms:
                break
        await trio.lowlevel.checkpoint()
