"""A real meterd whose disk is full: a limit on the size of its files stands for that (EFBIG)."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from pathlib import Path

GROWTH = 1 << 20
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
        assert len(daemon.request("GET", "/events?limit=100").json()) == 100
        assert daemon.request("GET", "/events?customerId=customer_1").status_code == 200
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
