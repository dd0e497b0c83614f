"""What meterd measures, in the names and types of Prometheus.

A pure function of a Reading. Names and labels are promised: dashboards and alerts are written with
them. No label is a name that a client of the API chose, so there are never more series than the
configuration has webhooks for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from meterd.domain.counts import AttemptCounts, EventCounts, Histogram, RequestCounts
from meterd.edge.front_door import Statistics
from meterd.embedded.vital_signs import VitalSigns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

# What keeps everything from an endpoint: its pending deliveries are held.
HELD_STATES: Final = ("paused", "gone", "off", "removed")
# As ``holds.state_of`` has them, and how the breaker sees one that is on: asked for one attempt at
# a time of what failed before (``failing``), or of everything (``down``).
ENDPOINT_STATES: Final = ("on", "failing", "down", *HELD_STATES)


class EndpointReading(msgspec.Struct, frozen=True):
    """``state`` is one of ENDPOINT_STATES."""

    id: str
    state: str
    pending: int
    parked: int
    in_air: int


class Reading(msgspec.Struct, frozen=True):
    """All that is measured, as it is at one moment."""

    build: dict[str, str]
    ready: bool
    disk_full: bool
    clock_ahead_s: float
    closing_lag_s: float
    requests: RequestCounts
    events: EventCounts
    attempts: AttemptCounts
    thresholds: int
    loop_lag: Histogram
    connections: Statistics
    vital_signs: VitalSigns
    endpoints: list[EndpointReading]


def families(reading: Reading) -> Iterator[Metric]:
    yield InfoMetricFamily("meterd_build", "What runs.", value=reading.build)
    yield from _ingest(reading)
    yield from _closing(reading)
    yield from _delivery(reading)
    yield from _store(reading)
    yield from _process(reading)


def _ingest(reading: Reading) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "meterd_requests",
        "Requests answered, by lane (plain: events in the fast lane; full: all others), method,"
        " route and status.",
        labels=("lane", "method", "route", "status"),
    )
    for (lane, method, route, status), count in sorted(reading.requests.items()):
        requests.add_metric((lane, method, route, str(int(status))), count)
    yield requests
    events = CounterMetricFamily(
        "meterd_events",
        "Events by what they were answered: stored and duplicate are acknowledged.",
        labels=("outcome",),
    )
    for outcome, count in msgspec.structs.asdict(reading.events).items():
        events.add_metric((outcome,), count)
    yield events
    backlog = reading.vital_signs.backlog
    yield _gauge(
        "meterd_events_in_flight", "Events that wait to be on disk and answered.", backlog.in_flight
    )
    yield _gauge(
        "meterd_events_unposted",
        "Events on disk that are not yet in the totals there: a start after a crash counts these.",
        backlog.unposted,
    )
    yield _gauge(
        "meterd_idempotency_keys_unposted",
        "Idempotency keys in memory that are not yet in the index on disk.",
        backlog.unposted_keys,
    )
    yield CounterMetricFamily(
        "meterd_events_pruned",
        "Events that were deleted because their time is over (retention.events), in all.",
        reading.vital_signs.pruned_events,
    )
    yield _gauge("meterd_customers_awake", "Customers whose totals are in memory.", backlog.awake)
    commits = reading.vital_signs.commits
    yield _histogram("meterd_transaction_events", "Events in a transaction.", commits.events)
    yield _histogram(
        "meterd_transaction_seconds",
        "How long a transaction takes until it is on disk.",
        commits.seconds,
    )


def _closing(reading: Reading) -> Iterator[Metric]:
    yield _gauge(
        "meterd_closing_lag_seconds",
        "How long the oldest period that is due, its grace over, has not been closed; 0 if none.",
        reading.closing_lag_s,
    )
    yield CounterMetricFamily(
        "meterd_thresholds_reached",
        "Thresholds of alerts that usage reached, told once each.",
        reading.thresholds,
    )
    yield _gauge(
        "meterd_clock_ahead_seconds",
        "How far what is stored is ahead of the clock: events are dated alike meanwhile.",
        reading.clock_ahead_s,
    )


def _delivery(reading: Reading) -> Iterator[Metric]:
    signs = reading.vital_signs
    exact = {"pending": signs.pending, "parked": signs.parked}
    yield _gauges(
        "meterd_deliveries",
        "Deliveries of all webhooks that wait (pending) or were given up (parked).",
        "state",
        exact.items(),
    )
    depth = GaugeMetricFamily(
        "meterd_endpoint_deliveries",
        "Deliveries of a webhook that wait (pending; held: nothing is sent to it), were given up"
        " (parked) or are being sent (in_air); of those that wait or are parked 10000 stands for"
        " that many or more.",
        labels=("endpoint", "state"),
    )
    state = GaugeMetricFamily(
        "meterd_endpoint_state",
        "1 for the state that a webhook is in, 0 for the others.",
        labels=("endpoint", "state"),
    )
    for endpoint in reading.endpoints:
        held = endpoint.state in HELD_STATES
        for name, count in (
            ("pending", 0 if held else endpoint.pending),
            ("held", endpoint.pending if held else 0),
            ("parked", endpoint.parked),
            ("in_air", endpoint.in_air),
        ):
            depth.add_metric((endpoint.id, name), count)
        for name in ENDPOINT_STATES:
            state.add_metric((endpoint.id, name), name == endpoint.state)
    yield depth
    yield state
    attempts = CounterMetricFamily(
        "meterd_attempts",
        "Attempts to deliver, by webhook and what came of them: a class of status, or what they"
        " ended by.",
        labels=("endpoint", "outcome"),
    )
    for (endpoint_id, outcome), count in sorted(reading.attempts.attempts.items()):
        attempts.add_metric((endpoint_id, outcome), count)
    yield attempts
    parked = CounterMetricFamily(
        "meterd_deliveries_parked",
        "Deliveries that were given up since the start.",
        labels=("endpoint",),
    )
    # From 0 on: what begins with its first one has not increased, as Prometheus sees it.
    for endpoint_id in sorted({one.id for one in reading.endpoints} | {*reading.attempts.parked}):
        parked.add_metric((endpoint_id,), reading.attempts.parked[endpoint_id])
    yield parked


def _store(reading: Reading) -> Iterator[Metric]:
    space = reading.vital_signs.space
    yield _gauge("meterd_store_size_bytes", "The size of the data file.", space.size)
    yield _gauge(
        "meterd_store_free_bytes",
        "Free pages in the data file, which are used before it grows.",
        space.free,
    )
    yield _gauge(
        "meterd_store_map_bytes",
        "Address space for the data file; doubled when it is full.",
        space.map,
    )
    yield _gauge(
        "meterd_disk_room_bytes", "By how much the data file may grow on its disk.", space.room
    )
    yield _gauge(
        "meterd_disk_full", "1 while events are refused for want of room.", reading.disk_full
    )


def _process(reading: Reading) -> Iterator[Metric]:
    yield _gauge("meterd_ready", "What /readyz says: 1 is 200.", reading.ready)
    yield _histogram(
        "meterd_loop_lag_seconds",
        "How late a task gets its turn: what every request waits at least.",
        reading.loop_lag,
    )
    now = reading.connections
    yield _gauges(
        "meterd_connections",
        "Connections that are open.",
        "state",
        (("busy", now.open - now.idle), ("idle", now.idle)),
    )
    ended = CounterMetricFamily(
        "meterd_connection_events",
        "What became of connections: accepted; of these, turned away since there was no place,"
        " ended while idle to make one, without a handshake, or failed.",
        labels=("event",),
    )
    for event, count in (
        ("accepted", now.accepted),
        ("turned_away", now.turned_away),
        ("ended_for_room", now.expired_for_room),
        ("handshake_failed", now.handshakes_failed),
        ("failed", now.failed),
    ):
        ended.add_metric((event,), count)
    yield ended
    refused = CounterMetricFamily(
        "meterd_requests_malformed", "Requests refused before any route, for how they were sent."
    )
    refused.add_metric((), now.requests_refused)
    yield refused


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _gauges(name: str, what: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=(label,))
    for state, value in values:
        family.add_metric((state,), value)
    return family


def _histogram(name: str, what: str, histogram: Histogram) -> Metric:
    buckets = [
        ("+Inf" if bound == math.inf else repr(float(bound)), float(count))
        for bound, count in histogram.cumulative()
    ]
    return HistogramMetricFamily(name, what, buckets=buckets, sum_value=histogram.total)
