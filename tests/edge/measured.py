"""What metrics are read from, without a daemon: figures that a test sets."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

from meterd.domain.counts import CommitCounts, EventCounts
from meterd.edge.front_door import Statistics
from meterd.edge.metrics import Metrics, Sources
from meterd.embedded.store import Space
from meterd.embedded.vital_signs import Backlog, VitalSigns
from meterd.work.loop_lag import LoopLag
from meterd.work.threshold_watcher import ThresholdWatcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.config import Config
    from meterd.domain.counts import RequestCounts
    from meterd.edge.readiness import Readiness
    from meterd.watching import Watching
    from meterd.work.clock import Clock
    from meterd.work.delivery import DeliveryActor


def signs() -> VitalSigns:
    return VitalSigns(
        Backlog(in_flight=3, unposted=5, unposted_keys=7, awake=11),
        CommitCounts(),
        Space(size=40960, free=8192, map=1 << 36, room=1 << 40),
        next_to_close=None,
        pending=0,
        parked=0,
        endpoints=[],
        lmdb_version="0.9.33",
        pruned_events=13,
    )


class FakeEngine:
    """See ``metrics.Engine``."""

    def __init__(self) -> None:
        self.is_full = False
        self.ahead_ms = 0
        self.signs = signs()

    async def vital_signs(self) -> VitalSigns:
        return self.signs


def metrics_over(
    config: Callable[[], Config],
    clock: Clock,
    readiness: Readiness,
    delivery: DeliveryActor,
    *,
    engine: FakeEngine | None = None,
    events: EventCounts | None = None,
    plain_requests: Callable[[], RequestCounts] = Counter,
) -> Metrics:
    return Metrics(
        Sources(
            engine or FakeEngine(),
            config,
            clock,
            readiness,
            events or EventCounts(),
            plain_requests,
            delivery,
            ThresholdWatcher(cast("Watching", None), config),
            LoopLag(),
            lambda: Statistics(9, 4, 20, 1, 2, 3, 5, 6),
        )
    )
