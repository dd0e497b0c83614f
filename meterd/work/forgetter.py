"""Has idempotency keys forgotten, and then events pruned, when their time is over.

An actor because time passes whoever comes. How far it came is in the ledger. What it does for a
day's events is spread over the day, and within an hour's share it rests between transactions, so
that events never wait for more than one.

A clock that is set forward, rightly or not, makes no key and no event older: time is over when it
has passed, as far as this process can tell. What a paused machine missed is counted by the next
start. That believes its clock; so events, which nobody brings back, go as much later as a clock may
be set forward without a word. Where it starts with a clock that far ahead of all that is stored,
none go until it has run for as long.

A damaged record is said, and ends nothing: who sends events does not depend on old ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from meterd.domain.errors import CorruptRecordError, DiskFullError
from meterd.domain.instants import format_instant
from meterd.domain.periods import HOUR_MS
from meterd.work.clock import STEP_MAX_MS

if TYPE_CHECKING:
    from collections.abc import Callable

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
        is_far_ahead = self._is_far_ahead(began_ms)
        while True:
            now_ms, config = self._clock.now_ms(), self._config()
            passed_ms = round(1000 * (trio.current_time() - began_at))
            until_ms = min(now_ms, began_ms + passed_ms)
            try:
                await self._forget(until_ms - config.idempotency_window_ms)
                may_prune = not is_far_ahead or passed_ms >= STEP_MAX_MS
                if may_prune and config.retention.events_ms is not None:
                    await self._prune(
                        before_ms=until_ms - STEP_MAX_MS - config.retention.events_ms,
                        ended_ms=until_ms - STEP_MAX_MS - config.admission.past_ms,
                    )
            except DiskFullError:
                pass  # of a key or an event more than was promised nobody is worse off
            except CorruptRecordError as damage:
                _log.error(
                    "a stored record is damaged, and keeps keys or events whose time is over: run"
                    " meterd verify, and restore a backup",
                    error=str(damage),
                )
            await self._clock.wait_until(now_ms + LOOK_MS)

    def _is_far_ahead(self, began_ms: int) -> bool:
        last_ms = self._ledger.last_before_start_ms()
        is_far_ahead = 0 < last_ms < began_ms - STEP_MAX_MS
        if is_far_ahead and self._config().retention.events_ms is not None:
            _log.warning(
                "the last event came long before this start, or the clock is ahead: no events are"
                " pruned for now",
                last=format_instant(last_ms),
                until=format_instant(began_ms + STEP_MAX_MS),
            )
        return is_far_ahead

    async def _forget(self, before_ms: int) -> None:
        began_at = trio.current_time()
        while await self._ledger.forget_keys(before_ms=before_ms):
            began_at = await _rest(began_at)

    async def _prune(self, *, before_ms: int, ended_ms: int) -> None:
        """For an hour at most: what is over meanwhile, keys above all, must not wait for days. In
        turns with what indexes still name of it, or that would grow until all is deleted.
        """
        began_at, pruned = trio.current_time(), 0
        ends_at = began_at + LOOK_MS / 1000
        try:
            while began_at < ends_at:
                some = await self._ledger.prune_events(before_ms=before_ms, ended_ms=ended_ms)
                pruned += some
                began_at = await _rest(began_at)
                looked = await self._ledger.sweep_pruned()
                began_at = await _rest(began_at)
                if not some and not looked:
                    break
        finally:
            if pruned:
                await self._say_pruned(pruned)

    async def _say_pruned(self, events: int) -> None:
        # Also amid a stop: what was deleted is never left unsaid.
        with trio.CancelScope(shield=True):
            until_ms = await self._ledger.pruned_until_ms()
        _log.info("events were pruned", events=events, until=format_instant(until_ms))


async def _rest(began_at: float) -> float:
    """Behind a portion that was begun then; returns when the next one begins."""
    await trio.sleep(_RESTS * (trio.current_time() - began_at))
    return trio.current_time()
