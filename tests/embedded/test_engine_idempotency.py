"""Events that are sent again, while the first is on its way to the disk and after a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.errors import CorruptRecordError, OverloadedError
from meterd.domain.idempotency import Recorded
from meterd.embedded.engine import EVENTS_IN_FLIGHT_MAX
from tests.embedded.engine_bench import EngineBench, running
from tests.embedded.sample_store import damage
from tests.idempotency_conformance import keyed, values
from tests.ledger_bench import event, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with running(tmp_path) as started:
        yield started


@pytest.mark.parametrize("gathers", [False, True])
async def test_a_repeat_is_answered_when_its_event_is_on_disk(
    bench: EngineBench, *, gathers: bool
) -> None:
    """Not before, whether the event is being written by then or waits for the next transaction."""
    bench.hop.may_pass = trio.Event()
    outcomes: list[Recorded] = []

    async def send(key: str) -> None:
        outcomes.extend(await bench.ledger.append([keyed(key)]))

    async with trio.open_nursery() as nursery:
        if gathers:
            nursery.start_soon(send, "before")
            await wait_all_tasks_blocked()
        nursery.start_soon(send, "k")
        await wait_all_tasks_blocked()
        nursery.start_soon(send, "k")
        await wait_all_tasks_blocked()
        assert outcomes == []
        bench.hop.may_pass.set()
    assert outcomes.count(Recorded.RECORDED) == 1 + gathers
    assert outcomes.count(Recorded.DUPLICATE) == 1


@pytest.mark.parametrize("unheard", [False, True])
async def test_key_and_event_are_on_disk_together(bench: EngineBench, *, unheard: bool) -> None:
    """Whoever got no answer repeats, and it counts once, whichever side of the commit the crash
    was on.
    """
    bench.hop.commits_unheard = unheard
    await bench.cut_off(0, lambda: bench.ledger.append([keyed("k", 5), keyed("l", 6)]))
    await bench.restart()
    expected = Recorded.DUPLICATE if unheard else Recorded.RECORDED
    assert await bench.ledger.append([keyed("k", 5)]) == [expected]
    assert await bench.ledger.append([keyed("l", 6), keyed("k", 5)]) == [
        expected,
        Recorded.DUPLICATE,
    ]
    assert sorted(await values(bench)) == [5, 6]


async def test_repeats_leave_nothing_in_flight(bench: EngineBench) -> None:
    """However many come, as many new events fit in as before."""
    await bench.ledger.append([keyed("k")])
    for _ in range(3):
        await bench.ledger.append([keyed("k")] * (EVENTS_IN_FLIGHT_MAX - 1))
        await bench.ledger.append([keyed("k", 2)])
    assert len(await bench.ledger.append([event()] * EVENTS_IN_FLIGHT_MAX)) == EVENTS_IN_FLIGHT_MAX
    with pytest.raises(OverloadedError):
        await bench.ledger.append([keyed("k")] * (EVENTS_IN_FLIGHT_MAX + 1))
    assert len(await stored(bench)) == EVENTS_IN_FLIGHT_MAX + 1


async def test_a_damaged_key_costs_who_uses_it_and_nobody_else(bench: EngineBench) -> None:
    """However often it is used: nothing of it is stored, or stays in flight."""
    await bench.ledger.append([keyed("k")])
    await bench.ledger._used_keys.post_all()
    bench.store.write(lambda txn: damage(txn, "idempotency_keys"))
    for _ in range(2):
        with pytest.raises(CorruptRecordError, match="idempotency_keys"):
            await bench.ledger.append([event()] * (EVENTS_IN_FLIGHT_MAX - 1) + [keyed("k")])
    assert len(await bench.ledger.append([event()] * EVENTS_IN_FLIGHT_MAX)) == EVENTS_IN_FLIGHT_MAX
    assert len(await stored(bench)) == 1 + EVENTS_IN_FLIGHT_MAX
