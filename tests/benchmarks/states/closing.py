"""An hour of many customers closes while events keep coming, at half of what meterd can take."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from meterd.embedded.posting import POST_SECONDS
from tests.benchmarks.contestants import meterd
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import StartError
from tests.benchmarks.results import Closing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.processes import Server

CUSTOMERS: Final = 30_000
CUSTOMERS_OF_FULL: Final = 100_000
# Three passes of posting: what is put off then is paid for within.
MAXIMUM_S: Final = 3 * POST_SECONDS
CALM_S: Final = 15.0
LONGEST_S: Final = 600.0
_HOUR_S: Final = 3600


def measure(
    folder: Path,
    *,
    customers: int = CUSTOMERS,
    maximum_s: float = MAXIMUM_S,
    calm_s: float = CALM_S,
) -> Closing:
    """Latencies count from when an event was due, so a stall is charged with all it held up."""
    with meterd(folder, grace="0s", log_level="info", reads_log=True) as server:
        # To the beginning of an hour, so that it does not end by itself.
        server.step(_HOUR_S - time.time() % _HOUR_S + 1)
        introduced = server.load(
            Plan(
                kind="introduce", connections=8, customers=customers, warm_up_s=0, seconds=LONGEST_S
            )
        )
        assert introduced.events == customers, f"not all are there: {introduced.failures}"
        maximum = server.load(_plan(customers, maximum_s)).events_per_s
        rate = maximum / 2
        calm = server.load(_plan(customers, calm_s, rate))
        with server.loading(_plan(customers, LONGEST_S, rate)) as load:
            time.sleep(1)
            began = time.perf_counter()
            server.step(_HOUR_S)
            _wait_until_closed(server, customers)
            closed_s = time.perf_counter() - began
            meanwhile = load.stop()
        return Closing(customers, closed_s, maximum, rate, calm, meanwhile, server.memory())


def _plan(customers: int, seconds: float, rate: float | None = None) -> Plan:
    return Plan(kind="single", connections=64, customers=customers, seconds=seconds, rate=rate)


def _wait_until_closed(server: Server, customers: int) -> None:
    """Until the log says that an hour of so many closed: asking would itself be a load."""
    assert server.process.stderr is not None
    for line in server.process.stderr:
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") == "period closed" and entry["aggregations"] >= customers:
            return
    raise StartError("meterd ended before it closed the hour")
