"""Checks spans of the log in several processes, all of the same moment of the store.

A reader's view is its process's own, so each begins one, and where these are not all of the same
transaction, since a daemon committed in between, all begin again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Final, NamedTuple

from meterd.domain.errors import MeterdError, StoreError
from meterd.embedded.differences import MISTAKES, Checking, Difference
from meterd.embedded.marks import read_marks
from meterd.embedded.pages import DamagedError
from meterd.embedded.snapshot import LmdbError, open_snapshot
from meterd.embedded.span_check import Span, SpanCheck, SpanFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from meterd.embedded.snapshot import Snapshot

_SPANS_FOR_EACH: Final = 8
# How long it is tried to begin between two commits of a daemon.
_SETTLE_SECONDS: Final = 30.0
# A daemon beside it goes first.
_NICE: Final = 10
_GONE: Final = (EOFError, BrokenPipeError, ConnectionResetError)


class _Progress(NamedTuple):
    """How many events of a span have been checked; how many there are in all."""

    events: int
    expected: int


class SpanWorkers:
    """So many processes that wait for spans; ``started`` makes them."""

    def __init__(self, folder: Path, processes: int) -> None:
        self._folder = folder
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for _ in range(processes):
            self._start()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The store as all of them see it. Raises as ``open_snapshot`` does."""
        until = time.monotonic() + _SETTLE_SECONDS
        while True:
            with ExitStack() as stack:
                snapshot = stack.enter_context(open_snapshot(self._folder))
                for connection in self._connections:
                    self._tell(connection, None)
                seen = {self._hear(connection) for connection in self._connections}
                is_same = seen <= {snapshot.transaction_id}
                for connection in self._connections:
                    self._tell(connection, is_same)
                if is_same:
                    yield snapshot
                    for connection in self._connections:
                        self._tell(connection, None)
                    return
            if time.monotonic() > until:
                raise StoreError("the store changes faster than several processes can begin")

    def run(self, spans: Sequence[Span], checking: Checking) -> Iterator[Difference | SpanFound]:
        """See ``log_check.RunSpans``; within ``snapshot``. Which span is said of first is open.

        Raises StoreError where a process ends, and what a span's check raises.
        """
        waiting = iter(spans)
        busy: dict[Connection, int] = {}
        idle = list(self._connections)
        while True:
            for connection, span in zip(list(idle), waiting, strict=False):
                idle.remove(connection)
                busy[connection] = 0
                self._tell(connection, span)
            if not busy:
                return
            for connection in [one for one in wait(list(busy)) if isinstance(one, Connection)]:
                said = self._hear(connection)
                if isinstance(said, _Progress):
                    busy[connection] = said.events
                    done = checking.counts["events"] + sum(busy.values())
                    checking.progress("events", done, said.expected)
                elif isinstance(said, Difference):
                    yield said
                elif isinstance(said, tuple):
                    found, counts = said
                    checking.counts.update(counts)
                    del busy[connection]
                    idle.append(connection)
                    yield found

    @property
    def spans_wanted(self) -> int:
        """Many for each, so that one with much in it is not waited for by all others."""
        return _SPANS_FOR_EACH * len(self._processes)

    def end(self) -> None:
        """Wherever they are."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
            process.join()

    def _start(self) -> None:
        spawning = multiprocessing.get_context("spawn")
        ours, theirs = spawning.Pipe()
        process = spawning.Process(target=work, args=(theirs, self._folder), daemon=True)
        # Who presses Ctrl-C wants one command to end, which ends them.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        self._connections.append(ours)
        self._processes.append(process)

    def _tell(self, connection: Connection, what: object) -> None:
        try:
            connection.send(what)
        except _GONE as fault:
            raise self._gone(connection) from fault

    def _hear(self, connection: Connection) -> object:
        try:
            said = connection.recv()
        except _GONE as fault:
            raise self._gone(connection) from fault
        if isinstance(said, Exception):
            raise said
        return said

    def _gone(self, connection: Connection) -> StoreError:
        process = self._processes[self._connections.index(connection)]
        process.join()
        return StoreError(
            f"a process of the check ended, with exit code {process.exitcode}: was there memory"
            " for it? --processes 1 makes none"
        )


@contextmanager
def started(folder: Path, processes: int) -> Iterator[SpanWorkers]:
    """Processes for it, which end with it."""
    workers = SpanWorkers(folder, processes)
    try:
        yield workers
    finally:
        workers.end()


def work(connection: Connection, folder: Path) -> None:
    """What a process does, until nobody hears it any more."""
    os.nice(_NICE)
    with suppress(*_GONE):
        while True:
            connection.recv()
            try:
                with open_snapshot(folder) as snapshot:
                    connection.send(snapshot.transaction_id)
                    if connection.recv():
                        _check_spans(connection, snapshot)
            except (*MISTAKES, LmdbError, MeterdError, DamagedError) as fault:
                connection.send(fault)


def _check_spans(connection: Connection, snapshot: Snapshot) -> None:
    span = connection.recv()  # and only then it is known that LMDB finds its way
    if span is None:
        return
    txn, parts = snapshot.transaction(), snapshot.meta().parts
    marks = read_marks(txn)
    while span is not None:
        checking = Checking(lambda _, done, expected: connection.send(_Progress(done, expected)))
        check = SpanCheck(txn, parts, marks, span, checking)
        for difference in check.run():
            connection.send(difference)
        connection.send((check.found, checking.counts))
        span = connection.recv()
