"""A real meterd and a service manager's end of its socket: told what happens, when it happens."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.daemon_process import DaemonProcess
from tests.notified import Manager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENT = {"customerId": "c", "value": 1}
BATCH = [{"eventType": "api.calls", "customerId": "c", "value": 1}] * 10
NOT_RELOADED = "configuration not reloaded: the old one stays"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path / "notify") as listening:
        yield listening


def test_ready_reloading_stopping(tmp_path: Path, manager: Manager) -> None:
    """In their order; ready means that it takes events, also with an unfit configuration."""
    daemon = DaemonProcess(tmp_path, environ=manager.environ)
    try:
        manager.wait_for("READY")
        assert daemon.request("POST", "/usage/api.calls", json=EVENT).status_code == 201
        while manager.told[-1]["STATUS"] != f"serving {daemon.url}":
            manager.next()  # it closes what ended meanwhile: nothing, here
        for configuration, outcome in (
            (daemon.config.read_text(), "configuration reloaded"),
            ("periods = 7", NOT_RELOADED),
        ):
            daemon.config.write_text(configuration)
            before_us = time.monotonic_ns() // 1000
            daemon.send(signal.SIGHUP)
            began = manager.next()
            assert began.keys() == {"RELOADING", "MONOTONIC_USEC"}
            assert before_us <= int(began["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            assert manager.next() == {
                "READY": "1",
                "STATUS": f"serving {daemon.url}; {outcome}",
            }
            assert daemon.request("POST", "/usage/api.calls", json=EVENT).status_code == 201
        daemon.send(signal.SIGTERM)
        assert manager.next()["STOPPING"] == "1"
    finally:
        assert daemon.stop() == 0
    assert manager.rest() == []


def test_a_start_that_recovers_is_not_ready_yet(tmp_path: Path, manager: Manager) -> None:
    """It asks for time, and says why; a reload does not make it ready."""
    daemon = DaemonProcess(tmp_path)
    try:
        for _ in range(8):
            assert daemon.request("POST", "/usagebatch", json=BATCH).status_code == 201
        daemon.stop(signal.SIGKILL)
        daemon.program = "tests.system.slow_recovery"
        daemon._environ = manager.environ
        daemon.start(until="listening")
        asked = manager.next()
        assert asked["EXTEND_TIMEOUT_USEC"] == "60000000"
        assert asked["STATUS"].startswith(f"starting {daemon.url}; counting the events")
        daemon.send(signal.SIGHUP)
        assert "READY" not in manager.next()
        assert daemon.request("GET", "/readyz").status_code == 503
        manager.wait_for("READY")
        assert daemon.request("POST", "/usagebatch", json=BATCH).status_code == 201
    finally:
        daemon.stop()


def test_a_loop_that_hangs_is_heard_no_more(tmp_path: Path, manager: Manager) -> None:
    """The watchdog is told at half its time as long as the loop comes round, and no longer."""
    environ = {**manager.environ, "WATCHDOG_USEC": "400000"}
    daemon = DaemonProcess(tmp_path, environ=environ, program="tests.system.hanging_loop")
    try:
        began_at = time.monotonic()
        for _ in range(6):
            manager.wait_for("WATCHDOG")
        assert time.monotonic() - began_at > 0.8, "more often than was asked for"
        daemon.send(signal.SIGHUP)
        manager.wait_for("RELOADING")
        with pytest.raises(TimeoutError):
            manager.next(seconds=2)
        assert daemon.process.poll() is None
    finally:
        daemon.stop(signal.SIGKILL)


def test_a_manager_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    """It serves, reloads and stops as ever; the log says it once."""
    daemon = DaemonProcess(tmp_path, environ={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    try:
        daemon.send(signal.SIGHUP)
        daemon.wait_for("configuration reloaded")
        assert daemon.request("POST", "/usage/api.calls", json=EVENT).status_code == 201
    finally:
        assert daemon.stop() == 0
    said = [entry for entry in daemon.log if "service manager" in entry["event"]]
    assert [entry["error"] for entry in said] == ["[Errno 2] No such file or directory"]
