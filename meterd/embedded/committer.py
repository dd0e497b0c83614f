"""The only writer. Gathers what has come, gives the actors their turn to decide on it, writes it in
one transaction, then answers.

An actor because a transaction takes as long as the disk does: while one is being synced in its
worker thread, the next gathers, so however slow the disk, each waits for at most two of its turns.
Sent to by whoever has mail for aggregators (``expect``) or something else to write (``execute``);
bounded by the engine's limit on events in flight. Ends with CommitFailedError when a transaction
fails: memory is then ahead of the disk, and only a new start makes them equal. A full disk is
waited for: the same transaction is tried again, and nothing more is taken in (``is_full``).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import structlog
import trio

from meterd.domain.counts import CommitCounts
from meterd.domain.errors import DiskFullError, UnavailableError
from meterd.embedded import journal, log
from meterd.embedded.mailbox import Bell, Reply, Round
from meterd.embedded.posted import Posted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meterd.domain.changes import Change
    from meterd.domain.receipts import Receipt
    from meterd.embedded.mailbox import Decider
    from meterd.embedded.store import Store
    from meterd.embedded.transaction import Transaction

T = TypeVar("T")

# Actors who decide in one go, 10 to 40 us each, before the rest of the daemon has its turn.
DECIDERS_AT_ONCE: Final = 64
# Then it goes on for as long as the rest took, up to this: with hundreds of connections that all
# have something to say, a turn of theirs takes 0.1 s, on a busy machine half a second, and
# deciding would take sixteen of them.
TURN_SECONDS_MAX: Final = 1.0
# How often a full disk is tried.
FULL_SECONDS: Final = 1.0

_log = structlog.get_logger("committer")


class Hop(Protocol):
    """Runs a function off the loop, never abandoned; tests run it inline."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class _Work:
    """Something else to write in the next transaction, and its result."""

    def __init__(
        self, work: Callable[[Transaction], Any], made: Callable[[Any], int], *, may_go: bool
    ) -> None:
        self.work = work
        self.made = made
        self.result: Any = None
        self.done = Reply(1, may_go=may_go)


class Committer:
    """One transaction after another, each with all that came while the last was synced."""

    def __init__(self, store: Store, hop: Hop) -> None:
        self._store = store
        self._hop = hop
        self._deciders: list[Decider] = []
        self._receipts: list[Receipt] = []
        self._replies: list[Reply] = []
        self._works: list[_Work] = []
        self._something = Bell()
        self.is_full = False
        self._found_full = trio.lowlevel.ParkingLot()
        self._trying_out = trio.StrictFIFOLock()
        self.posted = Posted()
        self.counts = CommitCounts()
        self.recorded = 0  # events, since the start
        self._recorded_before = 0
        self.deliveries_made = 0
        self._deliveries_waited_for = trio.lowlevel.ParkingLot()

    def expect(self, decider: Decider) -> None:
        """The decider has got its first mail since it was last asked to decide."""
        self._deciders.append(decider)
        self._something.ring()

    def record(self, receipt: Receipt, reply: Reply) -> None:
        """Writes these events to the log, in the transaction of the mail that is sent with them."""
        self._receipts.append(receipt)
        self.recorded += len(receipt.events)
        self._replies.append(reply)

    def follow(self, reply: Reply) -> None:
        """Answers when all that came before is on disk."""
        self._replies.append(reply)
        self._something.ring()

    async def execute(
        self,
        work: Callable[[Transaction], T],
        *,
        made: Callable[[T], int] = lambda _: 0,
        may_go: bool = False,
    ) -> T:
        """Runs the work in the next transaction, behind all that came before; durable on return.
        It is done also where nobody waits for it any more.

        ``made`` says of its result how many deliveries are to be sent. Who may go does not wait for
        room on a full disk: raises UnavailableError, and the work is done when there is room.
        """
        waiting = _Work(work, made, may_go=may_go)
        self._works.append(waiting)
        self._something.ring()
        await waiting.done.wait()
        if waiting.done.is_given_up:
            raise UnavailableError("the disk is full: it is done when there is room")
        result: T = waiting.result
        return result

    async def try_out(self, work: Callable[[Transaction], T]) -> T:
        """Runs the work in a transaction that is thrown away, between two others.

        One at a time, so that what has to be written waits for one of them at most.
        """
        async with self._trying_out:
            return await self._hop(partial(self._store.try_out, work))

    async def wait_full(self) -> None:
        """Returns when a transaction waits for room."""
        while not self.is_full:
            await self._found_full.park()

    def _made_deliveries(self, count: int) -> None:
        """So many more that are on disk are to be sent."""
        if count:
            self.deliveries_made += count
            self._deliveries_waited_for.unpark_all()

    async def wait_deliveries_made(self, beyond: int) -> None:
        """Returns when ``deliveries_made``, which counts those that are on disk, is greater."""
        while self.deliveries_made <= beyond:
            await self._deliveries_waited_for.park()

    async def run(self) -> None:
        """Until cancelled. A transaction that has begun is finished and answered first."""
        while True:
            while not (self._deciders or self._works or self._replies):
                await self._something.wait()
            await self._commit()

    # Apart from ``run``, whose variables would keep what was written until the next transaction.
    async def _commit(self) -> None:
        deciders, self._deciders = self._deciders, []
        receipts, self._receipts = self._receipts, []
        replies, self._replies = self._replies, []
        works, self._works = self._works, []
        events = self.recorded - self._recorded_before
        self._recorded_before = self.recorded
        decided = await self._decide(deciders)
        changes = [change for _, change in decided.handed_over]
        if receipts or changes or works:
            began_at = trio.current_time()
            write = partial(self._write, receipts, changes, works)
            waiting = [*replies, *decided.replies, *(one.done for one in works)]
            await self._write_when_there_is_room(write, waiting)
            self.counts.seconds.observe(trio.current_time() - began_at)
            self.counts.events.observe(events)
        made = sum(len(change.deliveries) for change in changes)
        self._made_deliveries(made + sum(one.made(one.result) for one in works))
        self.posted.note(changes)
        for decider, change in decided.handed_over:
            decider.committed(change)
        for reply in (*replies, *decided.replies):
            reply.durable()
        for one in works:
            one.done.durable()

    async def _write_when_there_is_room(
        self, write: Callable[[Transaction], None], replies: list[Reply]
    ) -> None:
        while True:
            try:
                await self._hop(partial(self._store.write, write))
            except DiskFullError as fault:
                if not self.is_full:
                    _log.error("the disk is full: events are refused", error=str(fault))
                self.is_full = True
                self._found_full.unpark_all()
                # Those who came meanwhile would wait for the next transaction as long.
                for reply in (*replies, *self._replies, *(one.done for one in self._works)):
                    reply.give_up()
                for decider in self._deciders:
                    decider.give_up()
                await trio.sleep(FULL_SECONDS)
            else:
                if self.is_full:
                    _log.warning("the disk has room again: events are taken")
                self.is_full = False
                return

    async def _decide(self, deciders: list[Decider]) -> Round:
        for decider in deciders:
            decider.begin()
        decided = Round()
        goes_on_until = trio.current_time()
        for number, decider in enumerate(deciders, 1):
            decider.decide(decided)
            if number % DECIDERS_AT_ONCE == 0 and trio.current_time() >= goes_on_until:
                began_at = trio.current_time()
                await trio.lowlevel.cancel_shielded_checkpoint()
                theirs_s = trio.current_time() - began_at
                goes_on_until = began_at + theirs_s + min(theirs_s, TURN_SECONDS_MAX)
        return decided

    def _write(
        self, receipts: list[Receipt], changes: list[Change], works: list[_Work], txn: Transaction
    ) -> None:
        log.write_receipts(txn, receipts)
        journal.write_changes(txn, changes, self._store.parts)
        for waiting in works:
            waiting.result = waiting.work(txn)
