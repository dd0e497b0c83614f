"""What a status is, out of the figures that a daemon measures."""

from __future__ import annotations

import msgspec
import pytest

from meterd.status_reading import Measured, Status, facts_of, measured, parse

PAGE = """\
# HELP meterd_events_total Events.
# TYPE meterd_events_total counter
meterd_events_total{{outcome="stored"}} {stored}
meterd_events_total{{outcome="refused"}} 3.0
# TYPE meterd_requests_total counter
meterd_requests_total{{lane="plain",method="POST",route="/usage",status="201"}} {requests}
meterd_requests_total{{lane="full",method="GET",route="/metrics",status="200"}} 2.0
# TYPE meterd_endpoint_state gauge
meterd_endpoint_state{{endpoint="billing",state="on"}} 0.0
meterd_endpoint_state{{endpoint="billing",state="paused"}} 1.0
meterd_endpoint_deliveries{{endpoint="billing",state="held"}} 12.0
meterd_endpoint_deliveries{{endpoint="billing",state="parked"}} 1.0
meterd_deliveries{{state="pending"}} 1012.0
meterd_deliveries{{state="parked"}} 1.0
meterd_closing_lag_seconds 90.5
meterd_store_size_bytes 3145728.0
meterd_store_free_bytes 1048576.0
meterd_disk_room_bytes 2147483648.0
meterd_disk_full 1.0
meterd_events_in_flight 5.0
meterd_connections{{state="busy"}} 1.0
meterd_connections{{state="idle"}} 2.0
process_start_time_seconds 1000.0
process_resident_memory_bytes 10485760.0
"""


def looked(
    stored: int = 2000, requests: int = 30
) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    return parse(PAGE.format(stored=stored, requests=requests))


def found() -> Measured:
    return measured(looked(), looked(1000, 10), now_s=94_661.0, between_s=2.0)


def test_rates_are_of_two_looks() -> None:
    """By the time between them; of one look there are none."""
    assert (found().events_per_second, found().requests_per_second) == (500.0, 10.0)
    once = measured(looked(), None, now_s=2000.0, between_s=1.0)
    assert (once.events_per_second, once.requests_per_second) == (None, None)
    assert "now" not in facts_of(Status("u", "1", ready=True, measured=once))


def test_everything_that_one_asks_is_told() -> None:
    """In lines, the first thing first."""
    shown = facts_of(
        Status("http://a", "0.1.0", ready=False, notes={"reason": "counting"}, measured=found())
    )
    assert list(shown.items()) == [
        ("meterd", "0.1.0 at http://a"),
        ("state", "not ready"),
        ("reason", "counting"),
        ("up", "1d2h1m1s"),
        ("events", "2,000 stored, 0 duplicate, 0 conflict, 3 refused"),
        ("now", "500 events/s, 10 requests/s; 5 in flight"),
        ("closing", "the oldest period that is due waits for 1m30s"),
        ("outbox", "1,012 waiting, 1 parked"),
        ("webhooks", ["billing: paused, 12 held, 1 parked"]),
        (
            "disk",
            "store 3.0 MiB, 1.0 free in it; FULL: events are refused; room for 2.0 GiB",
        ),
        ("memory", "10 MiB; 3 connections"),
    ]


def test_little_room_is_told_in_mebibytes() -> None:
    """When each of them counts."""
    little = msgspec.structs.replace(found(), disk_room_bytes=3 << 19)
    shown = facts_of(Status("http://a", "0.1.0", ready=True, notes={}, measured=little))
    assert str(shown["disk"]).endswith("; room for 1.5 MiB")


@pytest.mark.parametrize("page", ["", "# TYPE another gauge\nanother 1.0\n"])
def test_a_daemon_that_measures_something_else_has_less_to_show(page: str) -> None:
    """Nothing fails for it."""
    seen = measured(parse(page), parse(page), now_s=1.0, between_s=1.0)
    assert (seen.events["stored"], seen.webhooks, seen.uptime_seconds) == (0, [], 0.0)
    assert facts_of(Status("u", "9", ready=True, measured=seen))["webhooks"] == "none"
