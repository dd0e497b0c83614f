"""Long answers as pages: every element in exactly one answer, whatever comes in between."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.pages import (
    COUNTED,
    COUNTED_AMONG_MANY,
    PAGE,
    PAGE_AMONG_MANY,
    PATIENCE_S,
    Pages,
    PageTurn,
)
from meterd.edge.spare_time import Answers

if TYPE_CHECKING:
    from trio.testing import MockClock


class Numbers:
    """Newest first, as events are; ``arrives`` come in front, one at each read."""

    def __init__(self, count: int, arrives: int = 0) -> None:
        self.numbers = list(range(count, 0, -1))
        self.reads: list[int] = []
        self.counts: list[int] = []
        self._arrives = arrives

    async def read(self, count: int, behind: int | None) -> list[tuple[bytes, int]]:
        self.reads.append(count)
        found = [n for n in self.numbers if behind is None or n < behind][:count]
        if self._arrives:
            self._arrives -= 1
            self.numbers.insert(0, self.numbers[0] + 1)
        return [(b"%d" % n, n) for n in found]

    async def end(self, count: int, behind: int) -> int | None:
        self.counts.append(count)
        found = [n for n in self.numbers if n < behind]
        return found[count - 1] if len(found) > count else None


async def answers(numbers: Numbers, limit: int) -> list[list[int]]:
    found: list[list[int]] = []
    place: int | None = None
    while True:
        pages, place = await Pages(numbers, PageTurn(Answers())).answer(limit, place)
        found.append(json.loads(b"".join([piece async for piece in pages])))
        if place is None:
            return found


@pytest.mark.parametrize("count", [0, 1, 2, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 7])
@pytest.mark.parametrize("limit", [1, 2, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 10_000])
@pytest.mark.parametrize("arrives", [0, 5])
async def test_each_element_is_in_one_answer(count: int, limit: int, arrives: int) -> None:
    """In order, each answer full but the last; what arrives meanwhile changes nothing."""
    if arrives and not count:
        return
    numbers = Numbers(count, arrives)
    found = await answers(numbers, limit)
    assert [n for answer in found for n in answer] == list(range(count, 0, -1))
    assert all(len(answer) == limit for answer in found[:-1])
    assert max(numbers.reads) <= PAGE + 1


async def test_pages_are_made_one_at_a_time() -> None:
    """In turn, however many read at once: events wait for none but the one that is being made."""
    under_way, most, turns = 0, 0, list[int]()

    class Slow(Numbers):
        async def read(self, count: int, behind: int | None) -> list[tuple[bytes, int]]:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            turns.append(id(self))
            await trio.lowlevel.checkpoint()
            under_way -= 1
            return await super().read(count, behind)

    turn = PageTurn(Answers())

    async def read_all() -> None:
        pages, _ = await Pages(Slow(3 * PAGE), turn).answer(3 * PAGE, None)
        assert len(json.loads(b"".join([piece async for piece in pages]))) == 3 * PAGE

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read_all)
    assert most == 1
    assert all(len(set(turns[start : start + 5])) == 5 for start in range(0, 20, 5))


async def test_pages_are_smaller_while_others_wait() -> None:
    """Of the last that reads they are whole again, and so are the portions it counts."""

    class Yielding(Numbers):
        async def read(self, count: int, behind: int | None) -> list[tuple[bytes, int]]:
            await trio.lowlevel.checkpoint()
            return await super().read(count, behind)

    turn = PageTurn(Answers())
    short, long = (Yielding(PAGE + count) for count in (COUNTED_AMONG_MANY + 1, 5 * COUNTED))

    async def read_all(numbers: Yielding) -> None:
        limit = len(numbers.numbers) - 1
        pages, end = await Pages(numbers, turn).answer(limit, None)
        assert end == 2
        assert len(json.loads(b"".join([piece async for piece in pages]))) == limit

    async with trio.open_nursery() as nursery:
        for numbers in (short, long):
            nursery.start_soon(read_all, numbers)
    assert long.counts[0] == COUNTED_AMONG_MANY
    assert COUNTED in long.counts[1:]
    assert short.reads[1] == PAGE_AMONG_MANY
    assert long.reads[-2] == PAGE


async def test_an_end_is_counted_in_turns() -> None:
    """Also where it is there, or nothing follows, exactly between two of them."""
    for limit in range(PAGE + 2 * COUNTED - 1, PAGE + 2 * COUNTED + 2):
        for count in range(limit - 1, limit + 2):
            numbers = Numbers(count)
            _, end = await Pages(numbers, PageTurn(Answers())).answer(limit, None)
            assert end == (count - limit + 1 if count > limit else None)
            assert max(numbers.counts) == COUNTED
            assert len(numbers.counts) <= 3


async def test_nothing_is_counted_that_cannot_be_too_much() -> None:
    """Most that is read whole has no more behind it than is stored in all."""
    for most, counted in ((3 * PAGE, False), (3 * PAGE + 1, True)):
        for count in (2 * PAGE, most):
            numbers = Numbers(count)

            async def stored(most: int = most) -> int:
                await trio.lowlevel.checkpoint()
                return most

            pages, end = await Pages(numbers, PageTurn(Answers()), stored).answer(4 * PAGE, None)
            assert end is None
            assert len(json.loads(b"".join([piece async for piece in pages]))) == count
            assert bool(numbers.counts) is counted


async def settled() -> None:
    """More than once: a page waits for the same moment, and may then wait for something else."""
    for _ in range(3):
        await wait_all_tasks_blocked()


async def test_a_page_gives_way_to_answers(mock_clock: MockClock) -> None:
    """And to whatever else there is to be done; for a moment."""
    answers, made = Answers(), list[str]()
    turn = PageTurn(answers)

    async def make() -> None:
        async with turn:
            made.append("page")

    async def busy() -> None:
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        made.append("rest")

    async with trio.open_nursery() as nursery:
        answers.begin()
        for _ in range(2):
            nursery.start_soon(make)
        await settled()
        assert made == []
        nursery.start_soon(busy)
        answers.end()
        await settled()
        assert made == ["rest", "page", "page"]
        nursery.start_soon(make)
        nursery.start_soon(busy)
        await settled()
        assert made[3:] == ["rest", "page"], "with nobody answered, too"
        answers.begin()
        for _ in range(2):
            nursery.start_soon(make)
        for page in range(2):
            await settled()
            assert len(made) == 5 + page
            mock_clock.jump(PATIENCE_S)
    assert len(made) == 7


async def test_who_gives_up_its_turn_holds_nobody_up(mock_clock: MockClock) -> None:
    """While it gives way."""
    answers = Answers()
    turn = PageTurn(answers)
    answers.begin()
    with trio.move_on_after(PATIENCE_S / 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.__aenter__)
            await wait_all_tasks_blocked()
            mock_clock.jump(PATIENCE_S / 2)
    answers.end()
    with trio.fail_after(1):
        async with turn:
            pass
