"""Memory against how many customers are active, and when they are not any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from meterd.embedded.registry import SWEEP_SECONDS
from tests.benchmarks.contestants import meterd
from tests.benchmarks.plan import EVENT_TYPES, Plan
from tests.benchmarks.results import MemoryPoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CUSTOMERS: Final = (1_000, 10_000, 30_000, 100_000)
# Two sweeps retire whoever is idle; a moment more for the last of them.
RETIRED_AFTER_S: Final = 2 * SWEEP_SECONDS + 3


def measure(
    folder: Path, *, customers: Sequence[int] = CUSTOMERS, until_retired: bool = True
) -> list[MemoryPoint]:
    """A fresh meterd for each number; the customers of the last one are waited for to retire.

    Each has had an event of each of five types. Where loading takes longer than a sweep, the first
    of them may have retired before the last came: ``loaded_in_s`` says so.
    """
    points = []
    for number, count in enumerate(customers):
        place = folder / str(number)
        place.mkdir()
        with meterd(place) as server:
            began = time.perf_counter()
            found = server.load(
                Plan(
                    kind="introduce",
                    connections=8,
                    customers=count,
                    types=len(EVENT_TYPES),
                    warm_up_s=0,
                    seconds=600,
                )
            )
            loaded_in_s = time.perf_counter() - began
            assert found.events == count * len(EVENT_TYPES), f"not all are there: {found.failures}"
            active = server.memory()
            retired = None
            if until_retired and count == max(customers):
                time.sleep(RETIRED_AFTER_S)
                retired = server.memory()
            points.append(MemoryPoint(count, loaded_in_s, active, retired))
    return points
