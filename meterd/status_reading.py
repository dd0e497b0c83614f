"""What ``meterd status`` shows, out of what a daemon answers: ``/readyz``, ``/`` and ``/metrics``.

Pure. A daemon that measures something else, being older or newer, has less to show.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from meterd.domain.durations import format_duration
from meterd.domain.plurals import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Figures = dict[str, dict[tuple[tuple[str, str], ...], float]]

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_OUTCOMES: Final = ("stored", "duplicate", "conflict", "refused")


class Webhook(msgspec.Struct, rename="camel"):
    id: str
    state: str
    pending: int = 0
    held: int = 0
    parked: int = 0


class Status(msgspec.Struct, rename="camel", omit_defaults=True):
    """``measured`` is None where the key may not see it, or there is none."""

    url: str
    version: str
    ready: bool
    # Why it is not ready, and what is wrong though it is.
    notes: dict[str, str] = {}
    measured: Measured | None = None


class Measured(msgspec.Struct, rename="camel"):
    uptime_seconds: float
    events: dict[str, int]
    # By the seconds between two looks; None where there was one look.
    events_per_second: float | None
    requests_per_second: float | None
    events_in_flight: int
    closing_lag_seconds: float
    pending: int
    parked: int
    webhooks: list[Webhook]
    store_bytes: int
    free_bytes: int
    disk_room_bytes: int
    disk_full: bool
    memory_bytes: int
    connections: int


def parse(page: str) -> Figures:
    """By name of sample and labels."""
    figures: Figures = defaultdict(dict)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            figures[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return figures


def measured(now: Figures, before: Figures | None, *, now_s: float, between_s: float) -> Measured:
    """``now_s`` is the time of day, ``between_s`` how far the two looks are apart."""
    started_s = _one(now, "process_start_time_seconds")
    events = {name: int(_one(now, "meterd_events_total", outcome=name)) for name in _OUTCOMES}

    def rate(name: str, **labels: str) -> float | None:
        if before is None:
            return None
        return round((_sum(now, name, labels) - _sum(before, name, labels)) / between_s, 1)

    return Measured(
        uptime_seconds=round(max(now_s - started_s, 0), 1) if started_s else 0.0,
        events=events,
        events_per_second=rate("meterd_events_total", outcome="stored"),
        requests_per_second=rate("meterd_requests_total"),
        events_in_flight=int(_one(now, "meterd_events_in_flight")),
        closing_lag_seconds=round(_one(now, "meterd_closing_lag_seconds"), 1),
        pending=int(_one(now, "meterd_deliveries", state="pending")),
        parked=int(_one(now, "meterd_deliveries", state="parked")),
        webhooks=list(_webhooks(now)),
        store_bytes=int(_one(now, "meterd_store_size_bytes")),
        free_bytes=int(_one(now, "meterd_store_free_bytes")),
        disk_room_bytes=int(_one(now, "meterd_disk_room_bytes")),
        disk_full=bool(_one(now, "meterd_disk_full")),
        memory_bytes=int(_one(now, "process_resident_memory_bytes")),
        connections=int(_sum(now, "meterd_connections", {})),
    )


def _one(figures: Figures, name: str, **labels: str) -> float:
    return figures[name].get(tuple(sorted(labels.items())), 0.0)


def _sum(figures: Figures, name: str, labels: Mapping[str, str]) -> float:
    wanted = set(labels.items())
    return sum(value for found, value in figures[name].items() if wanted <= set(found))


def _webhooks(figures: Figures) -> Iterator[Webhook]:
    for found, value in figures["meterd_endpoint_state"].items():
        labels = dict(found)
        if value:
            counts = {
                state: int(
                    _one(
                        figures,
                        "meterd_endpoint_deliveries",
                        endpoint=labels["endpoint"],
                        state=state,
                    )
                )
                for state in ("pending", "held", "parked")
            }
            yield Webhook(labels["endpoint"], labels["state"], **counts)


def facts_of(status: Status) -> dict[str, Any]:
    """For people, in the order in which one asks."""
    shown: dict[str, Any] = {
        "meterd": f"{status.version} at {status.url}",
        "state": "ready" if status.ready else "not ready",
        **status.notes,
    }
    found = status.measured
    if found is None:
        return shown
    return {
        **shown,
        "up": format_duration(int(found.uptime_seconds) * 1000),
        "events": ", ".join(f"{found.events[name]:,} {name}" for name in _OUTCOMES),
        **_rates(found),
        "closing": _closing(found.closing_lag_seconds),
        "outbox": f"{found.pending:,} waiting, {found.parked:,} parked",
        "webhooks": [_webhook(one) for one in found.webhooks] or "none",
        "disk": _disk(found),
        "memory": f"{found.memory_bytes / _MIB:,.0f} MiB;"
        f" {number_of(found.connections, 'connection')}",
    }


def _rates(found: Measured) -> dict[str, str]:
    if found.events_per_second is None:
        return {}
    in_flight = f"; {found.events_in_flight:,} in flight" if found.events_in_flight else ""
    return {
        "now": f"{found.events_per_second:,.0f} events/s,"
        f" {found.requests_per_second:,.0f} requests/s{in_flight}"
    }


def _closing(lag_s: float) -> str:
    if not lag_s:
        return "nothing is overdue"
    return f"the oldest period that is due waits for {format_duration(int(lag_s) * 1000)}"


def _webhook(one: Webhook) -> str:
    counts = {"waiting": one.pending, "held": one.held, "parked": one.parked}
    told = "".join(f", {count:,} {name}" for name, count in counts.items() if count)
    return f"{one.id}: {one.state}{told}"


def _disk(found: Measured) -> str:
    full = " FULL: events are refused;" if found.disk_full else ""
    store = f"store {found.store_bytes / _MIB:,.1f} MiB, {found.free_bytes / _MIB:,.1f} free in it"
    room = found.disk_room_bytes
    # When there is little, every one counts.
    said = f"{room / _GIB:,.1f} GiB" if room >= _GIB else f"{room / _MIB:,.1f} MiB"
    return f"{store};{full} room for {said}"
