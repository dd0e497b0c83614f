"""Threads that nobody abandons, and that nobody else takes up; listeners and their buffers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import UNREAD_BYTES_MAX, UNTAKEN_BYTES_MAX
from meterd.machine import Machine, threads, writer_thread
from tests.daemon_bench import configured
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.embedded.committer import Hop


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "left"),
    [(1024, 4096, 2000, 2000), (1024, 1500, 1500, 1500), (3000, 4096, 2000, 3000)],
)
def test_as_many_files_as_may_be(soft: int, hard: int, allowed: int, left: int) -> None:
    """The limit is raised, never lowered, and never beyond what the machine grants."""
    program = (
        "import resource; from meterd.machine import open_files_allowed as allow;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "print(allow(2000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(allowed), str(left)]


@pytest.mark.parametrize("at_once", [1, 3])
async def test_threads_run_so_many_at_once(at_once: int) -> None:
    """One for the writer: two transactions would wait for each other on LMDB's lock."""
    came, release = threading.Semaphore(0), threading.Event()

    def work() -> None:
        came.release()
        release.wait(10)

    hop = threads(at_once)
    async with trio.open_nursery() as nursery:
        for _ in range(2 * at_once):
            nursery.start_soon(hop, work)
        await wait_all_tasks_blocked()
        assert all(came.acquire(timeout=10) for _ in range(at_once))
        assert not came.acquire(timeout=0.05)
        release.set()


async def test_threads_of_others_do_not_hold_up_these() -> None:
    """A name server that hangs takes up trio's own threads, and must not hold up a commit."""
    release = threading.Event()
    everyone = int(trio.to_thread.current_default_thread_limiter().total_tokens)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(everyone):
                nursery.start_soon(trio.to_thread.run_sync, release.wait, 10)
            await wait_all_tasks_blocked()
            with trio.fail_after(5):
                assert await threads(1)(lambda: "done") == "done"
            release.set()
    finally:
        release.set()


@pytest.mark.parametrize("hop", [threads(1), writer_thread])
async def test_what_runs_in_a_thread_is_never_abandoned(hop: Hop) -> None:
    """A cancelled commit goes on to its end: its task must still be there to answer."""
    began, release = threading.Event(), threading.Event()
    finished: list[bool] = []

    def work() -> None:
        began.set()
        release.wait(10)
        finished.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hop, work)
        await trio.to_thread.run_sync(began.wait)
        nursery.cancel_scope.cancel()
        threading.Timer(0.05, release.set).start()
    assert finished == [True]


async def test_the_writer_has_what_comes_of_its_work() -> None:
    """Its failures too, and nothing is begun for whoever is cancelled already."""

    def fail() -> None:
        raise ValueError("no")

    assert await writer_thread(lambda: "done") == "done"
    with pytest.raises(ValueError, match="no"):
        await writer_thread(fail)
    with trio.move_on_after(0) as scope:
        await writer_thread(pytest.fail)
    assert scope.cancelled_caught


# On one core, whose loop keeps the interpreter and the core to itself until it waits or yields.
_BUSY: Final = """
import os, sys, time
import trio
from meterd.machine import writer_thread

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.setswitchinterval(5.0)
begun_in_time = 0

async def spin():
    while True:
        until = time.monotonic() + 0.001
        while time.monotonic() < until:
            pass
        await trio.lowlevel.checkpoint()

async def main():
    global begun_in_time
    async with trio.open_nursery() as nursery:
        for _ in range(4):  # one of them at least is mostly next
            nursery.start_soon(spin)
        for _ in range(50):
            asked_at = time.monotonic()
            begun_in_time += await writer_thread(time.monotonic) - asked_at < 0.0008
        nursery.cancel_scope.cancel()

trio.run(main)
print(begun_in_time)
"""


def test_the_writer_begins_before_the_loop_goes_on() -> None:
    """However busy that is: all who wait for a transaction would wait for it."""
    done = subprocess.run(
        [sys.executable, "-c", _BUSY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 35


async def test_the_kernel_holds_only_so_much_for_a_connection(tmp_path: Path) -> None:
    """What a client may send ahead is bounded, and what it may leave unread; Linux accounts for
    twice the bytes.
    """
    [listener] = await Machine().listen(configured(tmp_path))
    async with listener:
        port = listener.socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port), await listener.accept() as it:
            unread = it.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            untaken = it.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert (unread, untaken) == (2 * UNREAD_BYTES_MAX, 2 * UNTAKEN_BYTES_MAX)


async def test_inherited_sockets_take_the_place_of_the_address(tmp_path: Path) -> None:
    """With the same bounds; the log says so, and where commands would look in vain."""
    config = configured(tmp_path)
    server = msgspec.structs.replace(config.server, port=1)
    config = msgspec.structs.replace(config, server=server)
    with socket.create_server(("127.0.0.1", 0)) as handed_over, capture_logs() as logged:
        port = handed_over.getsockname()[1]
        inherited = socket.socket(fileno=os.dup(handed_over.fileno()))
        [listener] = await Machine([inherited]).listen(config)
        async with listener:
            assert listener.socket.getsockname() == handed_over.getsockname()
            size = listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            assert size == 2 * UNREAD_BYTES_MAX
    assert [(entry["log_level"], entry.get("ports")) for entry in logged] == [
        ("info", None),
        ("warning", [port]),
    ]
