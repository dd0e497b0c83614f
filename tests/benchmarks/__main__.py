"""Measures meterd as a whole and prints one table: ``make bench``.

Every figure is from real processes over loopback with a store on disk, server and client on a core
of their own where there are two. Machines differ and are noisy: compare figures of one run.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import httpx
from rich.console import Console
from rich.table import Table

from tests.daemon_process import KEY, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG: Final = """
periods = ["hourly", "daily", "weekly", "monthly"]
grace = "0s"
log_level = "warning"
[events."api.calls"]
op = "sum"
[events."storage.bytes"]
op = "max"
[events."response.time.ms"]
op = "avg"
[events."test.count"]
op = "count"
[events."test.last"]
op = "last"
[server]
bind = "127.0.0.1:0"
"""
CEILING: Final = "  hypercorn and Quart alone, nothing stored"
CLOSING_CUSTOMERS: Final = 10_000


class Server:
    """A running benchmark server."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url

    def step(self, seconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def load(self, **plan: Any) -> dict[str, float]:
        with self.background_load(**plan) as process:
            out, _ = process.communicate()
        found: dict[str, float] = json.loads(out)
        return found

    @contextmanager
    def background_load(self, **plan: Any) -> Iterator[subprocess.Popen[str]]:
        asked = {
            "host": self.url.removeprefix("http://"),
            "key": KEY,
            "seed": 1,
            "batch": 0,
            "by_quart": False,
            **plan,
        }
        with subprocess.Popen(
            [*pinned(1), sys.executable, "-m", "tests.benchmarks.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(asked))
            process.stdin.close()
            process.stdin = None
            yield process


def pinned(core: int) -> list[str]:
    return ["taskset", "-c", str(core)] if (os.cpu_count() or 1) > 1 else []


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    config = folder / "systemconfig.toml"
    config.write_text(CONFIG)
    environ = {"METERD_API_KEY": KEY, "METERD_DATA_DIR": str(folder / "data")}
    with started("tests.benchmarks.server", str(config), **environ) as server:
        yield server


@contextmanager
def started(module: str, *arguments: str, **environ: str) -> Iterator[Server]:
    """A server that prints its URL first and ends with its stdin."""
    with subprocess.Popen(
        [*pinned(0), sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield Server(process, url)
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        process.wait(timeout=20)


Rows = list[tuple[str, str, str]]


def start(folder: Path, rows: Rows) -> None:
    began = time.perf_counter()
    with serving(folder) as server:
        while httpx.get(f"{server.url}/readyz").status_code != 200:
            time.sleep(0.01)
        took = time.perf_counter() - began
        rows.append(("start on an empty folder until ready", f"{took:.2f} s", ""))
        rows.append(("resident memory, idle", f"{server.resident_mb():.0f} MB", ""))


def ingest(folder: Path, rows: Rows, *, seconds: float, rounds: int) -> None:
    by_quart = {"by_quart": True}
    batches = {"connections": 8, "batch": 1000}
    loads: list[tuple[str, dict[str, Any]]] = [
        ("single events, 1 connection", {"connections": 1, "customers": 100}),
        ("single events, 32 connections", {"connections": 32, "customers": 1000}),
        ("  by hypercorn and Quart", {"connections": 32, "customers": 1000, **by_quart}),
        (CEILING, {"connections": 32, "customers": 1000}),
        ("single events, 64 connections", {"connections": 64, "customers": 1000}),
        ("batches of 1000, 300 customers, 8 connections", {**batches, "customers": 300}),
        ("batches of 1000, 3 customers, 8 connections", {**batches, "customers": 3}),
        ("  by hypercorn and Quart", {**batches, "customers": 3, **by_quart}),
    ]
    # Both serve in the same run, and take the loads in turn: machines change their pace.
    with serving(folder) as server, started("tests.benchmarks.hypercorn_alone") as ceiling:
        for name, plan in loads:
            served_by = ceiling if name == CEILING else server
            found = [served_by.load(seconds=seconds, **plan) for _ in range(rounds)]
            rates = [one["events_per_s"] for one in found]
            spread = f"{min(rates):,.0f} - {max(rates):,.0f}"
            latency = f"p50 {found[-1]['p50_ms']:.1f} ms, p99 {found[-1]['p99_ms']:.1f} ms"
            rows.append((name, f"{statistics.median(rates):,.0f} events/s", f"{spread}; {latency}"))


def closing(folder: Path, rows: Rows) -> None:
    """One hour of 10,000 customers with 5 event types each closes while events keep coming."""
    with serving(folder) as server:
        headers = {"x-apikey": KEY}
        with httpx.Client(base_url=server.url, headers=headers, timeout=120) as http:
            for first in range(0, CLOSING_CUSTOMERS, 200):
                batch = [
                    {"eventType": event_type, "customerId": f"to-close-{number}", "value": number}
                    for number in range(first, first + 200)
                    for event_type in (
                        "api.calls",
                        "storage.bytes",
                        "response.time.ms",
                        "test.count",
                        "test.last",
                    )
                ]
                http.post("/usagebatch", json=batch).raise_for_status()
            before = server.load(seconds=3, connections=8, customers=1000)
            with server.background_load(seconds=6, connections=8, customers=1000) as load:
                time.sleep(1)
                server.step(3600)
                began = time.perf_counter()
                while not closed(http):
                    time.sleep(0.05)
                took = time.perf_counter() - began
                out, _ = load.communicate()
            during = json.loads(out)
            rows.append(
                (
                    f"closing an hour of {CLOSING_CUSTOMERS:,} customers during ingest",
                    f"{took:.1f} s",
                    f"ingest p99 {during['p99_ms']:.0f} ms, calm {before['p99_ms']:.0f} ms",
                )
            )
            rows.append(("resident memory after it", f"{server.resident_mb():.0f} MB", ""))


def closed(http: httpx.Client) -> bool:
    """Whether every customer's hour is closed."""
    asked = {"period": "hourly", "limit": str(2 * CLOSING_CUSTOMERS)}
    found = http.get("/aggregations", params=asked).json()
    return bool(sum(a["customerId"].startswith("to-close") for a in found) == CLOSING_CUSTOMERS)


@click.command()
@click.option("--seconds", default=5.0, help="How long each load lasts.")
@click.option("--rounds", default=3, help="How often each load is repeated.")
def main(seconds: float, rounds: int) -> None:
    """Print the table."""
    rows: Rows = []
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:
        for number, part in enumerate(("start", "ingest", "closing")):
            place = Path(folder) / str(number)
            place.mkdir()
            match part:
                case "start":
                    start(place, rows)
                case "ingest":
                    ingest(place, rows, seconds=seconds, rounds=rounds)
                case _:
                    closing(place, rows)
    table = Table("what", "median", "spread", title=f"meterd on {machine()}")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
