"""Says when the ledger's time is ahead of the clock.

It never goes back (``engine.now_ms``), so a clock that was ahead once, or is behind now, has every
event dated at one moment until it catches up: totals are right, and in the wrong hour. Nobody would
know but for what is said here.
"""

from __future__ import annotations

from math import inf
from typing import Final

import structlog
import trio

from meterd.domain.durations import format_duration
from meterd.domain.instants import format_instant

# Clocks that are put right by their machine are off by less.
TOLERATED_MS: Final = 60_000
# How often it is said again.
SAID_SECONDS: Final = 3600.0

_log = structlog.get_logger("ledger")


class Ahead:
    """Shown the time of each append, it says when it begins, each hour that it goes on, and when it
    ends.
    """

    def __init__(self) -> None:
        self._is_ahead = False
        self._said_at = -inf

    def look(self, clock_ms: int, ledger_ms: int) -> None:
        """Events are dated ``ledger_ms`` when the clock says ``clock_ms``."""
        is_ahead = ledger_ms - clock_ms > TOLERATED_MS
        if not (is_ahead or self._is_ahead):
            return
        if not is_ahead:
            _log.warning("the clock has caught up: events are dated by it again")
        elif not self._is_ahead or trio.current_time() >= self._said_at + SAID_SECONDS:
            self._said_at = trio.current_time()
            _log.error(
                "the clock is behind what is stored: until it has caught up, all events are dated"
                " alike. Set it right if it is wrong; if it was ahead before, see docs/limits.md",
                behind=format_duration((ledger_ms - clock_ms) // 1000 * 1000),
                clock=format_instant(clock_ms),
                dated=format_instant(ledger_ms),
            )
        self._is_ahead = is_ahead
