"""A trio loop beside a synchronous test, which Hypothesis' state machines are."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class TrioThread:
    """Runs one call after another; its clock moves only when told."""

    def __init__(self) -> None:
        self.clock = trio.testing.MockClock()
        self.nursery: trio.Nursery
        self._token: trio.lowlevel.TrioToken
        self._stop: trio.Event
        self._faults: list[BaseException] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait()

    def call(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """The result of ``await work(*arguments)``; a fault of the loop ends the test."""
        try:
            return trio.from_thread.run(work, *arguments, trio_token=self._token)
        except (trio.Cancelled, trio.RunFinishedError):
            self._thread.join()
            raise self._faults[0] from None

    def close(self) -> None:
        if self._thread.is_alive():
            trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
            self._thread.join()

    def _run(self) -> None:
        try:
            trio.run(self._main, clock=self.clock)
        except BaseException as fault:  # noqa: BLE001 - handed to the test's thread
            self._faults.append(fault)

    async def _main(self) -> None:
        self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
        async with trio.open_nursery() as self.nursery:
            self._ready.set()
            await self._stop.wait()
            self.nursery.cancel_scope.cancel()
