"""One transaction after another; nobody is told of one before it is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lmdb
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.errors import CommitFailedError
from meterd.embedded.committer import Committer, Decided
from meterd.embedded.mailbox import Gate
from meterd.embedded.store import PARTS, Store
from tests.embedded.engine_bench import WriterHop
from tests.embedded.test_journal import change_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.domain.account import Change
    from meterd.embedded.store import Transaction


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


class Decider:
    """A source with one decision after another."""

    def __init__(self, *changes: Change | None) -> None:
        self.changes = list(changes)
        self.taken = 0
        self.told = 0

    def take(self) -> Decided:
        self.taken += 1
        return Decided(self.changes.pop(0), [])

    def committed(self, decided: Decided) -> None:
        self.told += 1


def events_in(store: Store) -> int:
    with store.read() as txn:
        return txn.count("events")


async def test_what_came_meanwhile_is_the_next_transaction(store: Store) -> None:
    """Changes and works of many together, each source asked once, and told behind the commit."""
    hop = WriterHop()
    hop.may_pass = trio.Event()
    committer = Committer(store, Gate(), hop)
    first, others = Decider(change_of("a")), [Decider(change_of(f"c{n}")) for n in range(5)]
    results: list[int] = []

    async def execute() -> None:
        results.append(await committer.execute(lambda txn: txn.count("events")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        committer.enlist(first)
        await wait_all_tasks_blocked()
        for other in others:
            committer.enlist(other)
        nursery.start_soon(execute)
        nursery.start_soon(execute)
        await wait_all_tasks_blocked()
        assert (first.taken, first.told, events_in(store)) == (1, 0, 0)
        assert [other.taken for other in others] == [0] * 5
        hop.may_pass.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [other.told for other in [first, *others]] == [1] * 6
    assert results == [6, 6], "works come behind the changes of their transaction"
    assert hop.transactions == 2


async def test_a_decision_that_changes_nothing_needs_no_transaction(store: Store) -> None:
    """It is answered all the same."""
    hop = WriterHop()
    committer = Committer(store, Gate(), hop)
    source = Decider(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        committer.enlist(source)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (source.told, hop.transactions) == (1, 0)


async def test_a_failed_transaction_ends_the_committer(store: Store) -> None:
    """With CommitFailedError: nobody is told, nothing of it is stored, nothing is written after."""

    def fail(txn: Transaction) -> None:
        raise lmdb.DiskError("input/output error")

    committer = Committer(store, Gate(), WriterHop())
    source = Decider(change_of("a"))
    committer.enlist(source)
    with pytest.RaisesGroup(CommitFailedError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.execute, fail)
            await wait_all_tasks_blocked()
            nursery.start_soon(committer.run)
    assert source.told == 0
    assert events_in(store) == 0


async def test_a_transaction_that_has_begun_is_finished_and_answered(store: Store) -> None:
    """Although the committer is cancelled meanwhile: the disk has it, so its callers are told."""
    may_end = trio.Event()

    class ShieldedHop(WriterHop):
        """As a worker thread that is never abandoned."""

        async def __call__(self, work):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
            with trio.CancelScope(shield=True):
                await may_end.wait()
                return await super().__call__(work)

    committer = Committer(store, Gate(), ShieldedHop())
    source = Decider(change_of("a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        committer.enlist(source)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        may_end.set()
    assert source.told == 1
    assert events_in(store) == 1


async def test_undecided_messages_hold_the_next_transaction_up(store: Store) -> None:
    """What was let in is taken together: the commit waits for those who have not decided yet."""
    gate, hop = Gate(), WriterHop()
    committer = Committer(store, gate, hop)
    early, late = Decider(change_of("a")), Decider(change_of("b"))
    gate.sent()
    gate.sent()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        committer.enlist(early)
        gate.decided()
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert early.taken == hop.transactions == 0
        committer.enlist(late)
        gate.decided()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (early.told, late.told, hop.transactions) == (1, 1, 1)


def test_parts_are_the_stores(store: Store) -> None:
    """A change is written where the store's number of parts puts its customer."""
    assert store.parts == PARTS
