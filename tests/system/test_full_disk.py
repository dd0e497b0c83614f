"""A real meterd whose disk is full: a limit on the size of its files stands for that (EFBIG)."""

from __future__ import annotations

import resource
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

GROWTH = 1 << 20
BATCHES = 3
BATCH = [
    {"eventType": "api.calls", "customerId": f"customer_{n % 7}", "value": 1, "metadata": {"n": n}}
    for n in range(1000)
]


def test_a_full_disk_costs_nothing_but_time(tmp_path: Path) -> None:
    """507 while reads go on; with room again all that was acknowledged is there."""
    daemon = DaemonProcess(tmp_path)
    try:
        assert daemon.request("POST", "/usagebatch", json=BATCH).status_code == 201
        size = (daemon.data / "store" / "data.mdb").stat().st_size
        _, most = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (size + GROWTH, most))
        acknowledged, status = 1, 201
        while status == 201 and acknowledged < 1000:
            status = daemon.request("POST", "/usagebatch", json=BATCH).status_code
            acknowledged += status == 201
        assert status == 503, "the outcome of the one that found it full is not known"
        refused = daemon.request("POST", "/usage/api.calls", json={"customerId": "c", "value": 1})
        assert refused.status_code == 507
        assert refused.json() == {"error": "Insufficient storage: nothing was stored"}
        assert daemon.request("POST", "/aggregations/trigger").status_code == 507
        ready = daemon.request("GET", "/readyz")
        assert ready.status_code == 200
        assert ready.json()["disk"].startswith("full: events are refused")
        assert len(daemon.request("GET", "/events?limit=100").json()) == 100
        assert len(read(daemon, "/customers").json()) == 7
        for customer in range(7):
            theirs = acknowledged * len(range(customer, 1000, 7))
            events = read(daemon, f"/events?customerId=customer_{customer}&limit=100000").json()
            assert len(events) == theirs
            usage = read(daemon, f"/customers/customer_{customer}/usage?period=yearly").json()
            assert usage["usage"]["api.calls"]["count"] == theirs
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (most, most))
        daemon.wait_for("the disk has room again: events are taken")
        assert daemon.request("POST", "/usagebatch", json=BATCH).status_code == 201
        stored = daemon.request("GET", "/events?limit=100000").json()
        assert len(stored) == 1000 * (acknowledged + 2), (
            "the unanswered one was stored as well, once"
        )
        assert daemon.stop() == 0
    finally:
        daemon.stop()


def read(daemon: DaemonProcess, path: str) -> httpx.Response:
    answer = daemon.request("GET", path)
    assert answer.status_code == 200, answer.text
    return answer


@contextmanager
def no_larger(daemon: DaemonProcess) -> Iterator[None]:
    """What is started meanwhile finds no room for its store to grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (daemon.data / "store" / "data.mdb").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_start_on_a_full_disk_is_read(tmp_path: Path) -> None:
    """Behind a kill it has much to count and no room for it: what is stored is read, and says so;
    with room it starts, and nothing was lost or counted twice.
    """
    daemon = DaemonProcess(tmp_path)
    try:
        for number in range(BATCHES):  # each event is of another customer, so of another total
            batch = [{**event, "customerId": f"{number}-{n}"} for n, event in enumerate(BATCH)]
            assert daemon.request("POST", "/usagebatch", json=batch).status_code == 201
        daemon.stop(signal.SIGKILL)
        with no_larger(daemon):
            daemon.start(until="listening")
        ends_at = time.monotonic() + 20
        while "disk" not in (waiting := daemon.request("GET", "/readyz")).json():
            assert time.monotonic() < ends_at, waiting.text
        assert (waiting.status_code, waiting.json()["status"]) == (503, "starting")
        assert "what is stored is read" in waiting.json()["disk"]
        stored = daemon.request("GET", "/events?limit=100000").json()
        assert len(stored) == BATCHES * len(BATCH)
        assert len(read(daemon, "/events?customerId=0-0").json()) == 1
        assert len(read(daemon, f"/events?customerId={BATCHES - 1}-999").json()) == 1
        usage = read(daemon, "/customers/2-7/usage?period=yearly").json()
        assert usage["usage"]["api.calls"]["count"] == 1
        assert len(read(daemon, "/customers?limit=1000").json()) == 1000
        assert daemon.request("GET", "/aggregations").json() == []
        refused = daemon.request("POST", "/usage/api.calls", json={"customerId": "c", "value": 1})
        assert refused.status_code == 507
        _, most = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (most, most))
        daemon.wait_for("serving")
        daemon.trigger()
        found = daemon.request("GET", "/aggregations?period=monthly&limit=100000").json()
        assert [one["exact"] for one in found] == [{"api.calls": "1"}] * (BATCHES * len(BATCH))
        assert daemon.stop() == 0
    finally:
        daemon.stop()


def test_a_full_disk_holds_up_no_stop(tmp_path: Path) -> None:
    """What waits was acknowledged to nobody."""
    daemon = DaemonProcess(tmp_path)
    try:
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (1, 1))
        answer = daemon.request("POST", "/usage/api.calls", json={"customerId": "c", "value": 1})
        assert answer.status_code == 503
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10
    finally:
        daemon.stop()
