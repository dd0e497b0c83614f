"""Tells when usage has reached a threshold: looks at whoever's totals were posted, a portion at a
time, and at everybody once when it begins and when the alerts change.

An actor because events come all the time and a reload changes what is watched. Nobody sends to it:
it takes from the ledger what that remembers, which is bounded there. It owns no state: what was
told stands in the ledger, so looking twice tells nothing twice, and what a crash kept from being
told is found by the next start. Events never wait for it: it reads what is posted, some ten seconds
behind them, and rests as long as it works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from meterd.domain.javascript import exact_text
from meterd.domain.thresholds import Watched
from meterd.work.closer import rules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meterd.domain.config import Config
    from meterd.domain.periods import PeriodType
    from meterd.watching import Look, Watching

_log = structlog.get_logger("thresholds")
# Customers read in one snapshot, some 40 us each and period: what a thread keeps from the others.
LOOKS_AT_ONCE: Final = 32


class ThresholdWatcher:
    """See above; ``config`` gives the configuration as it is at that moment. ``reached`` counts
    what was told since the start.
    """

    def __init__(self, ledger: Watching, config: Callable[[], Config]) -> None:
        self._ledger = ledger
        self._config = config
        self._watched: Watched | None = None
        self._watching = trio.CancelScope()
        self._reconfigured = trio.Event()
        self.reached = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Has started when it watches: what closes later is looked at, too."""
        while True:
            self._reconfigured = trio.Event()
            self._watched = watched_of(self._config())
            since_ms = self._ledger.watch(self._watched)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            if self._watched is None:
                await self._reconfigured.wait()
                continue
            with trio.CancelScope() as self._watching:
                await self._look_at_all(self._watched, since_ms)
                await self._look_at_changed(self._watched)

    def reconfigure(self) -> None:
        """Looks at everybody again, if the alerts have changed."""
        if watched_of(self._config()) != self._watched:
            self._reconfigured.set()
            self._watching.cancel()

    async def _look_at_all(self, watched: Watched, since_ms: Mapping[PeriodType, int]) -> None:
        after: str | None = None
        while looks := await self._ledger.users(
            watched, since_ms, limit=LOOKS_AT_ONCE, after=after
        ):
            after = looks[-1].customer_id
            await self._look(watched, looks)

    async def _look_at_changed(self, watched: Watched) -> None:
        while True:
            looks = await self._ledger.changed(limit=LOOKS_AT_ONCE)
            if looks:
                await self._look(watched, looks)
            else:
                since_ms = self._ledger.watch(watched)
                await self._look_at_all(watched, since_ms)

    async def _look(self, watched: Watched, looks: Sequence[Look]) -> None:
        began_at = trio.current_time()
        told = await self._ledger.tell(watched, looks, rules_of(self._config()).endpoints)
        self.reached += len(told)
        for one in told:
            _log.info(
                "threshold reached",
                alert=one.alert,
                customer=one.customer_id,
                event_type=one.event_type,
                period=str(one.period_type),
                period_key=one.period.key,
                threshold=exact_text(one.threshold),
                value=exact_text(one.value),
            )
        await trio.sleep(trio.current_time() - began_at)


def watched_of(config: Config) -> Watched | None:
    """What its alerts ask for; None where there are none."""
    if not config.alerts:
        return None
    return Watched(config.alerts, {name: kind.op for name, kind in config.events.items()})
