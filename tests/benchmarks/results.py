"""What a run found, as it is kept in a JSON file: the table and the plots are drawn from it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tests.benchmarks.flood import Flooded
from tests.benchmarks.plan import Outcome, Plan
from tests.benchmarks.processes import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator

# What an overload may cost.
PEAK_MAX_MB: Final = 300.0
NORMAL_WITHIN_S: Final = 5.0


class Round(msgspec.Struct, frozen=True):
    """One turn of one contestant at one load.

    ``cpu_us`` is the server's CPU time for each event; None where nothing was acknowledged.
    Without latencies it was measured inside the process. ``client_busy`` is the share of the time
    in which the client used its core: near 1, it is the client that was measured.
    """

    events_per_s: float
    cpu_us: float | None
    p50_ms: float | None = None
    p99_ms: float | None = None
    failures: dict[str, int] = {}
    client_busy: float = 0.0


class Series(msgspec.Struct, frozen=True):
    """The rounds of one contestant at one load, and the load of meterd that they are compared with.

    ``plan`` is None for what takes no load.
    """

    load: str
    contestant: str
    beside: str
    plan: Plan | None
    rounds: list[Round]


class Loads(msgspec.Struct, frozen=True):
    """All series, and why some contestants have none."""

    series: list[Series]
    skipped: dict[str, str]


class MemoryPoint(msgspec.Struct, frozen=True):
    """With so many customers active, and when they were not any more, if that was waited for."""

    customers: int
    loaded_in_s: float
    active: Memory
    retired: Memory | None = None


class Restart(msgspec.Struct, frozen=True):
    """A start over a store that knows so many customers: behind an orderly stop, and behind a kill
    right behind a load of batches, by which ``events_before_kill`` were acknowledged.
    """

    customers: int
    ready_s: float
    ready: Memory
    one_percent_active: Memory
    events_before_kill: int
    ready_after_kill_s: float


class Closing(msgspec.Struct, frozen=True):
    """An hour that closed while events came at ``paced_per_s``, half of what the server took."""

    customers: int
    closed_s: float
    maximum_per_s: float
    paced_per_s: float
    calm: Outcome
    meanwhile: Outcome
    after: Memory


class StoredPoint(msgspec.Struct, frozen=True):
    """With so many events stored: single events, beside an empty store in turn, and pages of one
    customer's events.
    """

    events: int
    filled_per_s: float
    store_mb: float
    single: list[Round]
    empty: list[Round]
    listing: Outcome


class Overload(msgspec.Struct, frozen=True):
    """Ten times ``capacity_per_s`` of requests, and a closed loop of single events beside it.

    ``normal_after_s`` is how long after its end that loop was as fast as before; None if it was
    not while it was looked at. ``events`` are in each request.
    """

    kind: str
    events: int
    capacity_per_s: float
    flooded: Flooded
    calm_per_s: float
    calm: Flooded
    normal_after_s: float | None
    peak: Memory
    acknowledged: int
    stored: int

    def complaints(self) -> Iterator[str]:
        """What was promised of it and is not so."""
        if self.peak.resident_mb >= PEAK_MAX_MB:
            yield f"{self.peak.resident_mb:.0f} MB, and not under {PEAK_MAX_MB:.0f}"
        if self.normal_after_s is None or self.normal_after_s > NORMAL_WITHIN_S:
            yield f"as before after {self.normal_after_s} s, and not {NORMAL_WITHIN_S:.0f}"
        if self.stored < self.acknowledged:
            yield f"{self.acknowledged} events acknowledged, {self.stored} stored"


class Case(msgspec.Struct, frozen=True):
    """What is to be delivered: of each customer one aggregation to each of the ``urls``.

    ``endpoints`` of these are good, and are waited for. ``is_closing``: they become due while the
    hour closes; else it was closed before.
    """

    name: str
    customers: int
    endpoints: int = 1
    batch: int = 1
    is_besieged: bool = False
    is_closing: bool = False
    urls: tuple[str, ...] = ()


class Delivering(msgspec.Struct, frozen=True):
    """Aggregations a second, meterd's CPU for each, how long each took from when the closing of its
    period began, and from when it was on disk itself; and how long an event took that was appended
    meanwhile.
    """

    case: str
    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    own_p50_ms: float
    own_p99_ms: float
    append_p99_ms: float


class Reading(msgspec.Struct, frozen=True):
    """Something read of so many events, some times: how long it took, and CPU of who read it."""

    name: str
    events: int
    took_s: list[float]
    cpu_s: list[float]


class Results(msgspec.Struct):
    """The parts that were measured, each when it was: a run of one part leaves the others."""

    machine: str
    measured_at: dict[str, str] = {}
    loads: Loads | None = None
    memory: list[MemoryPoint] = []
    restart: list[Restart] = []
    closing: Closing | None = None
    stored: list[StoredPoint] = []
    overload: list[Overload] = []
    sending: list[Series] = []
    delivering: list[list[Delivering]] = []
    reading: list[Reading] = []

    def outcomes(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Every failure count, named."""
        for one in self.loads.series if self.loads else []:
            for found in one.rounds:
                yield f"{one.load}: {one.contestant}", found.failures
        if self.closing:
            yield "closing, calm", self.closing.calm.failures
            yield "closing, meanwhile", self.closing.meanwhile.failures
        for point in self.stored:
            for found in (*point.single, *point.empty):
                yield f"{point.events} events stored", found.failures
            yield f"{point.events} events stored, listing", point.listing.failures
        for flood in self.overload:
            yield f"overload, {flood.kind}", flood.flooded.broken
            yield f"overload, {flood.kind}, beside it", flood.calm.broken
            lost = flood.acknowledged - flood.stored
            yield (
                f"overload, {flood.kind}, acknowledged and not stored",
                {"lost": lost} if lost else {},
            )


def read(path: Path) -> Results:
    """What is there; empty where there is nothing."""
    if not path.is_file():
        return Results(machine())
    return msgspec.json.decode(path.read_bytes(), type=Results)


def write(path: Path, results: Results) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))


def machine() -> str:
    """The machine in a few words."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"
