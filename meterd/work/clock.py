"""The only reader of the time of day, and the only one who waits for one.

The time of day may be set back or forward while meterd runs, and a machine may sleep. So waiting
for a time of day is done in naps, each of which looks again.

A step forward of more than a month is not followed: the clock goes on as before it, and says so. An
event that is dated there could never be taken back, nor could the periods that end before it.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

import structlog
import trio

from meterd.domain.durations import format_duration
from meterd.domain.periods import DAY_MS

# A month is the longest period but the year, and no machine sleeps for longer.
STEP_MAX_MS: Final = 35 * DAY_MS
# How late a step of the clock may be noticed.
NAP_SECONDS: Final = 15.0


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z."""

    async def wait_until(self, instant_ms: int) -> None:
        """Returns when it is that time of day, or later; or when the clock was set back meanwhile.

        After a step back the caller looks anew what there is to wait for.
        """

    def fault(self) -> str | None:
        """Why no event should be dated by it now; None where all is well."""


class WallClock:
    """The machine's clock, but for its great steps forward."""

    def __init__(self) -> None:
        # When the machine started, by its clock as it was when it was last believed.
        self._booted_ns = time.time_ns() - _running_ns()
        self._ahead_ms = 0

    def now_ms(self) -> int:
        """See ``Clock``."""
        running_ns = _running_ns()
        booted_ns = time.time_ns() - running_ns
        stepped_ms = (booted_ns - self._booted_ns) // 1_000_000
        if stepped_ms <= STEP_MAX_MS:
            self._booted_ns = booted_ns
            if self._ahead_ms:
                self._ahead_ms = 0
                _log.warning("the clock was set right: events are taken")
        elif not self._ahead_ms:
            self._ahead_ms = stepped_ms
            _log.critical("no event is taken", why=self._why())
        return (self._booted_ns + running_ns) // 1_000_000

    def fault(self) -> str | None:
        """See ``Clock``."""
        self.now_ms()
        return self._why() if self._ahead_ms else None

    def _why(self) -> str:
        stepped = format_duration(self._ahead_ms // DAY_MS * DAY_MS)
        return (
            f"the clock of this machine stepped forward by {stepped}: set it right,"
            " or restart meterd if it is right"
        )

    async def wait_until(self, instant_ms: int) -> None:
        """See ``Clock``."""
        now_ms = self.now_ms()
        while now_ms < instant_ms:
            await trio.sleep(min((instant_ms - now_ms) / 1000, NAP_SECONDS))
            before_ms, now_ms = now_ms, self.now_ms()
            if now_ms < before_ms:
                break
        await trio.lowlevel.checkpoint()


def _running_ns() -> int:
    """How long the machine has been running, also asleep: nobody can set that."""
    return time.clock_gettime_ns(_BOOTTIME)


_BOOTTIME: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_log = structlog.get_logger("clock")
