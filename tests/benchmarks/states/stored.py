"""What a single event and a page of events cost against how many events are stored."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tests.benchmarks.contestants import meterd
from tests.benchmarks.loads import turn
from tests.benchmarks.plan import Plan
from tests.benchmarks.results import StoredPoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

EVENTS: Final = (0, 1_000_000)
EVENTS_OF_FULL: Final = (0, 1_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000)
ROUNDS: Final = 3
LONGEST_S: Final = 6 * 3600.0


def measure(
    folder: Path,
    *,
    events: Sequence[int] = EVENTS,
    seconds: float,
    tell: Callable[[str], None] = lambda _: None,
) -> list[StoredPoint]:
    """One meterd, filled through the API from number to number, beside one that is empty.

    Single events come to both in turn, because machines change their pace from minute to minute,
    and it takes many to fill a store. What that stores is not counted.
    """
    points = []
    stored = 0
    full, empty = folder / "full", folder / "empty"
    for place in (full, empty):
        place.mkdir()
    with meterd(full) as server, meterd(empty) as beside:
        for wanted in events:
            tell(f"storing {wanted:,} events")
            began = time.perf_counter()
            if wanted > stored:
                fill = Plan(
                    kind="fill",
                    connections=8,
                    events=wanted - stored,
                    warm_up_s=0,
                    seconds=LONGEST_S,
                )
                filled = server.load(fill)
                assert filled.events == wanted - stored, f"not all are there: {filled.failures}"
            took_s = time.perf_counter() - began
            filled_per_s = (wanted - stored) / took_s
            stored = wanted
            load = Plan(kind="single", connections=64, seconds=seconds)
            rounds = [(turn(server, load), turn(beside, load)) for _ in range(ROUNDS)]
            single, unfilled = map(list, zip(*rounds, strict=True))
            listing = server.load(Plan(kind="listing", connections=1, seconds=seconds))
            points.append(
                StoredPoint(wanted, filled_per_s, _disk_mb(full), single, unfilled, listing)
            )
    return points


def _disk_mb(folder: Path) -> float:
    """What the data folder takes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6
