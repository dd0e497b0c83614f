"""A real meterd on a slow disk is offered ten times what it can take."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from meterd.edge.limits import Limits
from tests.benchmarks.flood import Flood, flooding
from tests.benchmarks.traffic import BATCH
from tests.daemon_process import DaemonProcess
from tests.system.slow_disk import TAKES_SECONDS

if TYPE_CHECKING:
    from typing import Literal

DISK_SECONDS: Final = {"single": 0.05, "batch": 0.1}
# Of single events each connection has one under way, so with more of them it would take more.
# Batches are refused by the events in flight, which twenty of them are.
CONNECTIONS: Final = {"single": 32, "batch": 128}
# So few that posting their totals behind it takes hardly a transaction.
CUSTOMERS: Final = 50
TIMES: Final = 10
SECONDS: Final = 5.0
RESIDENT_MB_MAX: Final = 300
NORMAL_AFTER_S: Final = 5.0


def peak_mb(daemon: DaemonProcess) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_ten_times_as_much_as_it_can_take(tmp_path: Path, kind: Literal["single", "batch"]) -> None:
    """Each request is answered, with 201 or with 503 that says when to come again; what was
    acknowledged is stored and nothing else; memory is bounded; and within seconds of its end
    somebody who was there all the time is served as before.
    """
    daemon = DaemonProcess(
        tmp_path,
        program="tests.system.slow_disk",
        environ={TAKES_SECONDS: str(DISK_SECONDS[kind])},
    )
    address = daemon.url.removeprefix("http://")

    def flood(seconds: float, rate: float | None, connections: int = 32) -> Flood:
        return Flood(
            address=address,
            key=daemon.key,
            kind=kind,
            connections=connections,
            seconds=seconds,
            rate=rate,
            customers=CUSTOMERS,
        )

    try:
        with flooding(flood(3.0, None)) as full:
            found = full.outcome()
        capacity = found.accepted / (found.ended_s - found.began_s)
        calm = Flood(
            address=address,
            key=daemon.key,
            kind="single",
            connections=4,
            seconds=3.0 + SECONDS + NORMAL_AFTER_S + 4.0,
        )
        with flooding(calm) as beside:
            time.sleep(3.0)
            with flooding(flood(SECONDS, TIMES * capacity, CONNECTIONS[kind])) as overload:
                flooded = overload.outcome()
            honest = beside.outcome()
        assert flooded.broken == {}
        assert honest.broken == {}
        assert flooded.due > 0.9 * TIMES * capacity * SECONDS, "it was offered"
        assert flooded.statuses["503"] > flooded.accepted > 0, "it was an overload"
        assert peak_mb(daemon) < RESIDENT_MB_MAX
        before = honest.accepted_per_s(honest.began_s, flooded.began_s)
        normal_at_s = flooded.ended_s + NORMAL_AFTER_S
        assert honest.accepted_per_s(normal_at_s, normal_at_s + 3.0) > 0.8 * before
        events = BATCH if kind == "batch" else 1
        acknowledged = (found.accepted + flooded.accepted) * events + honest.accepted
        assert daemon.trigger()["eventsScanned"] == acknowledged
        assert daemon.stop() == 0
    finally:
        daemon.stop()


def test_more_connections_than_it_gives(daemon: DaemonProcess) -> None:
    """Those that have no place are told when to come again, and the others are served: none of them
    is closed while its next request is on its way.
    """
    flood = Flood(
        address=daemon.url.removeprefix("http://"),
        key=daemon.key,
        kind="single",
        connections=Limits().connections_per_peer_max + 100,
        seconds=3.0,
    )
    with flooding(flood) as crowd:
        found = crowd.outcome()
    assert found.broken == {}
    assert found.statuses["503"] >= 100
    assert daemon.trigger()["eventsScanned"] == found.accepted


def test_bodies_as_large_as_may_be(daemon: DaemonProcess) -> None:
    """From as many connections as like, with what is decoded of them and written: in 300 MB."""
    flood = Flood(
        address=daemon.url.removeprefix("http://"),
        key=daemon.key,
        kind="large",
        connections=64,
        seconds=4.0,
    )
    with flooding(flood) as large:
        found = large.outcome()
    assert found.broken == {}
    assert found.accepted > 0
    assert found.statuses["503"] > 0
    assert peak_mb(daemon) < RESIDENT_MB_MAX
    assert daemon.trigger()["eventsScanned"] == BATCH * found.accepted
