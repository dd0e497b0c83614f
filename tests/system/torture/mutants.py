"""meterd with one promise taken out. A harness that does not notice proves nothing.

Each mutant is applied for good, by patching, in a process of its own: a forked child, or a daemon
started with `python -m tests.system.torture.mutants NAME serve ...`.
"""

from __future__ import annotations

import importlib
import sys
from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

MUTANTS: Final[dict[str, Callable[[], None]]] = {}


def mutant(change: Callable[[], None]) -> Callable[[], None]:
    """Names a mutant after its function, whose docstring says what was taken out."""
    MUTANTS[change.__name__] = change
    return change


def apply(name: str | None) -> None:
    """Makes this process that mutant; None leaves meterd as it is."""
    if name is not None:
        MUTANTS[name]()


def _meterd(name: str) -> Any:
    """A module, whatever of it is to be replaced."""
    return importlib.import_module(f"meterd.{name}")


# The engine


@mutant
def acknowledge_before_commit() -> None:
    """Callers are answered when their events are on their way to the disk."""
    committer = _meterd("embedded.committer").Committer
    record = committer.record

    def record_and_answer(self: Any, receipt: Any, reply: Any) -> None:
        record(self, receipt, reply)
        reply.durable()

    committer.record = record_and_answer


@mutant
def delivered_before_sent() -> None:
    """An attempt begins with its delivery settled as delivered, which saves a transaction."""
    deliveries, outbox = _meterd("domain.deliveries"), _meterd("embedded.outbox")
    begin, enqueue = outbox.begin_attempt, outbox._enqueue

    def begin_and_settle(delivery: Any, now_ms: int) -> Any:
        begun = begin(delivery, now_ms)
        return deliveries.settle_attempt(begun, deliveries.Outcome(), now_ms, Fraction(0))

    def enqueue_pending(txn: Any, delivery: Any) -> None:
        if delivery.status is deliveries.DeliveryStatus.PENDING:
            enqueue(txn, delivery)

    outbox.begin_attempt, outbox._enqueue = begin_and_settle, enqueue_pending


@mutant
def no_key_check() -> None:
    """An idempotency key is written down, and never looked for."""
    engine, journal = _meterd("embedded.engine"), _meterd("embedded.journal")
    judge = engine.judge

    def judge_all_new(events: Any, key_of: Any, known: Any, *, partial: bool) -> Any:
        return judge(events, key_of, lambda _: None, partial=partial)

    engine.judge = judge_all_new
    journal.write_used_key = lambda txn, key, record: txn.put("idempotency_keys", key, record)


@mutant
def recovery_counts_again() -> None:
    """A start counts what is behind the mark, whatever the hours say that they count already."""
    recovery = _meterd("embedded.recovery")
    read_totals = recovery.journal.read_totals

    def forget_through(*place: Any) -> Any:
        found = read_totals(*place)
        return found and msgspec.structs.replace(found, through=b"")

    recovery.journal = SimpleNamespace(**{**vars(recovery.journal), "read_totals": forget_through})


@mutant
def total_without_event() -> None:
    """Totals are written in a transaction of their own, in front of the one with their events."""
    committer = _meterd("embedded.committer").Committer
    write, wait = committer._write, committer._write_when_there_is_room

    async def in_two(self: Any, work: Any, replies: Any) -> None:
        receipts, changes, works = work.args
        await wait(self, partial(write, self, [], changes, works), [])
        await wait(self, partial(write, self, receipts, [], []), replies)

    committer._write_when_there_is_room = in_two


@mutant
def no_waiting_for_room() -> None:
    """A transaction that found the disk full is given up, and the next one is taken."""
    full = _meterd("domain.errors").DiskFullError

    async def write_once(self: Any, write: Any, replies: Any) -> None:
        try:
            await self._hop(partial(self._store.write, write))
        except full:
            for reply in replies:
                reply.give_up()

    _meterd("embedded.committer").Committer._write_when_there_is_room = write_once


# The store


@mutant
def sync_off() -> None:
    """LMDB does not wait for the disk."""
    _open_lmdb_with(sync=False)


@mutant
def metasync_off() -> None:
    """LMDB syncs pages, but not what makes them valid."""
    _open_lmdb_with(metasync=False)


def _open_lmdb_with(**weaker: bool) -> None:
    store = _meterd("embedded.store")
    store.lmdb.open = partial(store.lmdb.open, **weaker)
    store._SAFE_FLAGS = {}  # or the store would refuse it


@mutant
def plain_creation() -> None:
    """The environment is made where it will be used."""
    store = _meterd("embedded.store")

    def in_its_place(place: Any, map_size: int) -> None:
        if not place.exists():
            place.mkdir(mode=0o700)
            store._fill(place, map_size)

    store._create = in_its_place


@mutant
def folder_not_synced() -> None:
    """A new data folder's entry is left to the file system."""
    data_folder = _meterd("embedded.data_folder")
    data_folder.sync_entries = lambda place: data_folder.sync(place.parent)


@mutant
def broken_is_full() -> None:
    """An I/O error on a disk with little room left is taken for a write that was cut short."""
    store = _meterd("embedded.store").Store
    judge = store._is_for_want_of_room
    store._is_for_want_of_room = lambda self, fault, called: judge(self, fault, 0)


def _main() -> None:
    from meterd.cli import main

    apply(sys.argv.pop(1))
    main()


if __name__ == "__main__":
    _main()
