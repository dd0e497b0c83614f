"""How actors are spoken to: what wakes one, what a caller waits on, the round that they decide in.

A round is what makes an append of many customers one transaction. Its messages reach all mailboxes
in one go; the committer then has everyone who has got mail decide on what is there at that moment.
So what is written together holds each append whole or not at all, and an actor has one turn for a
transaction, however many messages have come for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from meterd.domain.changes import Change


class Bell:
    """Wakes the one task that waits for it; rung while nobody waits, it wakes the next one at once.

    What trio.Event does, for one waiter and any number of times, at a third of the cost.
    """

    __slots__ = ("_is_rung", "_waiting")

    def __init__(self) -> None:
        self._waiting: trio.lowlevel.Task | None = None
        self._is_rung = False

    def ring(self) -> None:
        waiting = self._waiting
        if waiting is None:
            self._is_rung = True
        else:
            self._waiting = None
            trio.lowlevel.reschedule(waiting)

    def wait(self) -> Awaitable[object]:
        """To be awaited at once: returns when the bell was rung since the last return."""
        if self._is_rung:
            self._is_rung = False
            # Shielded, or a cancellation in here would lose the ring.
            return trio.lowlevel.cancel_shielded_checkpoint()  # noqa: ASYNC105 - the caller does
        assert self._waiting is None, "two tasks wait for one bell"
        self._waiting = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._give_up)  # noqa: ASYNC105

    def _give_up(self, _: Any) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


class InFlight:
    """How many events are on their way to the disk, and how many may be.

    Whoever comes while there is room at all is taken, and may go beyond the limit with what it
    brings: so ``is_full`` says for everyone, before anything is decoded, whether that would be in
    vain. When only what fitted in was taken, single events held the last place that a batch would
    have needed, and each batch was decoded to be refused.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.events = 0

    @property
    def is_full(self) -> bool:
        return self.events >= self._limit

    def take(self, events: int) -> bool:
        """Whether there is room; then they count until they are given back."""
        if self.is_full or events > self._limit:
            return False
        self.events += events
        return True

    def give_back(self, events: int) -> None:
        self.events -= events


class Reply:
    """What a caller waits on who has sent messages to several actors.

    Events that were sent stay in flight until all is durable, also where the caller has gone.
    ``is_given_up`` says that the wait was cut short, for a caller who may go: what was sent is
    still acted on.
    """

    __slots__ = ("_bell", "_events", "_in_flight", "_may_go", "_outstanding", "is_given_up")

    def __init__(
        self,
        messages: int,
        in_flight: InFlight | None = None,
        events: int = 0,
        *,
        may_go: bool = False,
    ) -> None:
        self.is_given_up = False
        self._may_go = may_go
        self._outstanding = messages
        self._in_flight = in_flight
        self._events = events
        self._bell = Bell()
        if not messages:
            self._bell.ring()

    def durable(self) -> None:
        """One of the messages has been acted on, and what it changed is on disk."""
        self._outstanding -= 1
        if self._outstanding == 0:
            if self._in_flight is not None:
                self._in_flight.give_back(self._events)
            self._bell.ring()

    def give_up(self) -> None:
        """Nobody knows when it will be durable."""
        if self._may_go:
            self.is_given_up = True
            self._bell.ring()

    def wait(self) -> Awaitable[object]:
        """To be awaited at once: returns when all of them are, or the wait is given up."""
        return self._bell.wait()


class Round:
    """What several actors decide for one transaction: who hands over which change, who waits."""

    def __init__(self) -> None:
        self.handed_over: list[tuple[Decider, Change]] = []
        self.replies: list[Reply] = []


class Decider(Protocol):
    """Who has got mail: an aggregator."""

    def begin(self) -> None:
        """The mail that is here now is what the round is about."""

    def decide(self, round_: Round) -> None:
        """Decide on that mail, and give the round what is to be written and who waits for it."""

    def committed(self, change: Change) -> None:
        """What was handed over is on disk."""

    def give_up(self) -> None:
        """Nobody knows when the mail that is here now will be decided on."""
