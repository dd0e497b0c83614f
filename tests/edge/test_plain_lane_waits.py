"""How long the plain lane waits for its clients, and that nobody else waits with it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import Limits
from meterd.edge.spare_time import GIVEN_WAY_S
from tests.edge.lane_bench import (
    EVENT,
    Lane,
    lane,
    request,
)
from tests.edge.loopback import keep_busy, open_door, passes

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


@pytest.mark.parametrize("pieces", [2, 6])
async def test_in_company_a_body_that_drips_is_read_in_spare_time(
    mock_clock: MockClock, pieces: int
) -> None:
    """From its second piece on: not while the loop has anything else to do."""
    whole, rests = request(EVENT), trio.Event()
    async with lane(fast=True, limits=Limits()) as fast, await fast.door.connect() as client:
        other = await trio.open_tcp_stream("127.0.0.1", fast.door.port, local_address="127.0.0.2")
        async with other, trio.open_nursery() as nursery:
            for end in range(-7, pieces - 7):
                mock_clock.jump(0.01)
                await client.send(whole[:-7] if end == -7 else whole[end - 1 : end])
                await wait_all_tasks_blocked(0.05)
            await client.send(whole[pieces - 8 :])
            nursery.start_soon(keep_busy, rests)
            mock_clock.jump(1.0)
            await passes()
            stored_before = len(await fast.stored())
            rests.set()
            answered = (await client.answer()).status
            assert (stored_before, answered) == (0, 201)


def stored_when_set(lane: Lane) -> trio.Event:
    """What events wait for from now on."""
    append, stored = lane.ledger.append, trio.Event()

    async def append_slowly(*events: Any, **rules: Any) -> Any:
        await stored.wait()
        return await append(*events, **rules)

    lane.ledger.append = append_slowly  # type: ignore[method-assign]
    return stored


async def test_newcomers_give_way_while_an_event_is_stored(mock_clock: MockClock) -> None:
    """For a moment: who has shown a key goes first, and a slow disk keeps nobody out."""
    async with lane(fast=True, limits=Limits()) as fast, await fast.door.connect() as client:
        opened = []
        async with AsyncExitStack() as stack:
            for comes_late in (False, True):
                stored = stored_when_set(fast)
                await client.send(request(EVENT))
                await wait_all_tasks_blocked(0.05)
                stranger = await trio.open_tcp_stream(
                    "127.0.0.1", fast.door.port, local_address="127.0.0.2"
                )
                await stack.enter_async_context(stranger)
                await wait_all_tasks_blocked(0.05)
                opened.append(fast.door.door.statistics().open)
                if comes_late:
                    mock_clock.jump(GIVEN_WAY_S)
                    await wait_all_tasks_blocked(0.05)
                    opened.append(fast.door.door.statistics().open)
                stored.set()
                assert (await client.answer()).status == 201
                await fast.door.wait_open(len(opened[:2]) + 1)
        assert opened == [1, 2, 3]


async def test_who_comes_meanwhile_stays_in_the_queue_of_the_kernel(mock_clock: MockClock) -> None:
    """Behind the first one, whom the kernel has told of: to accept hundreds takes its time, too."""
    async with lane(fast=True, limits=Limits()) as fast, await fast.door.connect() as client:
        stored = stored_when_set(fast)
        await client.send(request(EVENT))
        await wait_all_tasks_blocked(0.05)
        async with AsyncExitStack() as stack:
            for _ in range(5):
                stranger = await trio.open_tcp_stream(
                    "127.0.0.1", fast.door.port, local_address="127.0.0.2"
                )
                await stack.enter_async_context(stranger)
            await wait_all_tasks_blocked(0.05)
            accepted = fast.door.door.statistics().accepted
            stored.set()
            assert (await client.answer()).status == 201
            await fast.door.wait_open(6)
        assert accepted == 2


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
    limits = Limits(body_stall_s=0.3)
    async with lane(fast=True, limits=limits) as fast, await fast.door.connect() as client:
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
