"""Of one peer only some requests are worked on at once, and nobody waits for another peer's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.turns import Turns

if TYPE_CHECKING:
    from meterd.edge.turns import Turn

AT_ONCE = 2


class SpareTime:
    """Counts the requests that have begun; an HTTP/2 peer waits for its ``turn`` there too."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_begin = trio.Event()
        self.may_begin.set()

    async def wait(self, _peer: str) -> None:
        await self.may_begin.wait()

    def begin_request(self) -> None:
        self.begun += 1

    def end_request(self) -> None:
        self.begun -= 1


def stream(peer: str, spare_time: SpareTime, *, is_http2: bool = False) -> Any:
    return SimpleNamespace(peer=peer, spare_time=spare_time, is_http2=is_http2)


async def test_a_peer_has_some_at_once() -> None:
    """The next one begins when one is given back; another peer's begins at once."""
    spare_time, turns = SpareTime(), Turns(AT_ONCE)
    many = stream("many", spare_time)
    mine: list[Turn] = [turns.turn(many) for _ in range(AT_ONCE + 1)]
    async with trio.open_nursery() as nursery:
        for turn in mine:
            nursery.start_soon(turn.take)
        await wait_all_tasks_blocked()
        assert spare_time.begun == AT_ONCE
        await turns.turn(stream("other", spare_time)).take()
        assert spare_time.begun == AT_ONCE + 1
        for turn in mine:
            turn.give_back()
        await wait_all_tasks_blocked()
        assert spare_time.begun == 2, "the one that waited, and the other peer's"


async def test_what_was_not_taken_is_not_given_back() -> None:
    """Nor is anything twice."""
    spare_time, turns = SpareTime(), Turns(1)
    peer = stream("a", spare_time)
    taken, waiting, late = (turns.turn(peer) for _ in range(3))
    waiting.give_back()
    await taken.take()
    taken.give_back()
    taken.give_back()
    assert spare_time.begun == 0
    await late.take()
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(0.01):
            await waiting.take()


async def test_a_stream_waits_for_spare_time() -> None:
    """Cancelled meanwhile, it gives its place back."""
    spare_time, turns = SpareTime(), Turns(1)
    spare_time.may_begin = trio.Event()
    cancelled, next_one = (turns.turn(stream("a", spare_time, is_http2=True)) for _ in range(2))
    with trio.move_on_after(0.01):
        await cancelled.take()
    cancelled.give_back()
    assert spare_time.begun == 0
    spare_time.may_begin.set()
    await next_one.take()
    assert spare_time.begun == 1
