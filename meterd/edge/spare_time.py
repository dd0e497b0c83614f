"""Lets costly work for one peer among several wait until the loop has nothing else to do.

Everything that is ready has its turn before the loop looks again at who has sent something, so that
what one peer keeps the process busy with stands in front of whatever the others ask. Here it stands
behind them: a piece of it begins when nothing else is ready, one of each peer in turn.

What is cheap, but comes in numbers, only gives way while somebody who has shown a key is answered:
an answer passes several turns of the loop, and all that is done for strangers makes each longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Never

import trio
from trio.testing import wait_all_tasks_blocked

if TYPE_CHECKING:
    from collections.abc import Callable

# Where the loop is never idle, a piece begins so often all the same: of 2 ms, a third of the time.
PATIENCE_S: Final = 0.005
# While a request is under way: it may be what the loop is busy with.
PATIENCE_BEHIND_REQUESTS_S: Final = 0.05
# While somebody who has shown a key is answered, which takes less unless the disk is slow.
GIVEN_WAY_S: Final = 0.002
# Whoever was here lately may come again, and would find all that a lone peer has begun at once.
_LATELY_S: Final = 60.0


class Answers:
    """Whether somebody who has shown a key is being answered, and who gives way to that."""

    def __init__(self) -> None:
        self._under_way = 0
        self._giving_way = trio.lowlevel.ParkingLot()

    @property
    def are_under_way(self) -> bool:
        return self._under_way > 0

    def begin(self) -> None:
        """One more is under way, until ``end``."""
        self._under_way += 1

    def end(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._giving_way.unpark()

    async def give_way(self, most_s: float) -> None:
        """Returns when none is under way, or after so long. One goes on in each turn."""
        if self._under_way:
            with trio.move_on_after(most_s):
                await self._giving_way.park()
            self._giving_way.unpark()


class Company:
    """Whether there were others beside a peer lately. Instants are seconds that do not go back.

    Two are remembered: of those two, one at least is another than whoever asks.
    """

    def __init__(self) -> None:
        self._seen_at: dict[str, float] = {}

    def note(self, peer: str, now_s: float) -> None:
        """It is here."""
        self._seen_at.pop(peer, None)
        self._seen_at[peer] = now_s
        if len(self._seen_at) > 2:
            del self._seen_at[next(iter(self._seen_at))]

    def has_others(self, peer: str, now_s: float) -> bool:
        return any(
            other != peer and now_s < seen_at + _LATELY_S
            for other, seen_at in self._seen_at.items()
        )


class SpareTime:
    """An actor because somebody must wait for the loop to be idle; each connection may ask it.

    What waits is bounded by who asks: a connection, or one of the streams that it may have.
    """

    def __init__(self, has_company: Callable[[str], bool], answers: Answers | None = None) -> None:
        """``has_company`` tells whether a peer has others beside it; a lone one need not wait.
        ``answers`` are what is given way to.
        """
        self._has_company = has_company
        self._answers = answers or Answers()
        self._waiting: dict[str, trio.lowlevel.ParkingLot] = {}
        self._some_wait = trio.Event()
        self._requests = 0

    async def wait(self, peer: str) -> None:
        """Returns when a piece of work for the peer may begin; at once if it is alone."""
        if not self._has_company(peer):
            return
        if peer not in self._waiting:
            self._waiting[peer] = trio.lowlevel.ParkingLot()
            self._some_wait.set()
        await self._waiting[peer].park()

    async def give_way(self, peer: str) -> None:
        """Returns when nobody who has shown a key is being answered, or after a moment; at once if
        the peer is alone. For what is cheap, but comes in numbers: one goes on in each turn.
        """
        if self._answers.are_under_way and self._has_company(peer):
            await self._answers.give_way(GIVEN_WAY_S)

    def begin_request(self) -> None:
        """More than a piece is under way, until ``end_request``."""
        self._requests += 1

    def end_request(self) -> None:
        self._requests -= 1

    async def run(self) -> Never:
        """Until cancelled; nobody's waiting ends without it."""
        while True:
            await self._some_wait.wait()
            self._some_wait = trio.Event()
            while self._waiting:
                await self._idle()
                self._let_one_begin()

    async def _idle(self) -> None:
        """Returns when nothing else is ready, or has been waited for long enough."""
        began_at = trio.current_time()
        while True:
            with trio.move_on_after(PATIENCE_S) as waiting:
                await wait_all_tasks_blocked()
            waited_s = trio.current_time() - began_at
            if not waiting.cancelled_caught or not self._requests:
                return
            if waited_s >= PATIENCE_BEHIND_REQUESTS_S:
                return

    def _let_one_begin(self) -> None:
        peer, lot = next(iter(self._waiting.items()))
        del self._waiting[peer]
        lot.unpark()
        if lot:  # who is next; at the end of the line of peers
            self._waiting[peer] = lot
