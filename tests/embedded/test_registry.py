"""Who is awake: woken by the first message, bounded, retired when idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.account import PlacedEvent
from meterd.domain.errors import OverloadedError
from meterd.domain.event_ids import Stamp
from meterd.domain.periods import PeriodType, period_at
from meterd.embedded import aggregator, registry
from meterd.embedded.aggregator import Append, Close
from meterd.embedded.committer import Committer
from meterd.embedded.mailbox import Gate, Reply
from meterd.embedded.registry import SWEEP_SECONDS, Registry
from meterd.embedded.store import Store
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
        gate = Gate()
        self.hop = WriterHop()
        self.committer = Committer(store, gate, self.hop)
        self.registry = Registry(store, self.committer, gate)

    def append(self, customer_id: str) -> Reply:
        reply = Reply(1)
        placed = [PlacedEvent(0, event(customer_id))]
        self.registry.send(customer_id, Append(Stamp(START_MS, 0, 0), placed, reply))
        return reply

    def wake(self, customer_id: str) -> Reply:
        """By a period's end, in which it turns out to have nothing."""
        reply = Reply(1)
        self.registry.send(customer_id, Close(HOUR, rules(), HOUR.end_ms, [], reply))
        return reply


@pytest.fixture
async def awake(tmp_path: Path) -> AsyncIterator[Awake]:
    store = Store(tmp_path / "data")
    made = Awake(store)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.registry.run)
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
    for customer in ("idle", "busy"):
        await awake.append(customer).wait()
    await trio.sleep(SWEEP_SECONDS + 1)
    assert len(awake.registry) == 2
    await awake.append("busy").wait()
    await trio.sleep(SWEEP_SECONDS)
    assert len(awake.registry) == 1
    await trio.sleep(2 * SWEEP_SECONDS)
    assert len(awake.registry) == 0


async def test_who_waits_for_the_disk_does_not_retire(awake: Awake) -> None:
    """However often it is swept: a change in flight is still to be told of."""
    awake.hop.may_pass = trio.Event()
    reply = awake.append("a")
    await wait_all_tasks_blocked()
    for _ in range(3):
        awake.registry.sweep()
    assert len(awake.registry) == 1
    awake.hop.may_pass.set()
    await reply.wait()
    awake.registry.sweep()
    assert len(awake.registry) == 0


async def test_retiring_spares_those_with_events(awake: Awake) -> None:
    """Behind a period's end only those go who were woken for it."""
    await awake.append("used").wait()
    await awake.wake("woken").wait()
    awake.registry.retire(["used", "woken", "unknown"])
    assert len(awake.registry) == 1
    awake.registry.require_room(["used"])


async def test_a_full_mailbox_has_no_room(awake: Awake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its customer is refused, by name; others are not."""
    monkeypatch.setattr(aggregator, "MAILBOX_MAX", 2)
    awake.append("a")
    awake.registry.require_room(["a", "b"])
    awake.append("a")
    with pytest.raises(OverloadedError, match="customer a"):
        awake.registry.require_room(["b", "a"])
    awake.registry.require_room(["b"])


async def test_only_so_many_are_awake(awake: Awake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is refused until one has retired, which is tried at once; who is awake is served."""
    monkeypatch.setattr(registry, "ACTIVE_MAX", 2)
    for customer in ("a", "b"):
        await awake.append(customer).wait()
    with pytest.raises(OverloadedError):
        awake.registry.require_room(["c"])
    awake.registry.require_room(["a", "b"])
    awake.registry.require_room(["c"])
    assert len(awake.registry) == 0
