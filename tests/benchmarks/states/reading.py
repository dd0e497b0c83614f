"""What it costs to read what is stored: usage over HTTP, and `meterd verify` beside the daemon."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import httpx

from meterd.embedded.posting import POST_SECONDS
from tests.benchmarks.contestants import meterd
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import LOAD_CORE, pinned
from tests.benchmarks.results import Reading
from tests.daemon_process import KEY, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.benchmarks.processes import Server

EVENTS: Final = 300_000
EVENTS_TO_VERIFY: Final = 2_000_000
CUSTOMERS: Final = 300
_LONGEST_S: Final = 600.0
_USAGE: Final = "/usage?customerId=customer_0&window="
_ASKED: Final = {
    "GET /customers/{id}/usage": "/customers/customer_0/usage?period=monthly",
    "GET /usage, hours": f"{_USAGE}hourly",
    "GET /usage, the month by metadata.source": f"{_USAGE}monthly&groupBy=metadata.source",
}


def measure(folder: Path, *, rounds: int, share: float = 1.0) -> list[Reading]:
    """Of so many events of one customer, then of so many of more; with all of them posted."""
    found = []
    to_group, to_verify = round(EVENTS * share), round(EVENTS_TO_VERIFY * share)
    (folder / "one").mkdir()
    with meterd(folder / "one") as server:
        _fill(server, to_group, 1)
        found += [
            _timed(name, to_group, rounds, partial(_get, server, path))
            for name, path in _ASKED.items()
        ]
    (folder / "many").mkdir()
    with meterd(folder / "many") as server:
        _fill(server, to_verify, CUSTOMERS)
        data = folder / "many" / "data"
        found.append(_timed("meterd verify", to_verify, rounds, partial(_verify, data, to_verify)))
    return found


def _fill(server: Server, events: int, customers: int) -> None:
    plan = Plan(
        kind="fill",
        connections=8,
        customers=customers,
        events=events,
        warm_up_s=0,
        seconds=_LONGEST_S,
    )
    found = server.load(plan)
    assert found.events == events, f"not all are there: {found.failures}"
    time.sleep(2 * POST_SECONDS)


def _timed(name: str, events: int, rounds: int, work: Callable[[], float]) -> Reading:
    took_s, cpu_s = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        cpu_s.append(work())
        took_s.append(time.perf_counter() - began)
    return Reading(name, events, took_s, cpu_s)


def _get(server: Server, path: str) -> float:
    """The server's CPU time for it."""
    before = server.cpu_seconds()
    answer = httpx.get(server.url + path, headers={"x-apikey": KEY}, timeout=_LONGEST_S)
    assert answer.is_success, answer.text
    assert answer.json(), f"nothing came of {path}"
    return server.cpu_seconds() - before


def _verify(data: Path, events: int) -> float:
    """Its own CPU time, on the core that the daemon does not have."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*pinned(LOAD_CORE), sys.executable, "-m", "meterd", "verify", str(data), "--json"]
    said = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    assert json.loads(said)["checked"]["events"] == events
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
