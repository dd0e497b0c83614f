"""How long a start takes, and what it holds, over a store that knows many customers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import httpx

from meterd.embedded.registry import ACTIVE_MAX, SWEEP_SECONDS
from tests.benchmarks.contestants import environ, meterd, write_config
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import SERVER_CORE, STOP_S, Server, StartError, memory, pinned
from tests.benchmarks.results import Restart
from tests.benchmarks.traffic import BATCH
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CUSTOMERS: Final = (10_000, 100_000)
CUSTOMERS_OF_FULL: Final = (10_000, 1_000_000)
# So slowly that never more customers are awake than may be, since each is for up to two sweeps.
BATCHES_PER_S: Final = 0.9 * ACTIVE_MAX / (2 * SWEEP_SECONDS) / BATCH
START_MAX_S: Final = 300.0
_LOOK_AGAIN_S: Final = 0.005


def measure(folder: Path, *, customers: Sequence[int] = CUSTOMERS) -> list[Restart]:
    """For each number: a store filled through the API, then started by ``meterd serve``."""
    points = []
    for number, count in enumerate(customers):
        place = folder / str(number)
        place.mkdir()
        with meterd(place) as server:
            filled = server.load(_introduction(count, rate=BATCHES_PER_S))
            assert filled.events == count, f"not all are there: {filled.failures}"
        points.append(_restart(place, count))
    return points


def _introduction(customers: int, rate: float | None) -> Plan:
    return Plan(
        kind="introduce",
        connections=4,
        customers=customers,
        rate=rate,
        warm_up_s=0,
        seconds=customers / BATCH / BATCHES_PER_S + 60,
    )


def _restart(place: Path, customers: int) -> Restart:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = write_config(place)
    began = time.perf_counter()
    with subprocess.Popen(
        [*pinned(SERVER_CORE), sys.executable, "-m", "meterd", "serve", "--config", str(config)],
        cwd=ROOT,
        text=True,
        env={**os.environ, **environ(place), "METERD_BIND": address},
    ) as process:
        try:
            _wait_until_ready(process, f"http://{address}", began)
            ready_s = time.perf_counter() - began
            ready = memory(process.pid)
            server = Server(process, f"http://{address}")
            server.load(_introduction(customers // 100, rate=None))
            active = memory(process.pid)
            process.terminate()
            process.wait(timeout=STOP_S)
        finally:
            process.kill()
    return Restart(customers, ready_s, ready, active)


def _wait_until_ready(process: subprocess.Popen[str], url: str, began: float) -> None:
    while True:
        try:
            if httpx.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        if process.poll() is not None or time.perf_counter() - began > START_MAX_S:
            raise StartError("meterd does not become ready")
        time.sleep(_LOOK_AGAIN_S)
