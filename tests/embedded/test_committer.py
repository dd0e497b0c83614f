"""One transaction after another; nobody is told of one before it is committed."""

from __future__ import annotations

from itertools import groupby
from statistics import mean
from typing import TYPE_CHECKING

import lmdb
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.account import Account
from meterd.domain.errors import CommitFailedError
from meterd.domain.event_ids import Stamp
from meterd.domain.hierarchy import NOTHING_CLOSED, takers
from meterd.domain.receipts import receive
from meterd.embedded import committer as committers
from meterd.embedded.committer import TURN_SECONDS_MAX, Committer
from meterd.embedded.mailbox import Reply
from meterd.embedded.store import Store
from tests.domain.desk import Desk
from tests.embedded.engine_bench import WriterHop
from tests.embedded.test_journal import HOUR, change_of
from tests.ledger_bench import START_MS, event, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from meterd.domain.changes import Change
    from meterd.embedded.mailbox import Round
    from meterd.embedded.transaction import Transaction


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


class Actor:
    """A decider that hands over one change; ``meanwhile`` is called while it decides."""

    def __init__(self, change: Change | None, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.change = change
        self.reply = Reply(1)
        self.told = 0
        self.rounds = 0
        self._meanwhile = meanwhile

    def begin(self) -> None:
        self.rounds += 1

    def decide(self, round_: Round) -> None:
        self._meanwhile()
        if self.change is not None:
            round_.handed_over.append((self, self.change))
        round_.replies.append(self.reply)

    def committed(self, change: Change) -> None:
        assert change is self.change
        self.told += 1

    def give_up(self) -> None:
        self.reply.give_up()

    @property
    def is_answered(self) -> bool:
        return is_durable(self.reply)


def is_durable(reply: Reply) -> bool:
    return reply._outstanding == 0


def record(committer: Committer, counter: int) -> Reply:
    """Events for the log, to be written with the mail that is sent with them."""
    reply = Reply(1)
    committer.record(receive(Stamp(START_MS, counter, 0), [event()]), reply)
    return reply


def counts_in(store: Store) -> tuple[int, int]:
    """Records of the log, and customers with totals."""
    with store.read() as txn:
        return txn.count("events"), txn.count("totals")


async def test_what_came_meanwhile_is_the_next_transaction(store: Store) -> None:
    """Events, changes and works together: each actor asked once, all told behind the commit."""
    hop = WriterHop()
    hop.may_pass = trio.Event()
    committer = Committer(store, hop)
    first, others = Actor(change_of("a")), [Actor(change_of(f"c{n}")) for n in range(5)]
    results: list[tuple[int, int]] = []

    async def execute() -> None:
        found = await committer.execute(lambda txn: (txn.count("events"), txn.count("totals")))
        results.append(found)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        replies = [record(committer, 0)]
        committer.expect(first)
        await wait_all_tasks_blocked()
        for counter, other in enumerate(others, 1):
            replies.append(record(committer, counter))
            committer.expect(other)
        nursery.start_soon(execute)
        nursery.start_soon(execute)
        await wait_all_tasks_blocked()
        assert (first.rounds, first.told, counts_in(store)) == (1, 0, (0, 0))
        assert [other.rounds for other in others] == [0] * 5
        assert not any(map(is_durable, replies))
        assert not first.is_answered
        hop.may_pass.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [actor.told for actor in [first, *others]] == [1] * 6
    assert all(actor.is_answered for actor in [first, *others])
    assert all(map(is_durable, replies))
    assert results == [(2, 6)] * 2, "works come behind the log and the changes of their transaction"
    assert hop.transactions == 2


async def test_events_need_no_change(store: Store) -> None:
    """They are in the log though their customers' totals are not to be written yet."""
    committer = Committer(store, WriterHop())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        reply = record(committer, 0)
        committer.expect(Actor(None))
        with trio.fail_after(5):
            await reply.wait()
        nursery.cancel_scope.cancel()
    assert counts_in(store) == (1, 0)


async def test_a_round_that_changes_nothing_needs_no_transaction(store: Store) -> None:
    """It is answered all the same."""
    hop = WriterHop()
    committer = Committer(store, hop)
    actor = Actor(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        committer.expect(actor)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (actor.is_answered, actor.told, hop.transactions) == (True, 0, 0)


async def test_a_failed_transaction_ends_the_committer(store: Store) -> None:
    """With CommitFailedError: nobody is told, nothing of it is stored, nothing is written after."""

    def fail(txn: Transaction) -> None:
        raise lmdb.DiskError("input/output error")

    committer = Committer(store, WriterHop())
    actor = Actor(change_of("a"))
    reply = record(committer, 0)
    committer.expect(actor)
    with pytest.RaisesGroup(CommitFailedError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.execute, fail)
            await wait_all_tasks_blocked()
            nursery.start_soon(committer.run)
    assert (actor.told, actor.is_answered, is_durable(reply)) == (0, False, False)
    assert counts_in(store) == (0, 0)


async def test_a_transaction_that_has_begun_is_finished_and_answered(store: Store) -> None:
    """Although the committer is cancelled meanwhile: the disk has it, so its callers are told."""
    may_end = trio.Event()

    class ShieldedHop(WriterHop):
        """As a worker thread that is never abandoned."""

        async def __call__(self, work):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
            with trio.CancelScope(shield=True):
                await may_end.wait()
                return await super().__call__(work)

    committer = Committer(store, ShieldedHop())
    actor = Actor(change_of("a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        reply = record(committer, 0)
        committer.expect(actor)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        may_end.set()
    assert (actor.told, actor.is_answered, is_durable(reply)) == (1, True, True)
    assert counts_in(store) == (1, 1)


async def test_everyone_begins_before_anyone_decides(store: Store) -> None:
    """What is sent to any of them while others decide is not of this round."""
    begun: list[list[int]] = []
    actors: list[Actor] = []

    def look() -> None:
        begun.append([actor.rounds for actor in actors])

    actors += [Actor(None, look) for _ in range(3)]
    committer = Committer(store, WriterHop())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        for actor in actors:
            committer.expect(actor)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert begun == [[1, 1, 1]] * 3


async def test_what_comes_while_a_round_is_decided_waits_for_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events, their mail and works: else an append would be in the log without being decided on."""
    monkeypatch.setattr(committers, "DECIDERS_AT_ONCE", 1)
    hop = WriterHop()
    committer = Committer(store, hop)
    replies: list[Reply] = []
    seen: list[tuple[int, ...]] = []

    def look() -> None:
        with store.read() as txn:
            is_worked = txn.get("meta", b"work") is not None
            seen.append((txn.count("events"), is_worked, *map(is_durable, replies)))

    def send() -> None:
        replies.append(record(committer, 1))
        committer.expect(Actor(None))
        nursery.start_soon(committer.execute, lambda txn: txn.put("meta", b"work", b""))

    hop.committed = look
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        replies.append(record(committer, 0))
        committer.expect(Actor(None, send))
        committer.expect(Actor(None))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == [(1, False, False, False), (2, True, True, False)]
    assert all(map(is_durable, replies))


@pytest.mark.parametrize(("at_once", "longest"), [(5, 10), (40, 40)])
async def test_others_have_their_turn_while_many_decide(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    mock_clock: MockClock,  # which stands still
    at_once: int,
    longest: int,
) -> None:
    """A batch of a thousand customers does not hold up everybody else until all have decided."""
    monkeypatch.setattr(committers, "DECIDERS_AT_ONCE", at_once)
    committer = Committer(store, WriterHop())
    happened: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        for _ in range(40):
            committer.expect(Actor(None, lambda: happened.append("decided")))
        while happened.count("decided") < 40:
            happened.append("another task")
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    in_one_go = [len(list(turns)) for what, turns in groupby(happened) if what == "decided"]
    assert max(in_one_go) <= longest
    assert (len(in_one_go) == 1) == (longest == 40)


@pytest.mark.parametrize(
    ("theirs_s", "least", "most"),
    [(0.0, 1, 2), (0.3, 3, 7), (TURN_SECONDS_MAX, 9, 11), (5.0, 9, 11)],
)
async def test_it_goes_on_for_as_long_as_others_took(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    mock_clock: MockClock,
    theirs_s: float,
    least: int,
    most: int,
) -> None:
    """Half of the time is its own, though hundreds of connections have something to say."""
    monkeypatch.setattr(committers, "DECIDERS_AT_ONCE", 1)
    committer = Committer(store, WriterHop())
    happened: list[str] = []

    def decide() -> None:
        happened.append("decided")
        mock_clock.jump(0.1 + 1e-9)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        for _ in range(40):
            committer.expect(Actor(None, decide))
        while happened.count("decided") < 40:
            happened.append("another task")
            mock_clock.jump(theirs_s)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    turns = [len(list(turns)) for what, turns in groupby(happened) if what == "decided"]
    # Of two tasks that are ready trio chooses which is first, so now and then one has two turns.
    assert mean(turns[1:-1]) >= least
    assert max(turns) <= most


async def test_deliveries_are_told_of_when_they_are_on_disk(store: Store) -> None:
    """To whoever waits for more than there were."""
    account = Account("acme")
    for period in (HOUR, *takers(HOUR)):
        account.restore(period, None)
    account.append(receive(Stamp(START_MS, 0, 0), [event()]), [0], NOTHING_CLOSED)
    account.close(HOUR, rules(endpoints=("billing", "crm")), HOUR.end_ms, Desk())
    hop = WriterHop()
    hop.may_pass = trio.Event()
    committer = Committer(store, hop)
    told: list[int] = []

    async def wait(beyond: int) -> None:
        await committer.wait_deliveries_made(beyond)
        told.append(beyond)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        for beyond in (1, 2):
            nursery.start_soon(wait, beyond)
        committer.expect(Actor(account.take_change()))
        await wait_all_tasks_blocked()
        assert (told, committer.deliveries_made) == ([], 0)
        hop.may_pass.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (told, committer.deliveries_made) == ([1], 2)


async def test_a_change_is_written_into_its_part(store: Store) -> None:
    """Where the store's number of parts puts its customer."""
    committer = Committer(store, WriterHop())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        actor = Actor(change_of("acme"))
        committer.expect(actor)
        await actor.reply.wait()
        nursery.cancel_scope.cancel()
    with store.read() as txn:
        assert txn.first_key("customers", b"") == b"\x0eacme"
