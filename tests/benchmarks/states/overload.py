"""Ten times what meterd can take, for a minute, and how soon it is as before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import httpx

from tests.benchmarks.contestants import meterd
from tests.benchmarks.flood import BIN_S, Flood, flooding
from tests.benchmarks.processes import LOAD_CORE, Memory, pinned
from tests.benchmarks.results import Overload
from tests.benchmarks.traffic import BATCH
from tests.daemon_process import KEY

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from tests.benchmarks.flood import Flooded
    from tests.benchmarks.processes import Server

TIMES: Final = 10
SECONDS: Final = 60.0
CAPACITY_S: Final = 5.0
# What is normal has totals posted, in passes of ten seconds: one of these lies within.
CALM_S: Final = 20.0
AFTER_S: Final = 15.0
CONNECTIONS: Final = 256
# As many as are measured with elsewhere.
CAPACITY_CONNECTIONS: Final = {"single": 64, "batch": 8}
# Of the calm rate; and how long it must hold.
NORMAL: Final = 0.9
HOLDS_S: Final = 1.0


def measure(folder: Path, *, seconds: float = SECONDS) -> list[Overload]:
    """With single events, then with batches: each over a fresh meterd."""
    points = []
    kinds: tuple[Literal["single", "batch"], ...] = ("single", "batch")
    for kind in kinds:
        place = folder / kind
        place.mkdir()
        with meterd(place) as server:
            points.append(_overload(server, kind, seconds))
    return points


def _overload(server: Server, kind: Literal["single", "batch"], seconds: float) -> Overload:
    address = server.url.removeprefix("http://")
    core = pinned(LOAD_CORE)

    def flood(connections: int, lasts_s: float, rate: float | None = None) -> Flood:
        return Flood(
            address=address,
            key=KEY,
            kind=kind,
            connections=connections,
            seconds=lasts_s,
            rate=rate,
        )

    with flooding(flood(CAPACITY_CONNECTIONS[kind], CAPACITY_S), *core) as full:
        found = full.outcome()
    capacity = found.accepted_per_s(found.began_s, found.ended_s)
    # Somebody who asks for little all the time, before, meanwhile and after.
    honest = Flood(
        address=address,
        key=KEY,
        kind="single",
        connections=4,
        seconds=CALM_S + seconds + AFTER_S,
    )
    peak = server.memory()
    with flooding(honest, *core) as beside:
        time.sleep(CALM_S)
        with flooding(flood(CONNECTIONS, seconds, TIMES * capacity), *core) as overload:
            while not overload.is_over():
                peak = _greater(peak, server.memory())
                time.sleep(BIN_S)
            flooded = overload.outcome()
        calm = beside.outcome()
    stored = _stored(server)
    acknowledged = (found.accepted + flooded.accepted) * (BATCH if kind == "batch" else 1)
    calm_per_s = calm.accepted_per_s(calm.began_s, flooded.began_s)
    return Overload(
        kind=kind,
        events=BATCH if kind == "batch" else 1,
        capacity_per_s=capacity,
        flooded=flooded,
        calm_per_s=calm_per_s,
        calm=calm,
        normal_after_s=_normal_after_s(calm, flooded.ended_s, NORMAL * calm_per_s),
        peak=peak,
        acknowledged=acknowledged + calm.accepted,
        stored=stored,
    )


def _normal_after_s(calm: Flooded, ended_s: float, normal_per_s: float) -> float | None:
    """How long behind that moment a second began in which the rate was normal; None if none did."""
    waited_s = 0.0
    while ended_s + waited_s + HOLDS_S < calm.ended_s:
        began_s = ended_s + waited_s
        # Whole quarters of a second lie within, so one more is looked at.
        if calm.accepted_per_s(began_s, began_s + HOLDS_S + BIN_S) >= normal_per_s:
            return waited_s
        waited_s += BIN_S
    return None


def _greater(one: Memory, other: Memory) -> Memory:
    return Memory(
        max(one.resident_mb, other.resident_mb), max(one.anonymous_mb, other.anonymous_mb)
    )


def _stored(server: Server) -> int:
    url = f"{server.url}/aggregations/trigger"
    answer = httpx.post(url, headers={"x-apikey": KEY}, timeout=120)
    return int(answer.json()["eventsScanned"])
