"""How long a start takes, and what it holds, over a store that knows many customers."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import httpx

from meterd.embedded.registry import ACTIVE_MAX, SWEEP_SECONDS
from tests.benchmarks.contestants import environ, meterd, write_config
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import SERVER_CORE, STOP_S, Server, StartError, pinned
from tests.benchmarks.results import Restart
from tests.benchmarks.traffic import BATCH
from tests.daemon_process import ROOT, surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CUSTOMERS: Final = (10_000, 100_000)
CUSTOMERS_OF_FULL: Final = (10_000, 1_000_000)
# So slowly that never more customers are awake than may be, since each is for up to two sweeps.
BATCHES_PER_S: Final = 0.9 * ACTIVE_MAX / (2 * SWEEP_SECONDS) / BATCH
START_MAX_S: Final = 300.0
# Longer than what a crash may leave to count again.
LOAD_S: Final = 25.0
_LOOK_AGAIN_S: Final = 0.005


def measure(
    folder: Path, *, customers: Sequence[int] = CUSTOMERS, load_s: float = LOAD_S
) -> list[Restart]:
    """For each number: a store filled through the API, then started by ``meterd serve``, twice."""
    points = []
    for number, count in enumerate(customers):
        place = folder / str(number)
        place.mkdir()
        with meterd(place) as server:
            filled = server.load(_introduction(count, rate=BATCHES_PER_S))
            assert filled.events == count, f"not all are there: {filled.failures}"
        points.append(_restart(place, count, load_s))
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


def _restart(place: Path, customers: int, load_s: float) -> Restart:
    with serving(place) as (server, ready_s):
        ready = server.memory()
        server.load(_introduction(customers // 100, rate=None))
        active = server.memory()
        loaded = server.load(_batches(customers, load_s))
        server.process.kill()
    with serving(place) as (_, ready_after_kill_s):
        pass
    return Restart(customers, ready_s, ready, active, loaded.events, ready_after_kill_s)


def _batches(customers: int, seconds: float) -> Plan:
    return Plan(kind="batch", connections=8, customers=min(customers, 300), seconds=seconds)


@contextmanager
def serving(place: Path) -> Iterator[tuple[Server, float]]:
    """A ``meterd serve`` over that folder, and how long it took until it was ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = write_config(place)
    began = time.perf_counter()
    with subprocess.Popen(
        [*pinned(SERVER_CORE), sys.executable, "-m", "meterd", "serve", "--config", str(config)],
        cwd=ROOT,
        text=True,
        env={**surroundings(), **environ(place), "METERD_BIND": address},
    ) as process:
        try:
            _wait_until_ready(process, f"http://{address}", began)
            yield Server(process, f"http://{address}"), time.perf_counter() - began
            process.terminate()
            process.wait(timeout=STOP_S)
        finally:
            process.kill()


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
