"""What is acknowledged is in what is read, and no more is written for it than must be."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType, period_at
from meterd.domain.usage import UsageQuery
from meterd.embedded import usage
from meterd.embedded.engine import EmbeddedLedger
from meterd.embedded.store import Store
from tests.embedded.engine_bench import EngineBench, WriterHop, inline, running
from tests.embedded.test_engine_full_disk import Disk, unanswered
from tests.ledger_bench import ALL, START_MS, close_ended, event, rules

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

DAILY = PeriodType.DAILY
NAMES = [f"c{number:02}" for number in range(40)]


async def listed(bench: EngineBench, limit: int = ALL, after: str | None = None) -> list[str]:
    return [one.id for one in await bench.ledger.customers(limit=limit, after=after)]


async def test_whoever_is_new_is_listed(tmp_path: Path) -> None:
    """Before totals are posted anyway; those before the page and far behind it are let alone."""
    async with running(tmp_path) as bench:
        await bench.ledger.append([event(name) for name in NAMES[::2]])
        assert await listed(bench) == NAMES[::2]
        await bench.ledger.append([event(name) for name in NAMES])
        at_rest = bench.ledger._registry.at_rest
        assert await listed(bench, 5, after="c09") == NAMES[10:15]
        assert [name for name in NAMES if at_rest(name)] == NAMES[11:19:2]
        assert await listed(bench, 3, after="c38") == NAMES[39:]
        assert await listed(bench) == NAMES


async def test_whoever_is_known_is_not_posted_to_be_listed(tmp_path: Path) -> None:
    """A page of customers who all send events writes nothing."""
    async with running(tmp_path) as bench:
        await bench.ledger.append([event(name) for name in NAMES])
        assert await listed(bench) == NAMES
        await bench.ledger.append([event(name) for name in NAMES])
        transactions = bench.hop.transactions
        assert await listed(bench) == NAMES
        assert await listed(bench, 7, after="c20") == NAMES[21:28]
        assert bench.hop.transactions == transactions


async def test_event_types_are_of_open_periods(tmp_path: Path) -> None:
    """As long as one of those that are asked for is open that may have events of them."""
    async with running(tmp_path) as bench:
        ask = bench.ledger.event_types_of_open
        await bench.ledger.append([event(event_type="early"), event(event_type="both")])
        assert await ask([PeriodType.HOURLY]) == ["both", "early"]
        assert await ask([]) == []
        await close_ended(bench, rules(), clock_ms=START_MS + HOUR_MS)
        await bench.ledger.append([event(event_type="both"), event(event_type="bothersome")])
        assert await ask([PeriodType.HOURLY]) == ["both", "bothersome"]
        assert await ask(PeriodType) == ["both", "bothersome", "early"]


async def test_usage_posts_its_customer_only(tmp_path: Path) -> None:
    """Again for each portion of a window that is read in portions."""
    async with running(tmp_path) as bench:
        await bench.ledger.append([event(name) for name in NAMES for _ in range(3)])
        live = await bench.ledger.customer_usage("c07", DAILY)
        assert live.window.by_type["sum"].count == 3
        at_rest = bench.ledger._registry.at_rest
        assert [name for name in NAMES if at_rest(name)] == ["c07"]
        query = UsageQuery("c08", DAILY, group_by=("x",))
        day = period_at(DAILY, START_MS)
        portion = await bench.ledger.usage_groups(query, day, limit=1)
        transactions = bench.hop.transactions
        await bench.ledger.append([event("c08")])
        rest = await bench.ledger.usage_groups(query, day, limit=9, before=portion.before)
        assert [totals.count for totals in rest.groups.values()] == [2]
        assert bench.hop.transactions == transactions + 2
        assert [name for name in NAMES if at_rest(name)] == ["c07", "c08"]


async def test_a_closing_changes_no_total_halfway(tmp_path: Path) -> None:
    """Behind each of its transactions, whether a period is closed for this customer or for all:
    what is handed up is counted once.
    """
    async with running(tmp_path) as bench:
        for value in (1, 2, 4):
            await bench.ledger.append([event(name, value=value) for name in NAMES])
            bench.clock.now_ms += DAY_MS
        seen = set()

        def look() -> None:
            with bench.store.read() as txn:
                for name, kind in product((NAMES[0], NAMES[-1]), PeriodType):
                    query = UsageQuery(name, kind)
                    windows = usage.read_windows(txn, bench.store.parts, query, None, ALL)
                    seen.add((kind, sum(int(one.by_type["sum"].sum) for one in windows)))

        bench.hop.committed = look
        bench.clock.now_ms += 400 * DAY_MS
        await close_ended(bench, rules())
        assert seen == {(kind, 7) for kind in PeriodType}


async def test_on_a_full_disk_all_is_read(tmp_path: Path) -> None:
    """As before and behind, though nothing of it can be posted; also of who is new, and in a window
    that is read in portions.
    """
    async with running(tmp_path) as bench:
        bench.hop.hop = disk = Disk()
        await bench.ledger.append([event("a")])
        assert await listed(bench) == ["a"]
        await bench.ledger.append([event(name) for name in "aab"])
        disk.is_full = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unanswered, bench, "d")
            await wait_all_tasks_blocked()
            transactions = bench.hop.transactions
            with trio.fail_after(5):
                await look(bench)
            assert bench.hop.transactions > transactions
        await look(bench)
        disk.is_full = False
        await bench.restart()
        await look(bench)


async def look(bench: EngineBench) -> None:
    assert await listed(bench) == ["a", "b"]
    assert await listed(bench, 1, after="a") == ["b"]
    for name, count in (("a", 3), ("b", 1), ("nobody", 0)):
        live = await bench.ledger.customer_usage(name, DAILY)
        assert sum(totals.count for totals in live.window.by_type.values()) == count
        windows = await bench.ledger.usage_windows(UsageQuery(name, DAILY), limit=9)
        assert windows == [live.window][:count]
        query, before, counts = UsageQuery(name, DAILY, group_by=("x",)), None, 0
        for _ in range(count):
            portion = await bench.ledger.usage_groups(
                query, period_at(DAILY, START_MS), limit=1, before=before
            )
            counts += sum(totals.count for totals in portion.groups.values())
            before = portion.before
        assert counts == count


async def test_a_start_that_waits_for_room_reads_all(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Behind a crash, before what it left unposted is posted."""
    async with running(tmp_path) as bench:
        await bench.ledger.append([event("a")])
        assert await listed(bench) == ["a"]
        await bench.ledger.append([event(name) for name in "aab"])
        await bench.cut_off(0, partial(bench.ledger.append, [event("c")]))
        bench.hop = WriterHop(disk := Disk())
        disk.is_full = True
        with closing(Store(bench.folder)) as store:
            bench.ledger = EmbeddedLedger(
                store, now_ms=bench.clock, nonce=7, hop=bench.hop, read_hop=inline
            )
            async with bench.ledger.starting():
                await wait_all_tasks_blocked()
                assert bench.ledger.is_full
                assert not bench.ledger.started.is_set()
                await look(bench)
                disk.is_full = False
                await bench.ledger.started.wait()
                await look(bench)
        await bench.start()
