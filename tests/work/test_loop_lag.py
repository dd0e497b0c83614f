"""How late a task gets its turn, with a clock that jumps as it does over a long piece of work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from meterd.work.loop_lag import LOOK_SECONDS, WATCHED_SECONDS, LoopLag

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_how_late_a_task_gets_its_turn(mock_clock: MockClock) -> None:
    """On time is 0; behind a piece of work that took longer, what it took more."""
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        lag.watch()
        for jump_s in (LOOK_SECONDS, LOOK_SECONDS + 0.5, LOOK_SECONDS + 7):
            await wait_all_tasks_blocked()
            mock_clock.jump(jump_s)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    by_bound = dict(lag.seconds.cumulative())
    assert (by_bound[0.001], by_bound[0.25], by_bound[0.5]) == (1, 1, 2)
    assert (by_bound[5], by_bound[math.inf]) == (2, 3)
    assert lag.seconds.total == 7.5


async def test_it_looks_again_and_again(autojump_clock: MockClock) -> None:
    """Four times a second, also where nothing else happens."""
    lag = LoopLag()
    lag.watch()
    with trio.move_on_after(60 + LOOK_SECONDS / 2):
        await lag.run()
    assert lag.seconds.count == 60 / LOOK_SECONDS
    assert lag.seconds.total == 0


async def test_it_sleeps_when_nobody_reads_it(autojump_clock: MockClock) -> None:
    """An idle meterd has nothing to do: it looks for some minutes behind each reading."""
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await trio.sleep(86_400)
        assert lag.seconds.count == 0
        for reading in (1, 2):
            lag.watch()
            await trio.sleep(86_400)
            assert lag.seconds.count == reading * WATCHED_SECONDS / LOOK_SECONDS
        nursery.cancel_scope.cancel()
