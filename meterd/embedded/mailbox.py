"""How actors are spoken to: a bounded inbox, a reply that waits for the disk, and the gate.

The gate is what makes an append of many customers one transaction. Its messages reach all of their
actors in one go, but the actors decide one after another, when the scheduler comes to them. So
before the committer collects what was decided it holds the gate: no new append passes, and within a
turn or two of the scheduler every message that did pass is decided. What is collected then is
whole.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Messages for one actor, in order. Whoever puts must know that there is room."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: deque[T] = deque()
        self._receiver = trio.lowlevel.ParkingLot()
        self._closed = False

    def __len__(self) -> int:
        return len(self._messages)

    def has_room(self) -> bool:
        return len(self._messages) < self._limit

    def put(self, message: T) -> None:
        assert not self._closed, "a message was sent to an actor that has retired"
        self._messages.append(message)
        self._receiver.unpark()

    def close(self) -> None:
        """The actor gets what is still here, and then None."""
        self._closed = True
        self._receiver.unpark()

    async def receive(self) -> T | None:
        """The next message, at once if there is one; None when there will be none."""
        while not self._messages:
            if self._closed:
                return None
            await self._receiver.park()
        return self._messages.popleft()


class InFlight:
    """How many events are on their way to the disk, and how many may be."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events = 0

    def take(self, events: int) -> bool:
        """Whether they still fit in; then they count until they are given back."""
        if self._events + events > self._limit:
            return False
        self._events += events
        return True

    def give_back(self, events: int) -> None:
        self._events -= events


class Reply:
    """What a caller waits on who has sent messages to several actors.

    The events that were sent stay in flight until all are durable, also where the caller has gone.
    """

    def __init__(self, messages: int, in_flight: InFlight | None = None, events: int = 0) -> None:
        self._outstanding = messages
        self._in_flight = in_flight
        self._events = events
        self._all_durable = trio.Event()
        if not messages:
            self._all_durable.set()

    def durable(self) -> None:
        """One of the messages has been acted on, and what it changed is on disk."""
        self._outstanding -= 1
        if self._outstanding == 0:
            if self._in_flight is not None:
                self._in_flight.give_back(self._events)
            self._all_durable.set()

    async def wait(self) -> None:
        """Returns when all of them are."""
        await self._all_durable.wait()


class Gate:
    """Counts the messages on their way to a decision, and lets no new ones in when held."""

    def __init__(self) -> None:
        self._undecided = 0
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def wait_open(self) -> None:
        """Returns at once unless the gate is held; what follows until the next await is let in
        whole.
        """
        while self._held:
            await self._waiting.park()

    def sent(self) -> None:
        self._undecided += 1

    def decided(self) -> None:
        self._undecided -= 1

    async def hold(self) -> None:
        """Returns when everything that was let in is decided; ``release`` must follow without an
        await.
        """
        self._held = True
        while self._undecided:
            await trio.lowlevel.checkpoint()

    def release(self) -> None:
        self._held = False
        self._waiting.unpark_all()
