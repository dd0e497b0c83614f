"""A real meterd behind a kill, with so much to count that it can be watched and stopped at it."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from pathlib import Path

BATCHES = 60
EVENTS = 10
# An append is counted again at once, and each takes 0.2 s: 12 s in all.
BLOCKS_MIN = BATCHES
BATCH = [{"eventType": "api.calls", "customerId": "c", "value": 1} for _ in range(EVENTS)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_listens_and_can_be_stopped_while_it_recovers(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Alive, not ready, and refusing with Retry-After; a stop ends it within two seconds with exit
    code 0, and what was counted by then is not counted again.
    """
    daemon = DaemonProcess(tmp_path)
    try:
        for _ in range(BATCHES):
            assert daemon.request("POST", "/usagebatch", json=BATCH).status_code == 201
        daemon.stop(signal.SIGKILL)
        daemon.program = "tests.system.slow_recovery"
        daemon.start(until="listening")
        assert daemon.request("GET", "/healthz").status_code == 200
        waiting = daemon.request("GET", "/readyz")
        assert (waiting.status_code, waiting.json()["status"]) == (503, "starting")
        for method, path in (("POST", "/usagebatch"), ("GET", "/events")):
            refused = daemon.request(method, path, **({"json": BATCH} if method == "POST" else {}))
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "1"
            assert refused.json()["error"].startswith("Starting: ")
        assert "blocks" in daemon.wait_for("recovering"), "it says how far it is"
        began = time.monotonic()
        assert daemon.stop(number) == 0
        assert time.monotonic() - began < 2
        daemon.program = "meterd"
        daemon.start()
        [recovered] = [entry for entry in daemon.log if entry["event"].startswith("recovered")]
        assert 0 < recovered["blocks"] < BLOCKS_MIN, "it began anew"
        daemon.trigger()
        [found] = daemon.request("GET", "/aggregations?period=monthly").json()
        assert found["exact"] == {"api.calls": str(BATCHES * EVENTS)}
        assert daemon.stop() == 0
    finally:
        daemon.stop(signal.SIGKILL)
