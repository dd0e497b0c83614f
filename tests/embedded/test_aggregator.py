"""One customer's actor: decides in order, posts when it is asked to, rests with nothing untold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.account import Account
from meterd.domain.event_ids import Stamp
from meterd.domain.hierarchy import NOTHING_CLOSED
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.receipts import receive
from meterd.embedded import journal, log
from meterd.embedded.aggregator import Aggregator, Append, Close, Post, TakeSnapshot
from meterd.embedded.committer import Committer
from meterd.embedded.keys import part_of
from meterd.embedded.mailbox import Reply, Round
from meterd.embedded.store import PARTS, Store
from tests.embedded.engine_bench import WriterHop
from tests.ledger_bench import START_MS, event, rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.periods import Period

HOUR = period_at(PeriodType.HOURLY, START_MS)
PART = part_of("acme", PARTS)


class Actor:
    """An aggregator for acme over a store of its own, its committer held back by ``hop``."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.hop = WriterHop()
        self.committer = Committer(self.store, self.hop)
        self.aggregator = Aggregator(PART, Account("acme"), self.store, self.committer)

    def append(self, number: int, at_ms: int = START_MS) -> Reply:
        """An event of that value and counter, as the engine sends it."""
        reply = Reply(1)
        receipt = receive(Stamp(at_ms, number, 0), [event(value=number)])
        self.committer.record(receipt, reply)
        self.aggregator.send(Append(receipt, [0], NOTHING_CLOSED))
        return reply

    def post(self) -> Reply:
        reply = Reply(1)
        self.aggregator.send(Post(reply))
        return reply

    def rests(self) -> bool:
        return self.aggregator.at_rest

    def total(self, period: Period = HOUR) -> tuple[int, str]:
        """Count and sum on disk."""
        with self.store.read() as txn:
            totals = journal.read_totals(txn, PART, period, "acme")
        return (
            (0, "0")
            if totals is None
            else (totals.by_type["sum"].count, str(totals.by_type["sum"].sum))
        )


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Actor]:
    """Nobody begins a round but the test."""
    made = Actor(tmp_path / "data")
    yield made
    made.store.close()


@pytest.fixture
async def actor(alone: Actor) -> AsyncIterator[Actor]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alone.committer.run)
        yield alone
        nursery.cancel_scope.cancel()


async def test_it_is_at_rest_only_when_all_is_posted_and_on_disk(actor: Actor) -> None:
    """Not with mail, not with events counted and not posted, not while a change is written."""
    assert actor.rests()
    reply = actor.append(1)
    assert not actor.rests(), "a message waits"
    await reply.wait()
    assert not actor.rests(), "the event is in the log and nowhere else"
    assert actor.total() == (0, "0")
    actor.hop.may_pass = trio.Event()
    posted = actor.post()
    await wait_all_tasks_blocked()
    assert not actor.rests(), "a change is in flight"
    second = actor.append(2)
    actor.hop.may_pass.set()
    await posted.wait()
    assert actor.total() == (1, "1")
    await second.wait()
    assert not actor.rests(), "an event came while the change was written"
    await actor.post().wait()
    assert actor.rests()
    assert actor.total() == (2, "3")


def test_it_is_not_at_rest_with_mail_of_whatever_kind(alone: Actor) -> None:
    """While it waits, and while it is to be decided on, though nothing of it may be to write."""
    alone.post()
    assert not alone.rests(), "a message waits"
    alone.aggregator.begin()
    assert not alone.rests(), "a message is to be decided on"
    alone.aggregator.decide(Round())
    assert alone.rests()


def test_a_round_is_about_the_mail_that_was_there_when_it_began(alone: Actor) -> None:
    """What comes behind that is decided on in the next one: its events are in the next write."""

    def decide() -> tuple[int, list[Reply]]:
        round_ = Round()
        alone.aggregator.decide(round_)
        ((_, change),) = round_.handed_over
        return change.totals[HOUR].by_type["sum"].count, round_.replies

    alone.append(1)
    first = alone.post()
    alone.aggregator.begin()
    alone.append(10)
    second = alone.post()
    assert decide() == (1, [first])
    alone.aggregator.begin()
    assert decide() == (2, [second])


async def test_events_are_answered_when_they_are_in_the_log(actor: Actor) -> None:
    """Their totals are written when they are asked for, all in one transaction."""
    for number in (1, 2, 3):
        await actor.append(number).wait()
    with actor.store.read() as txn:
        assert log.count_events(txn) == 3
    assert actor.total() == (0, "0")
    assert actor.hop.transactions == 3
    await actor.post().wait()
    assert actor.total() == (3, "6")
    assert actor.hop.transactions == 4
    await actor.post().wait()
    assert actor.hop.transactions == 4, "there was nothing more to write"


async def test_what_is_decided_during_a_commit_stands_on_what_is_in_flight(actor: Actor) -> None:
    """Totals are those of all events decided on, though the disk knows only the earlier ones."""
    actor.hop.may_pass = trio.Event()
    actor.append(1)
    replies = [actor.post()]
    for number in (2, 3, 4):
        await wait_all_tasks_blocked()
        actor.append(number)
        replies.append(actor.post())
    assert actor.total() == (0, "0")
    actor.hop.may_pass.set()
    for reply in replies:
        await reply.wait()
    assert actor.total() == (4, "10")
    assert actor.hop.transactions == 2


async def test_closes_during_commits_hand_up_to_what_is_in_flight(actor: Actor) -> None:
    """Three hours, each closed while the one before is being committed, are all in their day."""
    hours = [period_at(PeriodType.HOURLY, START_MS + place * HOUR_MS) for place in range(3)]
    for place, hour in enumerate(hours):
        await actor.append(place + 1, at_ms=hour.start_ms).wait()
    replies, commits = [Reply(1) for _ in hours], [trio.Event() for _ in hours]
    for place, hour in enumerate(hours):
        actor.hop.may_pass = commits[place]
        actor.aggregator.send(Close(hour, rules(), hours[-1].end_ms, [], replies[place]))
        await wait_all_tasks_blocked()
        if place:
            commits[place - 1].set()
            await wait_all_tasks_blocked()
    commits[-1].set()
    for reply in replies:
        await reply.wait()
    assert actor.total(period_at(PeriodType.DAILY, START_MS)) == (3, "6")


async def test_a_successor_goes_on_from_the_disk(actor: Actor) -> None:
    """A retired customer's next actor counts on."""
    actor.append(1)
    await actor.post().wait()
    actor.aggregator = Aggregator(PART, Account("acme"), actor.store, actor.committer)
    actor.append(5)
    await actor.post().wait()
    assert actor.total() == (2, "6")


async def test_a_snapshot_writes_what_was_counted_along_with_it(actor: Actor) -> None:
    """Whoever reads it finds the totals that it was made of."""
    actor.append(1)
    first: list[bool] = []
    reply = Reply(1)
    actor.aggregator.send(TakeSnapshot((HOUR,), (HOUR,), rules(), START_MS, first, reply))
    await reply.wait()
    assert first == [True]
    assert actor.total() == (1, "1")
    assert actor.hop.transactions == 1
    assert actor.rests()


async def test_a_close_is_decided_once(actor: Actor) -> None:
    """A second one behind it, or behind a restart, makes nothing."""
    await actor.append(1).wait()
    made: list[Aggregation] = []
    for _ in range(2):
        replies = [Reply(1), Reply(1)]
        for reply in replies:
            actor.aggregator.send(Close(HOUR, rules(), START_MS + HOUR_MS, made, reply))
        for reply in replies:
            await reply.wait()
    assert [one.id for one in made] == ["acme_hourly_2026011411"]
    with actor.store.read() as txn:
        assert journal.read_aggregation(txn, PART, HOUR, "acme") == made[0]
        assert txn.count("deliveries") == 1


async def test_what_is_on_disk_and_done_with_is_let_go(actor: Actor) -> None:
    """Once it is written, not before: an actor holds no more than its customer's open hours."""
    await actor.append(1).wait()
    actor.hop.may_pass = trio.Event()
    reply = Reply(1)
    actor.aggregator.send(Close(HOUR, rules(), HOUR.end_ms, [], reply))
    await wait_all_tasks_blocked()
    assert not actor.aggregator._account.lacks(HOUR)
    actor.hop.may_pass.set()
    await reply.wait()
    assert actor.aggregator._account.lacks(HOUR)
