"""When costly work may begin, and whose; on a clock that stands still unless it is set."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.spare_time import (
    PATIENCE_BEHIND_REQUESTS_S,
    PATIENCE_S,
    Answers,
    Company,
    SpareTime,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

_PASSES = 50


class Busy:
    """A loop that always has something to do, and what has begun meanwhile."""

    def __init__(self, spare_time: SpareTime, clock: MockClock, nursery: trio.Nursery) -> None:
        self.spare_time = spare_time
        self.clock = clock
        self.begun: list[str] = []
        self.rests = False
        self._nursery = nursery

    async def spin(self) -> None:
        while not self.rests:
            await trio.lowlevel.checkpoint()

    def ask(self, *peers: str) -> None:
        for peer in peers:
            self._nursery.start_soon(self._begin, peer)

    async def _begin(self, peer: str) -> None:
        await self.spare_time.wait(peer)
        self.begun.append(peer)

    async def passes(self) -> list[str]:
        """What has begun some passes of the loop later."""
        for _ in range(_PASSES):
            await trio.lowlevel.checkpoint()
        return self.begun


@asynccontextmanager
async def busy(clock: MockClock, *, has_company: bool = True) -> AsyncIterator[Busy]:
    spare_time = SpareTime(lambda _: has_company)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spare_time.run)
        loop = Busy(spare_time, clock, nursery)
        nursery.start_soon(loop.spin)
        yield loop
        nursery.cancel_scope.cancel()


async def test_in_company_work_begins_when_nothing_else_is_ready(mock_clock: MockClock) -> None:
    """Not while others keep the loop busy."""
    async with busy(mock_clock) as loop:
        loop.ask("a")
        assert await loop.passes() == []
        loop.rests = True
        await wait_all_tasks_blocked(0.001)
        assert loop.begun == ["a"]


async def test_who_is_alone_does_not_wait(mock_clock: MockClock) -> None:
    """However busy the loop is with it."""
    async with busy(mock_clock, has_company=False) as loop:
        loop.ask("a", "a")
        assert await loop.passes() == ["a", "a"]


async def test_each_peer_in_turn(mock_clock: MockClock) -> None:
    """Who asks for much is not served before who asks for little."""
    async with busy(mock_clock) as loop:
        loop.ask("a", "a", "a")
        await loop.passes()
        loop.ask("b")
        await loop.passes()
        loop.rests = True
        while len(loop.begun) < 4:
            await wait_all_tasks_blocked(0.001)
        assert loop.begun in (["a", "b", "a", "a"], ["b", "a", "a", "a"])


async def test_a_loop_that_is_never_idle_is_waited_for_only_so_long(mock_clock: MockClock) -> None:
    """Then one piece begins, and the next after as long again."""
    async with busy(mock_clock) as loop:
        loop.ask("a", "a")
        for expected in (1, 2):
            await loop.passes()
            loop.clock.jump(PATIENCE_S)
            assert len(await loop.passes()) == expected


async def test_behind_a_request_it_is_waited_for_longer(mock_clock: MockClock) -> None:
    """It may be the request that the loop is busy with."""
    async with busy(mock_clock) as loop:
        loop.spare_time.begin_request()
        loop.ask("a")
        await loop.passes()
        loop.clock.jump(PATIENCE_S)
        assert await loop.passes() == []
        loop.clock.jump(PATIENCE_BEHIND_REQUESTS_S)
        assert await loop.passes() == ["a"]
        loop.spare_time.end_request()
        loop.ask("b")
        await loop.passes()
        loop.clock.jump(PATIENCE_S)
        assert await loop.passes() == ["a", "b"]


async def test_who_gives_up_waiting_holds_nobody_up(mock_clock: MockClock) -> None:
    """Nor does a peer of whom nobody waits any more."""
    async with busy(mock_clock) as loop:
        with trio.move_on_after(0):
            await loop.spare_time.wait("a")
        loop.ask("b")
        loop.rests = True
        await wait_all_tasks_blocked(0.001)
        assert "b" in loop.begun


class Crowd(trio.abc.Instrument):
    """Those who give way to answers; ``went_on`` counts who has, so far and by turns."""

    def __init__(self, *, has_company: bool = True) -> None:
        self.answers = Answers()
        self.spare_time = SpareTime(lambda _: has_company, self.answers)
        self.went_on = 0
        self.in_each_turn: list[int] = []

    def before_io_wait(self, _timeout: float) -> None:
        self.in_each_turn.append(self.went_on)

    async def comes(self, nursery: trio.Nursery, count: int = 1) -> None:
        for _ in range(count):
            nursery.start_soon(self._give_way)
        await wait_all_tasks_blocked()

    async def _give_way(self) -> None:
        await self.spare_time.give_way("a")
        self.went_on += 1


async def test_way_is_given_to_answers_and_one_goes_on_in_each_turn(mock_clock: MockClock) -> None:
    """To all of them: who comes meanwhile finds the way free when the last one is given."""
    crowd = Crowd()
    async with trio.open_nursery() as nursery:
        crowd.answers.begin()
        crowd.answers.begin()
        await crowd.comes(nursery, 5)
        crowd.answers.end()
        await wait_all_tasks_blocked()
        assert crowd.went_on == 0
        crowd.answers.end()
        trio.lowlevel.add_instrument(crowd)
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(crowd)
        assert crowd.in_each_turn[-1] == 5
        assert max(after - before for before, after in pairwise([0, *crowd.in_each_turn])) == 1
    assert mock_clock.current_time() == 0


async def test_way_is_given_for_a_moment_only(mock_clock: MockClock) -> None:
    """Of 2 ms: a slow disk keeps no newcomer out."""
    crowd = Crowd()
    async with trio.open_nursery() as nursery:
        crowd.answers.begin()
        await crowd.comes(nursery)
        for went_on in (0, 1):
            mock_clock.jump(0.001)
            await wait_all_tasks_blocked()
            assert crowd.went_on == went_on


async def test_nobody_gives_way_without_answers_or_others(mock_clock: MockClock) -> None:
    """Whoever is alone would wait for itself."""
    for crowd in (Crowd(), Crowd(has_company=False)):
        async with trio.open_nursery() as nursery:
            crowd.answers.begin()
            if crowd.spare_time._has_company("a"):
                crowd.answers.end()
            await crowd.comes(nursery, 3)
            assert crowd.went_on == 3
    assert mock_clock.current_time() == 0


def test_company_is_another_peer_a_while_ago() -> None:
    """Not oneself, however often; nor somebody of long ago."""
    company = Company()
    for now_s in range(100):
        company.note("a", now_s)
    assert not company.has_others("a", 100)
    assert company.has_others("b", 100)
    company.note("b", 100)
    company.note("a", 101)
    assert company.has_others("a", 159)
    assert not company.has_others("a", 161)
    for number in range(1000):
        company.note(str(number), 200)
    assert company.has_others("a", 200)
    assert len(company._seen_at) == 2
