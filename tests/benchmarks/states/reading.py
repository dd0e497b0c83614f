"""What it costs to read what is stored: usage over HTTP, and `meterd verify` beside the daemon."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import httpx

from meterd.embedded.posting import POST_SECONDS
from tests.benchmarks.contestants import meterd
from tests.benchmarks.plan import Plan
from tests.benchmarks.results import Reading
from tests.daemon_process import KEY, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.benchmarks.processes import Server

EVENTS: Final = 300_000
EVENTS_TO_VERIFY: Final = 2_000_000
CUSTOMERS: Final = 300
HOURS: Final = 20
_LONGEST_S: Final = 600.0
_USAGE: Final = "/usage?customerId=customer_0&window="
_ASKED: Final = {
    "GET /customers/{id}/usage": "/customers/customer_0/usage?period=monthly",
    "GET /usage, hours": f"{_USAGE}hourly",
    "GET /usage, the month by metadata.source": f"{_USAGE}monthly&groupBy=metadata.source",
}


def measure(folder: Path, *, rounds: int, share: float = 1.0) -> list[Reading]:
    """Of so many events of one customer, then of so many of more, of one hour and of a day; with
    all of them posted.
    """
    to_group, to_verify = round(EVENTS * share), round(EVENTS_TO_VERIFY * share)
    with _serving(folder / "one") as server:
        _fill(server, to_group, 1)
        time.sleep(2 * POST_SECONDS)
        found = [
            _timed(name, to_group, rounds, partial(_get, server, path))
            for name, path in _ASKED.items()
        ]
    for name, hours in (("hour", 1), ("day", HOURS)):
        with _serving(folder / name) as server:
            for _ in range(hours):
                _fill(server, to_verify // hours, CUSTOMERS)
                server.step(3600)
            time.sleep(2 * POST_SECONDS)
            events = to_verify // hours * hours
            verify = partial(_verify, folder / name / "data", events)
            found.append(_timed(f"meterd verify, {hours} h", events, rounds, verify))
    return found


@contextmanager
def _serving(folder: Path) -> Iterator[Server]:
    """No period closes meanwhile."""
    folder.mkdir()
    with meterd(folder, grace="7d") as server:
        yield server


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
    """Its own CPU time; as an operator runs it, on all cores, of which the daemon needs none."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "meterd", "verify", str(data), "--json"]
    said = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    assert json.loads(said)["checked"]["events"] == events
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
