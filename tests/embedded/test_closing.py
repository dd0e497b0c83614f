"""Closing beside events that come meanwhile; its results are in the conformance suite."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.embedded import closing
from meterd.embedded.committer import FULL_SECONDS
from meterd.embedded.verification import verify
from tests.embedded.engine_bench import EngineBench, running
from tests.embedded.test_engine_full_disk import Disk
from tests.ledger_bench import START_MS, close_ended, event, published, rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from meterd.domain.aggregations import ClosingRules


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with running(tmp_path) as bench:
        yield bench


async def require_each_late_once(
    bench: EngineBench, by: ClosingRules, customers: list[str]
) -> None:
    """Of each an event of 1 and a late one of 10, of one who is new only that; and it verifies."""
    await close_ended(bench, by)
    await bench.ledger.revise(by, until_ms=bench.clock.now_ms)
    found = [one.aggregation for one in await published(bench)]
    assert {one.customer_id: str(one.figures["sum"].value) for one in found} == {
        **dict.fromkeys(customers, "11"),
        "new": "10",
    }
    await bench.stop()
    assert [str(one) for one in verify(bench.folder)] == []


@pytest.mark.parametrize("transactions", range(8))
async def test_late_events_behind_a_crash_amid_a_close_count_once(
    bench: EngineBench, tmp_path: Path, transactions: int
) -> None:
    """Whether the customer was closed by then or not."""
    customers = [f"c{number}" for number in range(40)]
    await bench.ledger.append([event(customer) for customer in customers])
    bench.clock.now_ms += HOUR_MS
    by = rules(PeriodType.HOURLY)

    async def close() -> None:
        await close_ended(bench, by)

    await bench.cut_off(transactions, close)
    await bench.restart()
    late = [
        msgspec.structs.replace(event(customer, value=10), timestamp_ms=START_MS)
        for customer in (*customers, "new")
    ]
    await bench.ledger.append(late)
    await require_each_late_once(bench, by, customers)


@pytest.mark.parametrize("transactions", range(5))
async def test_whoever_asked_for_a_close_may_leave_amid_it(
    bench: EngineBench, transactions: int
) -> None:
    """As a client does that no longer waits for its trigger: whoever closes next goes on with it,
    each customer is closed once, and what comes in between is late.
    """
    customers = [f"c{number}" for number in range(100)]
    await bench.ledger.append([event(customer) for customer in customers])
    bench.clock.now_ms += HOUR_MS
    by = rules(PeriodType.HOURLY)

    with trio.CancelScope() as asking:
        left_at = bench.hop.transactions + transactions
        bench.hop.committed = lambda: asking.cancel() if bench.hop.transactions > left_at else None
        await close_ended(bench, by)
    assert asking.cancelled_caught
    bench.hop.committed = lambda: None
    assert len(await published(bench)) < 100
    late = [
        msgspec.structs.replace(event(who, value=10), timestamp_ms=START_MS) for who in customers
    ]
    await bench.ledger.append(late)
    await close_ended(bench, by)
    await bench.ledger.revise(by, until_ms=bench.clock.now_ms)
    found = [one.aggregation for one in await published(bench)]
    assert {one.customer_id: str(one.figures["sum"].value) for one in found} == dict.fromkeys(
        customers, "11"
    )
    assert len(found) == 100
    await bench.stop()
    assert [str(one) for one in verify(bench.folder)] == []


@pytest.mark.parametrize("closes_first", [True, False])
@pytest.mark.parametrize("transactions", range(8))
async def test_a_close_that_the_disk_ran_full_amid_is_found_again(
    bench: EngineBench, autojump_clock: MockClock, transactions: int, closes_first: bool
) -> None:
    """At once when there is room, though what is in the hour is not posted; and late events count
    once, whether they come behind that or in between.
    """
    bench.hop.hop = disk = Disk()
    customers = [f"c{number}" for number in range(40)]
    await bench.ledger.append([event(customer) for customer in customers])
    bench.clock.now_ms += HOUR_MS
    by = rules(PeriodType.HOURLY)

    def run_full() -> None:
        disk.is_full = bench.hop.transactions >= transactions

    bench.hop.transactions, bench.hop.committed = 0, run_full
    run_full()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_ended, bench, by)
        await bench.ledger.wait_full()
        nursery.cancel_scope.cancel()
    bench.hop.committed, disk.is_full = lambda: None, False
    await trio.sleep(2 * FULL_SECONDS)
    if closes_first:
        await close_ended(bench, by)
        assert len(await published(bench)) == 40
    late = [
        msgspec.structs.replace(event(customer, value=10), timestamp_ms=START_MS)
        for customer in (*customers, "new")
    ]
    for one in late:
        await bench.ledger.append([one])
    await require_each_late_once(bench, by, customers)


async def test_a_stream_of_late_events_keeps_nobody_from_closing(bench: EngineBench) -> None:
    """Whoever asks what is next to close is answered while they come."""
    happened_ms = START_MS - 3 * HOUR_MS
    late = msgspec.structs.replace(event(), timestamp_ms=happened_ms)
    appends = 0

    async def come_late() -> None:
        nonlocal appends
        for _ in range(200):
            await bench.ledger.append([late])
            appends += 1

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(come_late)
        await bench.ledger.append([late])
        period = await bench.ledger.next_to_close()
        assert appends < 800
        nursery.cancel_scope.cancel()
    assert period is not None
    assert period.start_ms <= happened_ms < period.end_ms


async def test_deliveries_may_catch_up_behind_each_portion(
    bench: EngineBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what closed in it on disk, and nothing of the next; it is told how long that took, and
    not what was waited for before.
    """
    monkeypatch.setattr(closing, "CLOSED_AT_ONCE", 3)  # several of each part
    await bench.ledger.append([event(f"c{number}") for number in range(100)])
    bench.clock.now_ms += HOUR_MS
    found: list[int] = []
    caught_up_s = [trio.current_time()]

    async def catch_up(made: int, made_s: float) -> None:
        assert 0 < made_s <= trio.current_time() - caught_up_s[-1]
        before = found[-1] if found else 0
        found.append(len(await published(bench)))
        assert found[-1] - before == made
        await trio.sleep(0.001)
        assert len(await published(bench)) == found[-1]
        caught_up_s.append(trio.current_time())

    period = await bench.ledger.next_to_close()
    assert period is not None
    await bench.ledger.close(period, rules(PeriodType.HOURLY), catch_up=catch_up)
    assert found[-1] == 100
    portions = [later - earlier for earlier, later in pairwise([0, *found])]
    assert set(portions) == {1, 2, 3}
