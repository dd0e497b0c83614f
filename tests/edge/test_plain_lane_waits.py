"""How long the plain lane waits for its clients, and that nobody else waits with it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import Limits
from tests.edge.lane_bench import (
    EVENT,
    Lane,
    lane,
    request,
)
from tests.edge.loopback import open_door

if TYPE_CHECKING:
    from trio.testing import MockClock


@pytest.mark.parametrize("fast", [True, False])
async def test_a_body_may_stall_as_long_in_either_lane(
    mock_clock: MockClock, *, fast: bool
) -> None:
    """What was waited in one is not granted again by the other."""
    limits = Limits(body_stall_s=10)
    async with lane(fast=fast, limits=limits) as opened, await opened.door.connect() as client:
        await client.send(request(EVENT)[:-1])
        await wait_all_tasks_blocked(0.05)
        mock_clock.jump(9.9)
        await wait_all_tasks_blocked(0.05)
        assert opened.by_hypercorn == ([] if fast else ["/usage/api.calls"])
        mock_clock.jump(1.1)  # in one lane a sweep finds it, a second late at the most
        assert (await client.answer()).status == 408


async def test_a_body_that_drips_is_read_once_a_second(mock_clock: MockClock) -> None:
    """And is answered when it is whole."""
    whole = request(EVENT)
    async with lane(fast=True, limits=Limits()) as fast, await fast.door.connect() as client:
        for end in range(-7, -1):
            mock_clock.jump(0.01)
            await client.send(whole[:-7] if end == -7 else whole[end - 1 : end])
            await wait_all_tasks_blocked(0.05)
        await client.send(whole[-2:])
        await wait_all_tasks_blocked(0.05)
        assert await fast.stored() == []
        mock_clock.jump(1.0)
        assert (await client.answer()).status == 201
        assert fast.by_hypercorn == []


class Turns(trio.abc.Instrument):
    """How many connections had a turn between two looks at who has sent something, at most."""

    def __init__(self) -> None:
        self.most = self._now = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._now += task.name.endswith("._handle")
        self.most = max(self.most, self._now)

    def before_io_wait(self, _timeout: float) -> None:
        self._now = 0


async def test_many_that_are_overdue_at_once_end_a_few_at_a_time(mock_clock: MockClock) -> None:
    """Whoever opened them all at once does not keep the others waiting when they end."""
    limits = Limits()
    async with lane(fast=True, limits=limits) as fast, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await fast.door.connect()) for _ in range(40)]
        await wait_all_tasks_blocked(0.05)
        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        mock_clock.jump(limits.keep_alive_s + 2)
        for client in clients:
            assert await client.is_closed()
        trio.lowlevel.remove_instrument(turns)
        assert 0 < turns.most <= 16


async def test_a_body_that_stops_coming_is_given_up() -> None:
    """The other lane answers 408, once, and closes; nothing is stored."""
    async with lane(fast=True) as fast, await fast.door.connect() as client:
        await client.send(request(EVENT)[:-1])
        assert (await client.answer()).status == 408
        assert await client.is_closed()
        assert await fast.stored() == []


async def test_an_idle_connection_ends_when_its_time_is_over() -> None:
    """Also one that never said anything."""
    limits = Limits(keep_alive_s=0.05)
    opened = Lane(fast=True, limits=limits)
    async with open_door(opened.app, limits, opened.plain) as door:
        async with await door.connect() as silent, await door.connect() as client:
            assert (await client.ask(request(EVENT))).status == 201
            assert await client.is_closed()
            assert await silent.is_closed()
        await door.wait_open(0)
