"""Has idempotency keys forgotten, and then events pruned, when their time is over.

An actor because time passes whoever comes. How far it came is in the ledger. What it does for a
day's events is spread over the day, and within an hour's share it rests between transactions, so
that events never wait for more than one.

A clock that is set forward, rightly or not, makes no key and no event older: time is over when it
has passed, as far as this process can tell. What a paused machine missed is counted by the next
start. That believes its clock; so events, which nobody brings back, go as much later as a clock may
be set forward without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from meterd.domain.errors import DiskFullError
from meterd.domain.instants import format_instant
from meterd.domain.periods import HOUR_MS
from meterd.work.clock import STEP_MAX_MS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meterd.domain.config import Config
    from meterd.forgetting import Forgetting
    from meterd.work.clock import Clock

# A key is remembered for up to so much longer than it has to be.
LOOK_MS: Final = HOUR_MS
# How many times as long as the last transaction took it rests: a fifth of the time is work.
_RESTS: Final = 4

_log = structlog.get_logger("forgetter")


class Forgetter:
    """See above; ``config`` gives the configuration as it is at that moment."""

    def __init__(self, ledger: Forgetting, clock: Clock, config: Callable[[], Config]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._config = config

    async def run(self) -> None:
        """Until cancelled."""
        began_ms, began_at = self._clock.now_ms(), trio.current_time()
        while True:
            now_ms, config = self._clock.now_ms(), self._config()
            passed_ms = round(1000 * (trio.current_time() - began_at))
            until_ms = min(now_ms, began_ms + passed_ms)
            try:
                await self._forget(until_ms - config.idempotency_window_ms)
                if config.retention.events_ms is not None:
                    await self._prune(
                        before_ms=until_ms - STEP_MAX_MS - config.retention.events_ms,
                        ended_ms=until_ms - STEP_MAX_MS - config.admission.past_ms,
                    )
            except DiskFullError:
                pass  # of a key or an event more than was promised nobody is worse off
            await self._clock.wait_until(now_ms + LOOK_MS)

    async def _forget(self, before_ms: int) -> None:
        await _rest_between(lambda: self._ledger.forget_keys(before_ms=before_ms))

    async def _prune(self, *, before_ms: int, ended_ms: int) -> None:
        def prune() -> Awaitable[int]:
            return self._ledger.prune_events(before_ms=before_ms, ended_ms=ended_ms)

        if pruned := await _rest_between(prune):
            until_ms = await self._ledger.pruned_until_ms()
            _log.info("events were pruned", events=pruned, until=format_instant(until_ms))


async def _rest_between(work: Callable[[], Awaitable[int]]) -> int:
    """Until a portion is of nothing; what all of them were of together."""
    began_at, done = trio.current_time(), 0
    while some := await work():
        done += some
        await trio.sleep(_RESTS * (trio.current_time() - began_at))
        began_at = trio.current_time()
    return done
