"""An embedded engine under test: started, restarted, cut off, with its work run inline.

Inline unless told, because a worker thread's turn comes when the machine likes: so tests decide
what happens between two transactions, and a mock clock may be used.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from meterd.embedded import recovery
from meterd.embedded.engine import EVENTS_IN_FLIGHT_MAX, EmbeddedLedger
from meterd.embedded.store import Store
from tests.ledger_bench import START_MS, SettableClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from meterd.embedded.committer import Hop

T = TypeVar("T")


def post_rest(store: Store) -> int:
    """What a start does first; how many blocks of events it read."""
    read = 0
    while blocks := store.write(partial(recovery.post_some, parts=store.parts)).blocks:
        read += blocks
    return read


class PowerCutError(Exception):
    """The machine went off."""


async def inline(work: Callable[[], T]) -> T:
    """A hop that goes nowhere."""
    await trio.lowlevel.checkpoint()
    return work()


class WriterHop:
    """Where the committer's transactions pass: counted, held back, or cut off.

    ``cut_after`` is how many more transactions are committed before the power goes off, in front of
    the next commit, or behind it if ``commits_unheard``; ``None`` keeps it on. ``may_pass`` holds
    transactions back until it is set; ``committed`` is called behind each.
    """

    def __init__(self, hop: Hop = inline) -> None:
        self.hop = hop
        self.transactions = 0
        self.cut_after: int | None = None
        self.commits_unheard = False
        self.may_pass = trio.Event()
        self.may_pass.set()
        self.committed: Callable[[], None] = lambda: None

    async def __call__(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        await self.may_pass.wait()
        if self.cut_after == 0:
            if self.commits_unheard:
                await self.hop(work)
            raise PowerCutError
        if self.cut_after is not None:
            self.cut_after -= 1
        self.transactions += 1
        result = await self.hop(work)
        self.committed()
        return result


class EngineBench:
    """See ``ledger_bench.Bench``. The engine lives in a task of its own, as in the daemon."""

    def __init__(
        self,
        folder: Path,
        nursery: trio.Nursery,
        clock: SettableClock | None = None,
        *,
        hop: Hop = inline,
        read_hop: Hop = inline,
    ) -> None:
        self.folder = folder
        self.clock = clock or SettableClock(START_MS)
        self.too_many = EVENTS_IN_FLIGHT_MAX + 1
        self.hop = WriterHop(hop)
        self.store: Store
        self.ledger: EmbeddedLedger
        self.stopped = trio.Event()
        self._read_hop = read_hop
        self._starts = 0
        self._nursery = nursery
        self._running = trio.CancelScope()

    async def start(self) -> None:
        await self._nursery.start(self._run)

    async def stop(self) -> None:
        """As after a signal: nobody waits for an answer any more."""
        self._running.cancel()
        await self.stopped.wait()

    async def restart(self) -> None:
        """See ``Bench``. After a power cut, on what was on disk at that moment."""
        await self.stop()
        self.hop = WriterHop(self.hop.hop)
        await self.start()

    async def cut_off(self, transactions: int, work: Callable[[], Awaitable[object]]) -> None:
        """Runs the work until the power goes off behind that many transactions; nobody hears."""

        async def run() -> None:
            await work()
            raise AssertionError("the work was done before the power went off")

        self.hop.cut_after = transactions
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await self.stopped.wait()
            nursery.cancel_scope.cancel()

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._starts += 1
        self.stopped, self._running = trio.Event(), trio.CancelScope()
        self.store = Store(self.folder)
        try:
            self.ledger = EmbeddedLedger(
                self.store,
                now_ms=self.clock,
                nonce=self._starts,
                hop=self.hop,
                read_hop=self._read_hop,
            )
            with self._running:
                async with self.ledger.running():
                    self.hop.transactions = 0  # counted from here on
                    task_status.started()
                    await trio.sleep_forever()
        except* PowerCutError:
            pass
        finally:
            self.store.close()
            self.stopped.set()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[EngineBench]:
    """An engine over a store in that folder, which exists."""
    async with trio.open_nursery() as nursery:
        bench = EngineBench(folder / "data", nursery)
        await bench.start()
        yield bench
        await bench.stop()
