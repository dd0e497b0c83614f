"""Who is awake: woken by the first message, bounded, retired when idle."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.errors import OverloadedError
from meterd.domain.event_ids import Stamp
from meterd.domain.hierarchy import NOTHING_CLOSED
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.receipts import receive
from meterd.embedded import registry
from meterd.embedded.aggregator import Append, Close, Post
from meterd.embedded.committer import Committer
from meterd.embedded.keys import part_of
from meterd.embedded.mailbox import Reply
from meterd.embedded.registry import ROOM_SECONDS, SWEEP_SECONDS, Registry
from meterd.embedded.store import PARTS, Store
from tests.embedded.engine_bench import WriterHop
from tests.ledger_bench import START_MS, event, rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock


HOUR = period_at(PeriodType.HOURLY, START_MS)


class Awake:
    """A registry that runs, and how to send to it."""

    def __init__(self, store: Store) -> None:
        self.hop = WriterHop()
        self.committer = Committer(store, self.hop)
        self.registry = Registry(store, self.committer)
        self._counter = 0

    def append(self, customer_id: str) -> Reply:
        reply = Reply(1)
        self._counter += 1
        receipt = receive(Stamp(START_MS, self._counter, 0), [event(customer_id)])
        self.committer.record(receipt, reply)
        self.registry.send(customer_id, Append(receipt, [0], NOTHING_CLOSED))
        return reply

    def post(self, customer_id: str) -> Reply:
        reply = Reply(1)
        self.registry.send(customer_id, Post(reply))
        return reply

    def wake(self, customer_id: str) -> Reply:
        """By a period's end, in which it turns out to have nothing."""
        reply = Reply(1)
        self.registry.send(customer_id, Close(HOUR, rules(), HOUR.end_ms, [], reply))
        return reply

    async def counted(self, *customer_ids: str) -> None:
        """Each gets an event, which is posted."""
        for customer_id in customer_ids:
            self.append(customer_id)
            await self.post(customer_id).wait()


@pytest.fixture
async def awake(tmp_path: Path) -> AsyncIterator[Awake]:
    store = Store(tmp_path / "data")
    made = Awake(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.registry.run)
        nursery.start_soon(made.committer.run)
        yield made
        nursery.cancel_scope.cancel()
    store.close()


async def test_a_customer_is_woken_once(awake: Awake) -> None:
    """Its second message goes to the same actor."""
    replies = [awake.append(customer) for customer in ("a", "b", "a")]
    assert len(awake.registry) == 2
    for reply in replies:
        await reply.wait()


async def test_who_got_no_event_between_two_sweeps_retires(
    awake: Awake, autojump_clock: MockClock
) -> None:
    """Not earlier; and by themselves, every thirty seconds."""
    await awake.counted("idle", "busy")
    await trio.sleep(SWEEP_SECONDS + 1)
    assert len(awake.registry) == 2
    await awake.counted("busy")
    await trio.sleep(SWEEP_SECONDS)
    assert len(awake.registry) == 1
    await trio.sleep(2 * SWEEP_SECONDS)
    assert len(awake.registry) == 0


async def test_whose_events_are_not_posted_does_not_retire(awake: Awake) -> None:
    """However often it is swept: they are in the log, and only its actor has counted them."""
    await awake.append("a").wait()
    for _ in range(3):
        awake.registry.sweep()
    assert len(awake.registry) == 1
    await awake.post("a").wait()
    awake.registry.sweep()
    assert len(awake.registry) == 0


async def test_who_waits_for_the_disk_does_not_retire(awake: Awake) -> None:
    """However often it is swept: a change in flight is still to be told of."""
    awake.hop.may_pass = trio.Event()
    awake.append("a")
    reply = awake.post("a")
    await wait_all_tasks_blocked()
    for _ in range(3):
        awake.registry.sweep()
    assert len(awake.registry) == 1
    awake.hop.may_pass.set()
    await reply.wait()
    awake.registry.sweep()
    assert len(awake.registry) == 0


async def test_retiring_spares_those_with_events(awake: Awake) -> None:
    """Behind a period's end only those go who were woken for it and have nothing to do."""
    await awake.counted("used")
    await awake.wake("woken").wait()
    busy = awake.wake("busy")
    awake.registry.retire(["used", "woken", "busy", "unknown"])
    assert len(awake.registry) == 2
    await busy.wait()
    awake.registry.retire(["used", "busy"])
    assert len(awake.registry) == 1
    assert awake.registry.at_rest("used")


async def test_who_is_asleep_is_at_rest(awake: Awake) -> None:
    """Others are when all that was sent for them is in their totals on disk."""
    assert awake.registry.at_rest("unknown")
    reply = awake.append("a")
    assert not awake.registry.at_rest("a")
    await reply.wait()
    assert not awake.registry.at_rest("a")
    await awake.post("a").wait()
    assert awake.registry.at_rest("a")


async def test_the_restless_are_named_by_part(
    awake: Awake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, however many there are to be looked at, and nobody who is at rest."""
    monkeypatch.setattr(registry, "_LOOKED_AT_ONCE", 3)
    names = [f"c{number}" for number in range(40)]
    await awake.counted(*names[:20])
    for name in names[10:]:
        await awake.append(name).wait()
    found = await awake.registry.restless()
    assert [sorted(of_part) for of_part in found] == [
        sorted(name for name in names[10:] if part_of(name, PARTS) == part) for part in range(PARTS)
    ]


async def test_looking_for_the_restless_lets_others_run(
    awake: Awake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may come and go meanwhile; who was restless before is found."""
    monkeypatch.setattr(registry, "_LOOKED_AT_ONCE", 1)
    await awake.counted("idle")
    for name in ("a", "b", "c"):
        await awake.append(name).wait()
    awake.registry.sweep()

    async def interfere() -> None:
        awake.append("d")
        awake.registry.sweep()

    found: list[list[str]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interfere)
        found = await awake.registry.restless()
    assert {name for of_part in found for name in of_part} >= {"a", "b", "c"}
    assert len(awake.registry) == 4, "the idle one has retired, and another was woken"


async def test_only_so_many_are_awake(
    awake: Awake, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Another is refused until one has retired, which is tried at once; who is awake is served."""
    monkeypatch.setattr(registry, "ACTIVE_MAX", 2)
    await awake.counted("a", "b")
    with pytest.raises(OverloadedError):
        awake.registry.require_room(["c"])
    awake.registry.require_room(["a", "b"])
    await trio.sleep(ROOM_SECONDS)
    awake.registry.require_room(["c"])
    assert len(awake.registry) == 0


async def test_room_is_not_looked_for_again_and_again(
    awake: Awake, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """A sweep looks at everyone: whoever is refused meanwhile makes none."""
    monkeypatch.setattr(registry, "ACTIVE_MAX", 1)
    await awake.counted("a")
    for _ in range(3):
        with pytest.raises(OverloadedError):
            awake.registry.require_room(["b"])
    await trio.sleep(ROOM_SECONDS)
    awake.registry.require_room(["b"])


async def test_the_garbage_collector_has_nothing_to_do_with_who_is_awake(awake: Awake) -> None:
    """Counted or posted: a full collection walks over all that it may, and stops the daemon."""
    names = [f"c{number}" for number in range(1000)]
    gc.collect()
    before = len(gc.get_objects())
    for step in (awake.append, awake.post):
        for reply in [step(name) for name in names]:
            await reply.wait()
        await awake.counted("whoever is still known to the committer")
        gc.collect()
        assert len(gc.get_objects()) - before < len(names) / 10


async def test_who_has_retired_is_gone_without_the_garbage_collector(awake: Awake) -> None:
    """Which would never find a cycle that such an actor is in. Each holds its customer's id."""
    names = [f"c{number}" for number in range(10)]
    before = [sys.getrefcount(name) for name in names]
    gc.disable()
    try:
        await awake.counted(*names)
        await awake.wake(names[0]).wait()
        await awake.counted("whoever is still known to the committer")
        assert [sys.getrefcount(name) for name in names] != before
        for _ in range(2):
            awake.registry.sweep()
        assert len(awake.registry) == 0
        assert [sys.getrefcount(name) for name in names] == before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("customers", "fit"),
    [
        (["a"], True),
        (["a", "b"], True),
        (["c"], True),
        (["a", "b", "c", "d"], True),
        (["c", "d"], True),
        (["c", "d", "e"], False),
        (["a", "c", "d", "e"], False),
    ],
)
async def test_an_append_is_let_in_whole(
    awake: Awake, monkeypatch: pytest.MonkeyPatch, customers: list[str], *, fit: bool
) -> None:
    """There must be room for all of its customers together; those who are awake need none."""
    monkeypatch.setattr(registry, "ACTIVE_MAX", 4)
    for customer in ("a", "b"):
        await awake.append(customer).wait()
    if fit:
        awake.registry.require_room(customers)
    else:
        with pytest.raises(OverloadedError):
            awake.registry.require_room(customers)


async def test_dead_readers_are_forgotten_now_and_then(
    awake: Awake, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that was killed would keep every freed page from being used again."""
    forgotten: list[float] = []
    monkeypatch.setattr(
        Store, "forget_dead_readers", lambda _: forgotten.append(trio.current_time())
    )
    began = trio.current_time()
    for _ in range(5):  # an idle meterd sleeps, and frees no pages either
        awake.append("a")
        await trio.sleep(SWEEP_SECONDS)
    assert 4 <= len(forgotten) <= 6
    assert forgotten[0] - began <= SWEEP_SECONDS + 1
