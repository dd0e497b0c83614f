"""What a service manager is told, by its own end of the socket; and when nobody listens."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs

from meterd.service_manager import (
    EXTENDED_EVERY_S,
    EXTENSION_S,
    ServiceManager,
    address_of,
    beat_seconds,
    doing,
    reload_began,
    said,
)
from tests.notified import Manager

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

PID = 4711
UNHEARD = "the service manager cannot be told how meterd is doing"


def service(environ: dict[str, str]) -> ServiceManager:
    return ServiceManager(environ, PID, lambda: 12_345_678)


def set_event() -> trio.Event:
    happened = trio.Event()
    happened.set()
    return happened


# -- what is read and said ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/run/systemd/notify", "/run/systemd/notify"),
        ("@meterd/notify", "\0meterd/notify"),
        ("", None),
        ("@", None),
        ("run/notify", None),
        ("vsock:2:1234", None),
    ],
)
def test_where_the_manager_listens(text: str, address: str | None) -> None:
    """A path or an abstract name; nothing else is known here."""
    assert address_of(text) == address


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "4711"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "4712"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": "4711"}, None),
        ({}, None),
    ],
)
def test_how_often_the_watchdog_is_told(environ: dict[str, str], seconds: float | None) -> None:
    """At half of what it allows, if it is this process that it watches."""
    assert beat_seconds(environ, PID) == seconds


def test_a_status_is_one_line() -> None:
    """Whatever it is made of: READY=1 on a line of its own would be taken for one."""
    assert said("a\nREADY=1\r\nb") == "STATUS=a READY=1 b"


def test_when_a_reload_began() -> None:
    """In microseconds."""
    assert reload_began(12_345_678) == ("RELOADING=1", "MONOTONIC_USEC=12345")


def test_what_it_does() -> None:
    """Where, and what it waits for."""
    url = "http://127.0.0.1:8080"
    assert doing([url], "counting", is_started=False) == f"starting {url}; counting"
    assert doing([url, "http://[::1]:8080"], None, is_started=True) == (
        f"serving {url}, http://[::1]:8080"
    )


# -- a start --------------------------------------------------------------------------------------


async def test_a_long_start_asks_for_time_until_it_is_ready(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Well before what it was given is over; ready when it takes events, and not before."""
    started, caught_up = trio.Event(), trio.Event()
    with Manager(tmp_path / "notify") as manager:
        async with trio.open_nursery() as nursery:
            told = service(manager.environ)
            nursery.start_soon(told.run, started, caught_up, lambda: "recovering")
            await trio.sleep(3.5 * EXTENDED_EVERY_S)
            asked = {"EXTEND_TIMEOUT_USEC": "60000000", "STATUS": "recovering"}
            assert manager.rest() == [asked] * 4
            assert EXTENDED_EVERY_S * 2 < EXTENSION_S == 60
            await told.reloading()
            await told.reloaded("recovering; reloaded")
            assert manager.rest() == [{"STATUS": "recovering; reloaded"}]
            started.set()
            await trio.sleep(1)
            assert manager.rest() == [{"READY": "1", "STATUS": "recovering"}]
            caught_up.set()
            await trio.sleep(600)
            assert manager.rest() == [{"STATUS": "recovering"}]


async def test_an_abstract_socket_is_told(autojump_clock: MockClock) -> None:
    """As a manager of containers may have."""
    with Manager("@meterd-tests/notify") as manager:
        await service(manager.environ).run(set_event(), set_event(), lambda: "serving")
        assert manager.rest()[0] == {"READY": "1", "STATUS": "serving"}


async def test_a_watchdog_is_told_at_half_its_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Also while a start takes long."""
    with Manager(tmp_path / "notify") as manager:
        environ = {**manager.environ, "WATCHDOG_USEC": "4000000"}
        with trio.move_on_after(9):
            await service(environ).run(trio.Event(), trio.Event(), str)
        assert [message for message in manager.rest() if "WATCHDOG" in message] == [
            {"WATCHDOG": "1"}
        ] * 5


# -- reload and stop ------------------------------------------------------------------------------


async def test_a_reload_and_a_stop(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each is announced; behind a reload meterd is ready again."""
    with Manager(tmp_path / "notify") as manager:
        told = service(manager.environ)
        await told.run(set_event(), set_event(), lambda: "serving")
        manager.rest()
        await told.reloading()
        await told.reloaded("serving; not reloaded")
        await told.stopping()
        assert manager.rest() == [
            {"RELOADING": "1", "MONOTONIC_USEC": "12345"},
            {"READY": "1", "STATUS": "serving; not reloaded"},
            {"STOPPING": "1", "STATUS": "stopping"},
        ]


# -- nobody ---------------------------------------------------------------------------------------


async def test_without_a_manager_nothing_is_told() -> None:
    """Started by hand."""
    with capture_logs() as logged:
        told = service({"WATCHDOG_USEC": "1"})
        await told.run(trio.Event(), trio.Event(), str)
        await told.stopping()
    assert logged == []


@pytest.mark.parametrize("name", ["{}/nobody", "@nobody-here", "vsock:2:1", f"/{'x' * 200}", "{}"])
async def test_a_manager_that_cannot_be_told_ends_nothing(
    tmp_path: Path, autojump_clock: MockClock, name: str
) -> None:
    """It is logged once, with why."""
    environ = {"NOTIFY_SOCKET": name.format(tmp_path), "WATCHDOG_USEC": "1000000"}
    with capture_logs() as logged:
        told = service(environ)
        with trio.move_on_after(10):
            await told.run(set_event(), set_event(), str)
        await told.reloading()
        await told.stopping()
    [entry] = logged
    assert (entry["event"], entry["log_level"]) == (UNHEARD, "warning")
    assert entry["socket"] == environ["NOTIFY_SOCKET"]
    assert entry["error"]


async def test_a_manager_that_does_not_read_holds_nothing_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A stop least of all."""
    with Manager(tmp_path / "notify") as manager, capture_logs() as logged:
        fill(manager.name)
        with trio.fail_after(2):
            await service(manager.environ).stopping()
    assert [entry["error"] for entry in logged] == ["it does not read"]


def fill(path: str) -> None:
    """Until the manager's queue takes no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.connect(path)
        try:
            while True:
                channel.send(b"x")
        except BlockingIOError:
            pass


async def test_a_manager_that_comes_again_is_told_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its socket is looked for anew each time."""
    path = tmp_path / "notify"
    with capture_logs():
        told = service({"NOTIFY_SOCKET": str(path)})
        await told.stopping()
        with Manager(path) as manager:
            await told.stopping()
            assert manager.rest() == [{"STOPPING": "1", "STATUS": "stopping"}]
