"""An event is taken back on a real daemon, open and closed, and a kill changes nothing of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from meterd.domain.instants import format_instant
from tests.daemon_process import ROOT, DaemonProcess
from tests.receiver import Receiver, receiving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEBHOOK = """
[[webhooks]]
id = "billing"
url = "{url}"
secret = "whsec_test_secret_of_some_length"
allow_private = ["127.0.0.0/8"]
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    yield from receiving()


def curl(daemon: DaemonProcess, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and content."""
    command = ["curl", "--silent", "--show-error", "-X", method, "-w", "\n%{http_code}"]
    command += ["-H", f"x-apikey: {daemon.key}", daemon.url + path]
    if body is not None:
        command += ["-d", json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    content, _, status = done.rpartition("\n")
    return int(status), json.loads(content)


def sums(daemon: DaemonProcess, period: str, at: str) -> dict[str, Any]:
    """Of each type, in the period that it was then."""
    path = f"/customers/acme/usage?period={period}&at={at}"
    return {name: one["sum"] for name, one in curl(daemon, "GET", path)[1]["usage"].items()}


def verify(daemon: DaemonProcess) -> str:
    command = [sys.executable, "-m", "meterd", "verify", "--config", str(daemon.config)]
    environ = {"METERD_DATA_DIR": str(daemon.data), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=60, check=True
    ).stdout


def test_a_bill_is_corrected(tmp_path: Path, receiver: Receiver) -> None:
    """Before the period closes and after it, by a webhook then, across two kills."""
    daemon = DaemonProcess(tmp_path, webhooks=WEBHOOK.format(url=receiver.url))
    try:
        at = format_instant(time.time_ns() // 1_000_000)  # so that all are of one hour
        for value in (1, 2, 4, 8):
            event = {"customerId": "acme", "value": value, "timestamp": at}
            assert curl(daemon, "POST", "/usage/api.calls", event)[0] == 201
        ids = [one["_id"] for one in reversed(curl(daemon, "GET", "/events")[1])]
        status, shown = curl(daemon, "POST", f"/events/{ids[3]}/void", {"reason": "a test"})
        assert (status, shown["void"]["reason"], shown["value"]) == (201, "a test", 8)
        assert sums(daemon, "hourly", at) == sums(daemon, "monthly", at) == {"api.calls": 7}
        daemon.stop(signal.SIGKILL)

        daemon.close_hours_alone()
        daemon.program = "tests.system.hours_later 3"
        daemon.start()
        daemon.trigger()
        (first,) = [
            one.payload for one in receiver.wait_for(1) if one.payload["period"] == "hourly"
        ][:1]
        assert first["data"]["events"] == {"api.calls": 7}
        for number in (0, 1, 2):
            answer = curl(daemon, "POST", f"/events/{ids[number]}/void", {"reason": "all of it"})
            assert answer[0] == 201
        assert curl(daemon, "POST", f"/events/{ids[0]}/void", {"reason": "again"})[0] == 200
        assert sums(daemon, "hourly", at) == {}
        daemon.stop(signal.SIGKILL)

        daemon.start()
        came = len(receiver.received)
        daemon.trigger()
        revised = receiver.wait_for(came + 1)[came].payload
        assert (revised["type"], revised["data"]["revision"]) == ("aggregation.revised", 2)
        assert (revised["data"]["events"], revised["data"]["eventCount"]) == ({}, 0)
        assert revised["data"]["previous"]["events"] == {"api.calls": 7}
        reasons = [one["void"]["reason"] for one in curl(daemon, "GET", "/events")[1]]
        assert reasons == ["a test", *["all of it"] * 3]
        assert "no difference" in verify(daemon)
    finally:
        daemon.stop()
    assert "no difference" in verify(daemon)
