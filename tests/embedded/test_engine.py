"""The embedded engine: the conformance suite, and what stands or falls with one transaction."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from meterd.domain.errors import OverloadedError
from meterd.domain.idempotency import Recorded
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.embedded import queries, registry
from meterd.embedded.engine import EVENTS_IN_FLIGHT_MAX
from tests.embedded.engine_bench import EngineBench, inline, running
from tests.ledger_bench import (
    ALL,
    EVERY_EVENT,
    START_MS,
    append_at,
    at,
    close_ended,
    event,
    figures,
    published,
    rules,
    stored,
)
from tests.ledger_conformance import LedgerConformance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from meterd.domain.events import UsageEvent

T = TypeVar("T")

MANY = [f"c{number}" for number in range(300)]
NEXT_YEAR_MS = at("2027-01-04T00:00")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with running(tmp_path) as bench:
        yield bench


class TestEmbeddedLedger(LedgerConformance):
    pass


# One append, one transaction


async def test_an_append_of_many_customers_is_one_transaction(bench: EngineBench) -> None:
    """Three hundred customers, one commit."""
    await bench.ledger.append([event(customer) for customer in MANY])
    assert bench.hop.transactions == 1


async def test_of_an_append_that_is_cut_off_nothing_is_stored(bench: EngineBench) -> None:
    """Neither events nor totals nor customers: the power went off before the commit."""
    await bench.ledger.append([event("before")])
    await bench.cut_off(0, partial(bench.ledger.append, [event(customer) for customer in MANY]))
    await bench.restart()
    assert [one.event.customer_id for one in await stored(bench)] == ["before"]
    assert (await bench.ledger.snapshot(rules())).customers == 1


async def test_appends_are_never_split_under_concurrency(bench: EngineBench) -> None:
    """Behind every single commit, each of the appends is on disk whole or not at all."""
    seen: list[int] = []

    def count_of_each_append() -> None:
        with bench.store.read() as txn:
            found = queries.read_events(txn, bench.store.parts, EVERY_EVENT, ALL, None)
        batches = Counter(one.event.value for one in found if one.event.event_type == "max")
        assert all(count % len(MANY) == 0 for count in batches.values()), batches
        seen.append(len(found))

    bench.hop.committed = count_of_each_append

    async def many(number: int) -> None:
        for _ in range(3):
            batch = [event(customer, "max", value=number) for customer in MANY]
            await bench.ledger.append(batch)

    async def single(number: int) -> None:
        for _ in range(6):
            await bench.ledger.append([event(f"c{number}")])
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(many, number)
            nursery.start_soon(single, number)
    assert seen[-1] == 6 * (3 * len(MANY) + 6)
    assert len(set(seen)) > 3, "all came in one transaction, which shows nothing"


async def test_while_one_transaction_is_synced_the_next_gathers(bench: EngineBench) -> None:
    """However many appends come meanwhile, they are one transaction more."""
    bench.hop.may_pass = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.ledger.append, [event("first")])
        await wait_all_tasks_blocked()
        for customer in MANY:
            nursery.start_soon(bench.ledger.append, [event(customer)])
        await wait_all_tasks_blocked()
        assert bench.hop.transactions == 0
        bench.hop.may_pass.set()
    assert bench.hop.transactions == 2


async def test_nothing_is_answered_before_it_is_on_disk(bench: EngineBench) -> None:
    """While the disk does not answer, nor does the ledger; and nobody reads it either."""
    bench.hop.may_pass = trio.Event()
    answered: list[Recorded] = []

    async def append() -> None:
        answered.extend(await bench.ledger.append([event()]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(append)
        await wait_all_tasks_blocked()
        assert answered == []
        assert await stored(bench) == []
        bench.hop.may_pass.set()
    assert answered == [Recorded.RECORDED]


async def test_deliveries_of_a_close_that_was_cut_off_are_told_of(bench: EngineBench) -> None:
    """By the commit that makes them: a client that leaves amid a trigger delays no webhook."""
    await bench.ledger.append([event()])
    bench.clock.now_ms += HOUR_MS
    period = await bench.ledger.next_to_close()
    assert period is not None
    await bench.ledger.close(period, rules())
    told = bench.ledger.deliveries_made()
    assert told == 1
    await bench.ledger.append([event()])
    bench.clock.now_ms += HOUR_MS
    following = await bench.ledger.next_to_close()
    assert following is not None
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as caller:
            nursery.start_soon(cancel_when, caller, lambda: bench.hop.transactions)
            await bench.ledger.close(following, rules())
        await bench.ledger.close(following, rules())
    assert bench.ledger.deliveries_made() == 2


async def cancel_when(scope: trio.CancelScope, transactions: Callable[[], int]) -> None:
    """In the middle: when the transaction after the floor's has been written."""
    before = transactions()
    while transactions() < before + 2:
        await trio.lowlevel.checkpoint()
    scope.cancel()


# Limits


@pytest.mark.parametrize("callers_give_up", [False, True])
async def test_events_in_flight_are_bounded(bench: EngineBench, *, callers_give_up: bool) -> None:
    """While the disk stands still: also where callers go away, since what they sent is held."""
    bench.hop.may_pass = trio.Event()
    batch = [event()] * 1000
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as callers:
            async with trio.open_nursery() as calling:
                for _ in range(EVENTS_IN_FLIGHT_MAX // 1000):
                    calling.start_soon(bench.ledger.append, batch)
                await wait_all_tasks_blocked()
                if callers_give_up:
                    callers.cancel()
                else:
                    nursery.start_soon(release_when_refused, bench)
                    calling.start_soon(refused, bench)
        if callers_give_up:
            await refused(bench)
            bench.hop.may_pass.set()
            await wait_all_tasks_blocked()
    assert await bench.ledger.append([event()]) == [Recorded.RECORDED]
    assert len(await stored(bench)) == EVENTS_IN_FLIGHT_MAX + 1


async def test_a_refused_append_takes_no_room(
    bench: EngineBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are refused because too many customers are active, the rest are served."""
    monkeypatch.setattr(registry, "ACTIVE_MAX", 1)
    for _ in range(EVENTS_IN_FLIGHT_MAX // 1000 + 1):
        await bench.ledger.append([event("awake")])
        with pytest.raises(OverloadedError):
            await bench.ledger.append([event("awake"), *[event("asleep")] * 999])
    assert {one.event.customer_id for one in await stored(bench)} == {"awake"}


async def refused(bench: EngineBench) -> None:
    with trio.fail_after(5), pytest.raises(OverloadedError):
        await bench.ledger.append([event()])


async def release_when_refused(bench: EngineBench) -> None:
    await wait_all_tasks_blocked()
    bench.hop.may_pass.set()


# Closing


async def test_aggregation_and_deliveries_enter_in_one_transaction(bench: EngineBench) -> None:
    """Behind every commit there is a delivery of each closed aggregation to each endpoint."""
    await bench.ledger.append([event(customer) for customer in MANY])
    counts: list[tuple[int, int]] = []

    def look() -> None:
        with bench.store.read() as txn:
            counts.append((txn.count("aggregations"), txn.count("deliveries")))

    bench.hop.committed = look
    by = rules(PeriodType.HOURLY, endpoints=("billing", "crm"))
    await close_ended(bench, by, clock_ms=START_MS + HOUR_MS)
    assert all(deliveries == 2 * aggregations for aggregations, deliveries in counts)
    assert counts[-1] == (300, 600)
    assert len(set(counts)) > 3, "all came in one transaction, which shows nothing"


async def test_what_comes_amid_a_snapshot_is_in_all_its_periods(tmp_path: Path) -> None:
    """Or in none: the day never lacks what its hour shows."""
    coming: list[UsageEvent] = []

    async def read_hop(work: Callable[[], T]) -> T:
        if coming:
            await engine.ledger.append([coming.pop()])
        return await inline(work)

    async with trio.open_nursery() as nursery:
        engine = EngineBench(tmp_path / "data", nursery, read_hop=read_hop)
        await engine.start()
        await append_at(engine, "2026-01-14T11:15", value=2)
        await close_ended(engine, rules(), clock_ms=at("2026-01-14T12:15"))
        coming.append(event(value=5))
        await engine.ledger.snapshot(rules())
        assert await figures(engine, "acme_hourly_2026011412") == {"sum": "5"}
        assert await figures(engine, "acme_daily_20260114") == {"sum": "7"}
        assert await figures(engine, "acme_yearly_2026") == {"sum": "7"}
        await engine.stop()


@pytest.mark.parametrize("transactions", [0, 1, 2, 3, 4, 6, 8, 11])
async def test_a_close_that_is_cut_off_is_finished_later(
    bench: EngineBench, transactions: int
) -> None:
    """Wherever the power went: every total once, every delivery once, though the clock went back.

    The event that comes after the restart belongs to the first hour that nothing was closed of.
    """
    customers = [f"c{number}" for number in range(6)]
    await bench.ledger.append([event(customer) for customer in customers])
    bench.clock.now_ms = at("2026-01-15T00:00")
    await bench.cut_off(transactions, partial(close_ended, bench, rules()))
    bench.clock.now_ms = START_MS
    await bench.restart()
    await bench.ledger.append([event(customer, value=10) for customer in customers])
    await bench.ledger.snapshot(rules())
    for clock_ms in (NEXT_YEAR_MS, None):
        for customer in customers:
            assert await figures(bench, f"{customer}_yearly_2026") == {"sum": "11"}
        await close_ended(bench, rules(), clock_ms=clock_ms)
    found = await published(bench)
    totals = [int(one.aggregation.figures["sum"].value) for one in found]
    hours = [
        total
        for one, total in zip(found, totals, strict=True)
        if one.aggregation.period_type is PeriodType.HOURLY
    ]
    assert sum(hours) == 6 * 11
    with bench.store.read() as txn:
        assert txn.count("deliveries") == txn.count("outbox_by_customer") == len(found)


# Threads


async def test_in_worker_threads_nothing_is_lost(tmp_path: Path) -> None:
    """As the daemon runs it: one thread writes, others read whole appends, and an hour closes."""
    limits = trio.CapacityLimiter(1), trio.CapacityLimiter(4)
    hop, read_hop = (partial(trio.to_thread.run_sync, limiter=limit) for limit in limits)
    async with trio.open_nursery() as engines:
        bench = EngineBench(tmp_path / "data", engines, hop=hop, read_hop=read_hop)
        await bench.start()

        async def append(caller: int) -> None:
            for number in range(10):
                await bench.ledger.append([event(f"c{(caller + n) % 9}") for n in range(5)])
                if caller == number == 5:
                    await close_ended(bench, rules(), clock_ms=START_MS + HOUR_MS)

        async def read() -> None:
            while len(seen := await stored(bench)) < 20 * 10 * 5:
                assert len(seen) % 5 == 0

        async with trio.open_nursery() as nursery:
            for caller in range(20):
                nursery.start_soon(append, caller)
            for _ in range(3):
                nursery.start_soon(read)
        await close_ended(bench, rules(PeriodType.YEARLY), clock_ms=NEXT_YEAR_MS)
        totals = [one.aggregation for one in await published(bench)]
        yearly = [one for one in totals if one.period_type is PeriodType.YEARLY]
        assert sum(one.event_count for one in yearly) == 20 * 10 * 5
        await bench.stop()


# Who is awake


async def test_idle_customers_retire_and_their_totals_go_on(
    bench: EngineBench, autojump_clock: MockClock
) -> None:
    """A minute later nobody is in memory, and what was counted is counted on."""
    await bench.ledger.append([event(customer) for customer in MANY])
    assert len(bench.ledger._registry) == len(MANY)
    await trio.sleep(29)
    await bench.ledger.append([event("c0", value=10)])
    await trio.sleep(32)
    assert len(bench.ledger._registry) == 0
    await bench.ledger.append([event("c0", value=100), event("c1", value=100)])
    await bench.ledger.snapshot(rules())
    assert await figures(bench, "c0_hourly_2026011411") == {"sum": "111"}
    assert await figures(bench, "c1_hourly_2026011411") == {"sum": "101"}


async def test_closing_leaves_nobody_awake_who_was_not(
    bench: EngineBench, autojump_clock: MockClock
) -> None:
    """Customers woken for the end of a period retire behind it, not at the next sweep."""
    await bench.ledger.append([event(customer) for customer in MANY])
    await trio.sleep(61)
    await append_at(bench, "2026-01-14T12:00", "awake")
    await close_ended(bench, rules())
    assert len(bench.ledger._registry) == 1
    await bench.ledger.snapshot(rules())
    assert len(bench.ledger._registry) == 1
    assert len(await published(bench)) == len(MANY) + 4 * (len(MANY) + 1) + 1
