"""Bells lose no ring, replies wait for all, events stay in flight until then."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.embedded.mailbox import Bell, InFlight, Reply


class Waiter:
    """Waits for a bell again and again."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.heard = 0

    async def run(self) -> None:
        while True:
            await self.bell.wait()
            self.heard += 1


# Bells


async def test_a_bell_wakes_whoever_waits_every_time() -> None:
    """Once for each ring that comes while it waits, and not before."""
    waiter = Waiter(Bell())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        for rings in range(3):
            await wait_all_tasks_blocked()
            assert waiter.heard == rings
            waiter.bell.ring()
        await wait_all_tasks_blocked()
        assert waiter.heard == 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rings", [1, 2, 5])
async def test_a_bell_rung_while_nobody_waits_wakes_the_next_one_once(rings: int) -> None:
    """However often: who is woken looks at all that has come."""
    waiter = Waiter(Bell())
    for _ in range(rings):
        waiter.bell.ring()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        assert waiter.heard == 1
        nursery.cancel_scope.cancel()


async def test_a_ring_behind_the_one_that_wakes_is_not_lost() -> None:
    """Though the waiter's turn had not yet come: what came then it may have looked at too early."""
    waiter = Waiter(Bell())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        waiter.bell.ring()
        waiter.bell.ring()
        await wait_all_tasks_blocked()
        assert waiter.heard == 2
        nursery.cancel_scope.cancel()


async def test_a_bell_whose_waiter_has_gone_keeps_its_ring() -> None:
    """Whoever was cancelled is not woken, and the next one is."""
    bell = Bell()
    with trio.move_on_after(0):
        await bell.wait()
    bell.ring()
    with trio.fail_after(5):
        await bell.wait()


async def test_a_bell_has_one_waiter() -> None:
    """A second one would take the first one's place for ever."""
    waiter = Waiter(Bell())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter.run)
        await wait_all_tasks_blocked()
        with pytest.raises(AssertionError):
            await waiter.bell.wait()
        nursery.cancel_scope.cancel()


# Replies


async def test_a_reply_waits_for_every_message() -> None:
    """Not for all but one."""
    reply = Reply(3)
    answered: list[int] = []

    async def wait() -> None:
        await reply.wait()
        answered.append(3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for _ in range(3):
            await wait_all_tasks_blocked()
            assert answered == []
            reply.durable()
    assert answered == [3]


async def test_a_reply_to_nothing_is_there_at_once() -> None:
    """Who asked nobody waits for nobody."""
    with trio.fail_after(5):
        await Reply(0).wait()


async def test_a_reply_that_came_before_anyone_waits_is_there_at_once() -> None:
    """The disk may be faster than the caller."""
    reply = Reply(1)
    reply.durable()
    with trio.fail_after(5):
        await reply.wait()


@pytest.mark.parametrize(
    ("takes", "fits"),
    [
        ([10], [True]),
        ([11], [False]),
        ([4, 6, 1], [True, True, False]),
        # the last one that is taken may go beyond it, or single events would shut batches out
        ([4, 5, 9, 1], [True, True, True, False]),
        # what was refused takes no room
        ([4, 11, 5, 1], [True, False, True, True]),
    ],
)
def test_events_in_flight_are_bounded(takes: list[int], fits: list[bool]) -> None:
    """Up to the limit and less than a whole append further; ``is_full`` says who is refused."""
    in_flight = InFlight(10)
    for events, expected in zip(takes, fits, strict=True):
        assert in_flight.is_full == (not expected and events <= 10)
        assert in_flight.take(events) == expected


def test_room_that_is_given_back_may_be_taken_again() -> None:
    """As much as was given back."""
    in_flight = InFlight(10)
    assert in_flight.take(10)
    in_flight.give_back(3)
    assert [in_flight.take(events) for events in (2, 1, 1)] == [True, True, False]


def test_events_are_in_flight_until_all_is_durable() -> None:
    """Whether or not anyone waits for it: a caller that has gone away frees nothing."""
    in_flight = InFlight(10)
    assert in_flight.take(10)
    reply = Reply(2, in_flight, 10)
    reply.durable()
    assert not in_flight.take(1)
    reply.durable()
    assert in_flight.take(10)
