"""``GET /metrics``: gathers what is measured, and writes it as Prometheus asks for it.

What is counted is read where it is counted, at the moment of the scrape; the store and endpoints in
one short snapshot. So measuring costs the daemon nothing to speak of while nobody asks.
"""

from __future__ import annotations

import platform
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from meterd import __version__
from meterd.built import COMMIT
from meterd.domain.counts import WATCHED_STATUSES
from meterd.domain.endpoint_states import EndpointState
from meterd.edge.holds import state_of
from meterd.edge.metric_families import EndpointReading, Reading, families
from meterd.ledger import EndpointSummary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from meterd.domain.config import Config
    from meterd.domain.counts import EventCounts, RequestCounts
    from meterd.edge.front_door import Statistics
    from meterd.edge.readiness import Readiness
    from meterd.embedded.vital_signs import VitalSigns
    from meterd.work.clock import Clock
    from meterd.work.delivery import DeliveryActor
    from meterd.work.loop_lag import LoopLag
    from meterd.work.threshold_watcher import ThresholdWatcher

_BUILD: Final = {
    "version": __version__,
    "commit": COMMIT or "unknown",
    "python": platform.python_version(),
}


class Engine(Protocol):
    """What an engine tells of itself."""

    @property
    def is_full(self) -> bool: ...

    @property
    def ahead_ms(self) -> int: ...

    async def vital_signs(self) -> VitalSigns: ...


class Sources(NamedTuple):
    """Who counts. ``plain_requests`` are those of the fast lane; the routes count their own."""

    engine: Engine
    config: Callable[[], Config]
    clock: Clock
    readiness: Readiness
    events: EventCounts
    plain_requests: Callable[[], RequestCounts]
    delivery: DeliveryActor
    thresholds: ThresholdWatcher
    loop_lag: LoopLag
    connections: Callable[[], Statistics]


class Metrics:
    """Counts what the routes answer, and reads everything else where it is counted."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._process = ProcessCollector(registry=None)
        self._requests: RequestCounts = Counter()

    def count(self, method: str, route: str, status: int) -> None:
        """A route has answered a request; see ``RequestCounts``."""
        if ("full", method, route, status) not in self._requests:
            for watched in WATCHED_STATUSES:
                self._requests.setdefault(("full", method, route, watched), 0)
        self._requests["full", method, route, status] += 1

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, which are of the format that ``accept`` asks for."""
        reading = await self.read()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Given(families(reading)))
        registry.register(self._process)
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    async def read(self) -> Reading:
        """Everything but the process's own figures."""
        sources = self._sources
        sources.loop_lag.watch()
        signs = await sources.engine.vital_signs()
        return Reading(
            build={**_BUILD, "lmdb": signs.lmdb_version},
            ready=sources.readiness.waits_for is None,
            disk_full=sources.engine.is_full,
            clock_ahead_s=sources.engine.ahead_ms / 1000,
            closing_lag_s=self._closing_lag_s(signs),
            requests=Counter({**sources.plain_requests(), **self._requests}),
            events=sources.events,
            attempts=sources.delivery.counts,
            thresholds=sources.thresholds.reached,
            loop_lag=sources.loop_lag.seconds,
            connections=sources.connections(),
            vital_signs=signs,
            endpoints=self._endpoints(signs),
        )

    def _closing_lag_s(self, signs: VitalSigns) -> float:
        period = signs.next_to_close
        if period is None:
            return 0.0
        due_ms = period.end_ms + self._sources.config().grace_ms
        return max(0, self._sources.clock.now_ms() - due_ms) / 1000

    def _endpoints(self, signs: VitalSigns) -> list[EndpointReading]:
        """Those configured, and those that were and to which something waits or is parked."""
        known = {one.endpoint_id: one for one in signs.endpoints}
        configured = [endpoint.id for endpoint in self._sources.config().webhooks]
        left = [one.endpoint_id for one in signs.endpoints if one.pending or one.parked]
        return [
            self._endpoint(known.get(name) or EndpointSummary(name, EndpointState(), 0, 0))
            for name in dict.fromkeys([*configured, *left])
        ]

    def _endpoint(self, known: EndpointSummary) -> EndpointReading:
        sources = self._sources
        found = (one for one in sources.config().webhooks if one.id == known.endpoint_id)
        state = state_of(known.state, next(found, None), sources.clock.now_ms())
        worker = sources.delivery.worker(known.endpoint_id)
        if state == "on" and worker is not None and worker.is_failing:
            state = "down" if worker.is_down else "failing"
        return EndpointReading(
            known.endpoint_id,
            state,
            known.pending,
            known.parked,
            0 if worker is None else worker.in_air,
        )


class _Given(Collector):
    """Families that have been read already: nothing is waited for while they are written."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found
