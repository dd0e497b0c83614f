"""Has idempotency keys forgotten when their time is over.

An actor because time passes whoever comes. How far it came is in the ledger. What it does for a
day's events is spread over the day, and within an hour's share it rests between transactions, so
that events never wait for more than one.

A clock that is set forward, rightly or not, makes no key older: time is over when it has passed, as
far as this process can tell. What a paused machine missed is counted by the next start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from meterd.domain.errors import DiskFullError
from meterd.domain.periods import HOUR_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.config import Config
    from meterd.ledger import Ledger
    from meterd.work.clock import Clock

# A key is remembered for up to so much longer than it has to be.
LOOK_MS: Final = HOUR_MS
# How many times as long as the last transaction took it rests: a fifth of the time is work.
_RESTS: Final = 4


class Forgetter:
    """See above; ``config`` gives the configuration as it is at that moment."""

    def __init__(self, ledger: Ledger, clock: Clock, config: Callable[[], Config]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._config = config

    async def run(self) -> None:
        """Until cancelled."""
        began_ms, began_at = self._clock.now_ms(), trio.current_time()
        while True:
            now_ms = self._clock.now_ms()
            passed_ms = round(1000 * (trio.current_time() - began_at))
            until_ms = min(now_ms, began_ms + passed_ms)
            try:
                await self._forget(until_ms - self._config().idempotency_window_ms)
            except DiskFullError:
                pass  # of a key more than was promised nobody is worse off
            await self._clock.wait_until(now_ms + LOOK_MS)

    async def _forget(self, before_ms: int) -> None:
        began_at = trio.current_time()
        while await self._ledger.forget_keys(before_ms=before_ms):
            await trio.sleep(_RESTS * (trio.current_time() - began_at))
            began_at = trio.current_time()
