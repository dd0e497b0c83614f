"""Names, types and labels as Prometheus reads them, in both of its formats."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_classic
from prometheus_client.registry import Collector

from meterd.domain.counts import LAG_SECONDS_BOUNDS, AttemptCounts, EventCounts, Histogram
from meterd.edge.front_door import Statistics
from meterd.edge.metric_families import ENDPOINT_STATES, EndpointReading, Reading, families
from tests.edge.measured import signs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

PAGE = Path(__file__).parent.parent.parent / "docs" / "monitoring.md"
# Whatever is written with them outside stops working when one of these goes or changes.
PROMISED = {
    "meterd_build_info": {"version", "python", "lmdb"},
    "meterd_requests_total": {"lane", "method", "route", "status"},
    "meterd_events_total": {"outcome"},
    "meterd_events_in_flight": set(),
    "meterd_events_unposted": set(),
    "meterd_idempotency_keys_unposted": set(),
    "meterd_events_pruned_total": set(),
    "meterd_customers_awake": set(),
    "meterd_transaction_events_bucket": {"le"},
    "meterd_transaction_events_count": set(),
    "meterd_transaction_events_sum": set(),
    "meterd_transaction_seconds_bucket": {"le"},
    "meterd_transaction_seconds_count": set(),
    "meterd_transaction_seconds_sum": set(),
    "meterd_closing_lag_seconds": set(),
    "meterd_thresholds_reached_total": set(),
    "meterd_clock_ahead_seconds": set(),
    "meterd_deliveries": {"state"},
    "meterd_endpoint_deliveries": {"endpoint", "state"},
    "meterd_endpoint_state": {"endpoint", "state"},
    "meterd_attempts_total": {"endpoint", "outcome"},
    "meterd_deliveries_parked_total": {"endpoint"},
    "meterd_store_size_bytes": set(),
    "meterd_store_free_bytes": set(),
    "meterd_store_map_bytes": set(),
    "meterd_disk_room_bytes": set(),
    "meterd_disk_full": set(),
    "meterd_ready": set(),
    "meterd_loop_lag_seconds_bucket": {"le"},
    "meterd_loop_lag_seconds_count": set(),
    "meterd_loop_lag_seconds_sum": set(),
    "meterd_connections": {"state"},
    "meterd_connection_events_total": {"event"},
    "meterd_requests_malformed_total": set(),
}


def reading(**changes: Any) -> Reading:
    attempts = AttemptCounts()
    attempts.attempts["billing", "5xx"] = 8
    attempts.parked["billing"] = 2
    plain = Reading(
        build={"version": "0", "python": "3", "lmdb": "0.9"},
        ready=True,
        disk_full=False,
        clock_ahead_s=0.25,
        closing_lag_s=12.5,
        requests=Counter({("plain", "POST", "/usage/{eventType}", 201): 17}),
        events=EventCounts(stored=1, duplicate=2, conflict=3, refused=4),
        attempts=attempts,
        thresholds=3,
        loop_lag=Histogram(LAG_SECONDS_BOUNDS),
        connections=Statistics(9, 4, 20, 1, 2, 3, 5, 6),
        vital_signs=msgspec.structs.replace(signs(), pending=30, parked=40),
        endpoints=[
            EndpointReading("billing", "paused", pending=6, parked=1, in_air=2),
            EndpointReading("crm", "on", pending=3, parked=0, in_air=1),
        ],
    )
    return msgspec.structs.replace(plain, **changes)


class _Given(Collector):
    def __init__(self, given: Reading) -> None:
        self._given = given

    def collect(self) -> Iterable[Metric]:
        return families(self._given)


def registry(given: Reading) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(_Given(given))
    return made


def samples(given: Reading) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Values by name and labels, from the text that a scrape gets."""
    text = generate_latest(registry(given)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_classic(text)
        for sample in family.samples
    }


def value(given: Reading, name: str, **labels: str) -> float:
    return samples(given)[name, frozenset(labels.items())]


def test_names_and_labels_are_those_promised() -> None:
    """All of them, each sample of one with the same labels, and no other."""
    found: dict[str, set[str]] = {}
    for name, labels in samples(reading()):
        assert found.setdefault(name, {label for label, _ in labels}) == {
            each for each, _ in labels
        }
    assert found == PROMISED


def test_the_page_tells_of_each() -> None:
    """By the name of its family, and of no other."""
    told = set(re.findall(r"`(meterd_\w+)`", PAGE.read_text()))
    exported = {re.sub(r"_(bucket|count|sum)$", "", name) for name in PROMISED}
    assert told == exported


def test_openmetrics_is_read_strictly() -> None:
    """Its own parser takes the text to its end: counters, histograms and info are what they say."""
    text = generate_openmetrics(registry(reading())).decode()  # type: ignore[no-untyped-call]
    read = read_openmetrics(text)  # type: ignore[no-untyped-call]
    kinds = {family.name: family.type for family in read}
    assert kinds["meterd_build"] == "info"
    assert kinds["meterd_requests"] == "counter"
    assert kinds["meterd_loop_lag_seconds"] == "histogram"
    assert kinds["meterd_store_size_bytes"] == "gauge"


def test_every_family_is_explained() -> None:
    """In one line, and units stand at the end of names."""
    for family in families(reading()):
        assert re.fullmatch(r"[A-Z0-9].*\.", family.documentation), family.name
        assert not re.search(r"_(ms|milliseconds|kb|mb)\b", family.name)


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        (
            "meterd_requests_total",
            {"lane": "plain", "method": "POST", "route": "/usage/{eventType}", "status": "201"},
            17,
        ),
        ("meterd_events_total", {"outcome": "stored"}, 1),
        ("meterd_events_total", {"outcome": "duplicate"}, 2),
        ("meterd_events_total", {"outcome": "conflict"}, 3),
        ("meterd_events_total", {"outcome": "refused"}, 4),
        ("meterd_events_in_flight", {}, 3),
        ("meterd_events_unposted", {}, 5),
        ("meterd_idempotency_keys_unposted", {}, 7),
        ("meterd_customers_awake", {}, 11),
        ("meterd_events_pruned_total", {}, 13),
        ("meterd_closing_lag_seconds", {}, 12.5),
        ("meterd_thresholds_reached_total", {}, 3.0),
        ("meterd_clock_ahead_seconds", {}, 0.25),
        ("meterd_deliveries", {"state": "pending"}, 30),
        ("meterd_deliveries", {"state": "parked"}, 40),
        ("meterd_attempts_total", {"endpoint": "billing", "outcome": "5xx"}, 8),
        ("meterd_deliveries_parked_total", {"endpoint": "billing"}, 2),
        ("meterd_deliveries_parked_total", {"endpoint": "crm"}, 0),
        ("meterd_store_size_bytes", {}, 40960),
        ("meterd_store_free_bytes", {}, 8192),
        ("meterd_store_map_bytes", {}, 1 << 36),
        ("meterd_disk_room_bytes", {}, 1 << 40),
        ("meterd_disk_full", {}, 0),
        ("meterd_ready", {}, 1),
        ("meterd_connections", {"state": "busy"}, 5),
        ("meterd_connections", {"state": "idle"}, 4),
        ("meterd_connection_events_total", {"event": "accepted"}, 20),
        ("meterd_connection_events_total", {"event": "ended_for_room"}, 1),
        ("meterd_connection_events_total", {"event": "turned_away"}, 2),
        ("meterd_requests_malformed_total", {}, 3),
        ("meterd_connection_events_total", {"event": "handshake_failed"}, 5),
        ("meterd_connection_events_total", {"event": "failed"}, 6),
    ],
)
def test_each_figure_has_its_place(name: str, labels: dict[str, str], expected: float) -> None:
    """None is another's."""
    assert value(reading(), name, **labels) == expected


@pytest.mark.parametrize("state", ENDPOINT_STATES)
def test_an_endpoint_is_in_one_state(state: str) -> None:
    """1 for that, 0 for all others; and what is pending is held where nothing is sent."""
    given = reading(endpoints=[EndpointReading("crm", state, pending=5, parked=1, in_air=0)])
    shown = {
        other: value(given, "meterd_endpoint_state", endpoint="crm", state=other)
        for other in ENDPOINT_STATES
    }
    assert shown == {other: float(other == state) for other in ENDPOINT_STATES}
    depth = [
        value(given, "meterd_endpoint_deliveries", endpoint="crm", state=kind)
        for kind in ("pending", "held", "parked", "in_air")
    ]
    held = state in {"paused", "gone", "off", "removed"}
    assert depth == ([0, 5, 1, 0] if held else [5, 0, 1, 0])


def test_a_histogram_is_cumulative() -> None:
    """Each bucket holds those before it; the last one all."""
    lag = Histogram((0.001, 5, 20_000))
    for seconds in (0.0005, 0.002, 6, 30_000):
        lag.observe(seconds)
    given = reading(loop_lag=lag)
    buckets = [
        value(given, "meterd_loop_lag_seconds_bucket", le=bound)
        for bound in ("0.001", "5.0", "20000.0", "+Inf")
    ]
    assert buckets == [1, 2, 3, 4]
    assert value(given, "meterd_loop_lag_seconds_count") == 4
    assert value(given, "meterd_loop_lag_seconds_sum") == pytest.approx(30_006.0025)


def test_an_id_is_escaped() -> None:
    """What stands in the configuration cannot end a line of the text."""
    given = reading(endpoints=[EndpointReading('a"b\\c\nd', "on", 1, 0, 0)])
    assert value(given, "meterd_endpoint_state", endpoint='a"b\\c\nd', state="on") == 1
