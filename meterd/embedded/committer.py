"""The only writer. Gathers what actors decided, writes it in one transaction, then answers.

An actor because a transaction takes as long as the disk does: while one is being synced in its
worker thread, the next gathers, so however slow the disk, each waits for at most two of its turns.
Sent to by aggregators (``enlist``) and by whoever has something else to write (``execute``);
bounded by the engine's limit on events in flight. Ends with CommitFailedError when a transaction
fails: memory is then ahead of the disk, and only a new start makes them equal.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
import trio

from meterd.domain.account import Change
from meterd.embedded import journal
from meterd.embedded.mailbox import Gate, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meterd.embedded.store import Store, Transaction

T = TypeVar("T")


class Decided(msgspec.Struct, frozen=True):
    """What an aggregator hands over: a change, if there is one, and who waits for it."""

    change: Change | None
    replies: list[Reply]


class Source(Protocol):
    """Who has decided something: an aggregator."""

    def take(self) -> Decided:
        """Everything decided since the last call."""

    def committed(self, decided: Decided) -> None:
        """That is on disk."""


class Hop(Protocol):
    """Runs a function off the loop, once at a time, never abandoned; tests run it inline."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class _Work:
    """Something else to write in the next transaction, and its result."""

    def __init__(self, work: Callable[[Transaction], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.done = trio.Event()


class Committer:
    """One transaction after another, each with all that was decided while the last was synced."""

    def __init__(self, store: Store, gate: Gate, hop: Hop) -> None:
        self._store = store
        self._gate = gate
        self._hop = hop
        self._sources: list[Source] = []
        self._works: list[_Work] = []
        self._something = trio.lowlevel.ParkingLot()
        self.deliveries_made = 0
        self._deliveries_waited_for = trio.lowlevel.ParkingLot()

    def enlist(self, source: Source) -> None:
        """The source has decided something; it will be asked for it once."""
        self._sources.append(source)
        self._something.unpark()

    async def execute(self, work: Callable[[Transaction], T]) -> T:
        """Runs the work in the next transaction, behind all changes decided before; durable on
        return.
        """
        waiting = _Work(work)
        self._works.append(waiting)
        self._something.unpark()
        await waiting.done.wait()
        result: T = waiting.result
        return result

    async def wait_deliveries_made(self, beyond: int) -> None:
        """Returns when ``deliveries_made``, which counts those that are on disk, is greater."""
        while self.deliveries_made <= beyond:
            await self._deliveries_waited_for.park()

    async def run(self) -> None:
        """Until cancelled. A transaction that has begun is finished and answered first."""
        while True:
            while not (self._sources or self._works):
                await self._something.park()
            await self._gate.hold()
            sources, self._sources = self._sources, []
            works, self._works = self._works, []
            decided = [source.take() for source in sources]
            self._gate.release()
            changes = [found.change for found in decided if found.change is not None]
            if changes or works:
                await self._hop(partial(self._store.write, self._transaction(changes, works)))
            if deliveries := sum(len(change.deliveries) for change in changes):
                self.deliveries_made += deliveries
                self._deliveries_waited_for.unpark_all()
            for source, found in zip(sources, decided, strict=True):
                source.committed(found)
            for waiting in works:
                waiting.done.set()

    def _transaction(
        self, changes: list[Change], works: list[_Work]
    ) -> Callable[[Transaction], None]:
        def write(txn: Transaction) -> None:
            journal.write_changes(txn, changes, self._store.parts)
            for waiting in works:
                waiting.result = waiting.work(txn)

        return write
