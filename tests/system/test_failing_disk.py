"""The real daemon on a real ext4 whose disk fails once: it ends, says so, and the next one goes on.

``torture/harnesses/ext4_errors.py`` does the same to the engine, at any moment.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import httpx

from tests.daemon_process import DaemonProcess
from tests.system.torture.disks import mounts
from tests.system.torture.disks.ext4 import MKFS, recorded_ext4
from tests.system.torture.harness import Tally
from tests.system.torture.hindered import skip_if
from tests.system.torture.parts import in_child

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.torture.parts import Tell

SIZE = 32 << 20
EVENTS = 20


def test_a_failed_sync_ends_the_daemon_with_exit_code_70(tmp_path: Path) -> None:
    """Nobody is told what is not known; what was acknowledged is there after the next start."""
    skip_if(mounts.hindrance(MKFS))
    tally = in_child(partial(fail_once, tmp_path))
    assert not tally.broken, tally.first


def fail_once(folder: Path, _: Tell) -> Tally:
    """In a process with mounts of its own."""
    mounts.own_namespace()
    with recorded_ext4(folder, SIZE) as ext4:
        with ext4.mounted():
            daemon = DaemonProcess(ext4.place)
            assert {post(daemon, number) for number in range(EVENTS)} == {201}
            ext4.recorder.fail(1)
            assert post(daemon, EVENTS) is None, "the connection ends without an answer"
            assert daemon.process.wait(timeout=15) == 70
            assert ext4.recorder.fail(0) == 1
            [said] = [entry for entry in daemon.log if entry.get("level") == "critical"]
            assert said["event"].startswith("a write did not reach the disk")
            assert said["data"] == str(daemon.data)
            daemon.stop()
        with ext4.mounted():
            daemon.start()
            found = daemon.request("GET", "/events?limit=1000").json()
            numbers = {event["metadata"]["number"] for event in found}
            assert numbers - {EVENTS} == set(range(EVENTS))
            assert len(found) == len(numbers), "each once"
            assert post(daemon, EVENTS + 1) == 201
            assert daemon.stop() == 0
    return Tally()


def post(daemon: DaemonProcess, number: int) -> int | None:
    """The status, if there is an answer."""
    event = {"customerId": "c", "value": 1, "metadata": {"number": number}}
    try:
        return daemon.request("POST", "/usage/api.calls", json=event).status_code
    except httpx.TransportError:
        return None
