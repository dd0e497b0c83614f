"""The writer's thread: results, failures, and a loop that stands still only while it should."""

from __future__ import annotations

import threading
import time

import pytest
import trio

from meterd.embedded.writer_thread import STANDSTILL_MAX_S, WriterThread


async def test_results_and_failures_come_back() -> None:
    """Each to its caller, in order, from one thread."""
    with WriterThread(threading.Event()) as hop:
        first = await hop(threading.get_ident)
        assert first != threading.get_ident()
        assert await hop(threading.get_ident) == first
        with pytest.raises(ZeroDivisionError):
            await hop(lambda: 1 // 0)
        assert await hop(lambda: 7) == 7


async def test_the_loop_stands_still_until_the_transaction_is_filled() -> None:
    """And goes on while it is committed: the other task runs before the work has ended."""
    filled, may_end = threading.Event(), threading.Event()
    happened: list[str] = []

    def work() -> None:
        happened.append("filled")
        filled.set()
        assert may_end.wait(5)
        happened.append("committed")

    async def beside() -> None:
        happened.append("loop")
        may_end.set()

    with WriterThread(filled) as hop:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hop, work)
            nursery.start_soon(beside)
    assert happened.index("filled") < happened.index("committed")
    assert "loop" in happened[:2]


async def test_the_loop_does_not_wait_for_ever() -> None:
    """A transaction that takes long to fill is filled beside a loop that goes on."""
    may_end = threading.Event()

    async def beside() -> None:
        may_end.set()

    with WriterThread(threading.Event()) as hop, trio.fail_after(5):
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hop, may_end.wait)
            nursery.start_soon(beside)
        assert time.perf_counter() - began < STANDSTILL_MAX_S + 4


async def test_work_is_never_abandoned() -> None:
    """A cancelled caller gets its result: what was begun is on disk."""
    with WriterThread(threading.Event()) as hop:
        with trio.CancelScope() as scope:
            scope.cancel()
            done = await hop(lambda: "done")
        assert done == "done"
