"""One customer's actor: decides in order, hands over once, retires with nothing left to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.account import PlacedEvent
from meterd.domain.event_ids import Stamp
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.embedded import journal
from meterd.embedded.aggregator import Aggregator, Append, Close
from meterd.embedded.committer import Committer
from meterd.embedded.keys import part_of
from meterd.embedded.mailbox import Gate, Reply
from meterd.embedded.store import PARTS, Store
from tests.embedded.engine_bench import WriterHop
from tests.ledger_bench import START_MS, event, rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.periods import Period

HOUR = period_at(PeriodType.HOURLY, START_MS)
PART = part_of("acme", PARTS)


class Actor:
    """An aggregator for acme over a store of its own, its committer held back by ``hop``."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.gate = Gate()
        self.hop = WriterHop()
        self.committer = Committer(self.store, self.gate, self.hop)
        self.aggregator = Aggregator("acme", PART, self.store, self.committer, self.gate)

    def send(self, number: int, at_ms: int = START_MS) -> Reply:
        reply = Reply(1)
        stamp = Stamp(at_ms, number, 0)
        self.gate.sent()
        self.aggregator.mailbox.put(Append(stamp, [PlacedEvent(0, event(value=number))], reply))
        return reply

    def total(self, period: Period = HOUR) -> tuple[int, str]:
        with self.store.read() as txn:
            totals = journal.read_totals(txn, PART, period, "acme")
        return (
            (0, "0")
            if totals is None
            else (totals.by_type["sum"].count, str(totals.by_type["sum"].sum))
        )


@pytest.fixture
async def actor(tmp_path: Path) -> AsyncIterator[Actor]:
    made = Actor(tmp_path / "data")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.committer.run)
        nursery.start_soon(made.aggregator.run)
        yield made
        nursery.cancel_scope.cancel()
    made.store.close()


async def test_it_may_retire_only_when_all_is_on_disk(actor: Actor) -> None:
    """Not with a message waiting, not with a change undecided, not while one is being committed."""
    assert actor.aggregator.may_retire()
    actor.hop.may_pass = trio.Event()
    reply = actor.send(1)
    assert not actor.aggregator.may_retire(), "a message waits"
    await wait_all_tasks_blocked()
    assert not actor.aggregator.may_retire(), "a change is in flight"
    second = actor.send(2)
    await wait_all_tasks_blocked()
    assert len(actor.aggregator.mailbox) == 0
    assert actor.total() == (0, "0")
    actor.hop.may_pass.set()
    await reply.wait()
    await second.wait()
    assert actor.aggregator.may_retire()
    assert actor.total() == (2, "3")


async def test_what_is_decided_during_a_commit_stands_on_what_is_in_flight(actor: Actor) -> None:
    """Totals are those of all events decided on, though the disk knows only the earlier ones."""
    actor.hop.may_pass = trio.Event()
    replies = [actor.send(1)]
    for number in (2, 3, 4):
        await wait_all_tasks_blocked()
        replies.append(actor.send(number))
    actor.hop.may_pass.set()
    for reply in replies:
        await reply.wait()
    assert actor.total() == (4, "10")
    assert actor.hop.transactions == 2


async def test_closes_during_commits_hand_up_to_what_is_in_flight(actor: Actor) -> None:
    """Three hours, each closed while the one before is being committed, are all in their day."""
    hours = [period_at(PeriodType.HOURLY, START_MS + place * HOUR_MS) for place in range(3)]
    for place, hour in enumerate(hours):
        await actor.send(place + 1, at_ms=hour.start_ms).wait()
    replies, commits = [Reply(1) for _ in hours], [trio.Event() for _ in hours]
    for place, hour in enumerate(hours):
        actor.hop.may_pass = commits[place]
        actor.gate.sent()
        actor.aggregator.mailbox.put(Close(hour, rules(), hours[-1].end_ms, [], replies[place]))
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
    await actor.send(1).wait()
    actor.aggregator.mailbox.close()
    actor.aggregator = Aggregator("acme", PART, actor.store, actor.committer, actor.gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.aggregator.run)
        await actor.send(5).wait()
        actor.aggregator.mailbox.close()
    assert actor.total() == (2, "6")


async def test_a_close_is_decided_once(actor: Actor) -> None:
    """A second one behind it, or behind a restart, makes nothing."""
    await actor.send(1).wait()
    made: list[Aggregation] = []
    for _ in range(2):
        replies = [Reply(1), Reply(1)]
        for reply in replies:
            actor.gate.sent()
            actor.aggregator.mailbox.put(Close(HOUR, rules(), START_MS + HOUR_MS, made, reply))
        for reply in replies:
            await reply.wait()
    assert [one.id for one in made] == ["acme_hourly_2026011411"]
    with actor.store.read() as txn:
        assert journal.read_aggregation(txn, PART, HOUR, "acme") == made[0]
        assert txn.count("deliveries") == 1
