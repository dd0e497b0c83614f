"""The thread that transactions run in, and how the loop keeps out of its way.

A transaction has two halves. Filling it is Python and hundreds of calls into LMDB, each of which
lets go of the interpreter's lock; with a busy loop beside it, every one of them waits for the lock
again, up to the switch interval. Committing is waiting for the disk, with the lock free. So the
loop stands still while a transaction is filled, which costs no time that it could have used, and
goes on while it is committed. Measured in docs/performance.md: three times the events a second.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# The most that the loop stands still for one transaction; a larger one is filled beside it.
STANDSTILL_MAX_S: Final = 0.05


class _Job:
    def __init__(self, work: Callable[[], Any], token: trio.lowlevel.TrioToken) -> None:
        self.work = work
        self.token = token
        self.result: outcome.Maybe[Any] | None = None
        self.done = trio.Event()


class WriterThread:
    """A Hop, within ``with``. ``filled`` is set by the store when only the disk is waited for."""

    def __init__(self, filled: threading.Event) -> None:
        self._filled = filled
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="meterd-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.put(None)
        self._thread.join()

    async def __call__(self, work: Callable[[], T]) -> T:
        """Runs the work and returns what it returns, also when cancelled meanwhile."""
        job = _Job(work, trio.lowlevel.current_trio_token())
        self._filled.clear()
        self._jobs.put(job)
        self._filled.wait(STANDSTILL_MAX_S)
        with trio.CancelScope(shield=True):
            await job.done.wait()
        assert job.result is not None
        result: T = job.result.unwrap()
        return result

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.result = outcome.capture(job.work)
            # Work that failed before it was filled, or wrote nothing.
            self._filled.set()
            job.token.run_sync_soon(job.done.set)
