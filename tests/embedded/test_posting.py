"""When what was counted is written to the totals, who waits for it, and what a crash leaves."""

from __future__ import annotations

import tracemalloc
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.event_ids import Stamp
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.receipts import BLOCK_EVENTS, receive
from meterd.embedded import keys, log, records
from meterd.embedded.engine import EmbeddedLedger
from meterd.embedded.posting import LAST_POSTING_S, POST_SECONDS, POSTED_AT_ONCE
from meterd.embedded.store import Store
from meterd.ledger import EventQuery
from tests.embedded.engine_bench import EngineBench, WriterHop, inline, post_rest, running
from tests.ledger_bench import START_MS, SettableClock, at, event, figures, rules, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from meterd.domain.periods import Period

T = TypeVar("T")

MANY = [f"c{number}" for number in range(300)]
SYNC_SECONDS = 0.4


async def slow(work: Callable[[], T]) -> T:
    """A disk of which a few transactions take longer than a stop waits."""
    with trio.CancelScope(shield=True):
        await trio.sleep(SYNC_SECONDS)
    return work()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with running(tmp_path) as bench:
        yield bench


def totals_on_disk(bench: EngineBench) -> int:
    """How many events are counted in the hours that are stored."""
    found = 0
    with bench.store.read() as txn:
        for key, payload in txn.forward("totals", b"", b""):
            if keys.totals_period(key).type is PeriodType.HOURLY:
                by_type = records.decode_totals(payload).by_type
                found += sum(totals.count for totals in by_type.values())
    return found


async def test_events_are_posted_in_passes_of_ten_seconds(
    bench: EngineBench, autojump_clock: MockClock
) -> None:
    """Acknowledged from the log; one write of the totals, however many events came meanwhile.

    A pass takes its time, so that nobody waits long for one of its transactions.
    """
    for _ in range(5):
        await bench.ledger.append([event(customer) for customer in MANY])
    assert totals_on_disk(bench) == 0
    assert len(await stored(bench)) == 5 * len(MANY)
    transactions = bench.hop.transactions
    await trio.sleep(1.5 * POST_SECONDS)
    assert 0.4 < totals_on_disk(bench) / (5 * len(MANY)) < 0.7
    await trio.sleep(0.6 * POST_SECONDS)
    assert totals_on_disk(bench) == 5 * len(MANY)
    assert bench.hop.transactions - transactions == -(-len(MANY) // POSTED_AT_ONCE) + 1
    transactions = bench.hop.transactions
    await trio.sleep(10 * POST_SECONDS)
    assert bench.hop.transactions == transactions, "nothing came, and nothing was written"


@pytest.mark.parametrize("customers", [1, POSTED_AT_ONCE, POSTED_AT_ONCE + 1])
async def test_a_pass_over_few_takes_no_longer(
    bench: EngineBench, autojump_clock: MockClock, customers: int
) -> None:
    """The mark that a start reads from follows all the same."""
    for _ in range(2):
        await bench.ledger.append([event(customer) for customer in MANY[:customers]])
        await trio.sleep(2 * POST_SECONDS + 0.1)
        assert post_rest(bench.store) == 0


async def test_who_cannot_wait_overtakes_a_pass(
    bench: EngineBench, autojump_clock: MockClock
) -> None:
    """A snapshot needs everyone's totals now; what the pass still does then is nothing."""
    await bench.ledger.append([event(customer) for customer in MANY])
    await trio.sleep(1.2 * POST_SECONDS)
    assert 0 < totals_on_disk(bench) < len(MANY)
    began_at = trio.current_time()
    assert (await bench.ledger.snapshot(rules())).customers == len(MANY)
    assert trio.current_time() == began_at
    assert totals_on_disk(bench) == len(MANY)
    transactions = bench.hop.transactions
    await trio.sleep(3 * POST_SECONDS)
    assert bench.hop.transactions == transactions


async def test_an_hour_that_is_open_needs_no_posting_to_be_known(bench: EngineBench) -> None:
    """What closes next may be an hour of which nothing is in the totals yet."""
    assert await bench.ledger.next_to_close() is None
    hour, next_hour = (period_at(PeriodType.HOURLY, START_MS + hours * HOUR_MS) for hours in (0, 1))
    await bench.ledger.append([event("a")])
    await bench.ledger.snapshot(rules())
    await bench.ledger.append([event("a"), event("b")])
    transactions = bench.hop.transactions
    assert await bench.ledger.next_to_close() == hour
    assert bench.hop.transactions == transactions
    bench.clock.now_ms += HOUR_MS
    await bench.ledger.append([event("c")])
    assert await bench.ledger.next_to_close() == hour
    assert totals_on_disk(bench) == 4, "an hour that has ended is posted first"
    assert (await bench.ledger.close(hour, rules())).created == 1
    await bench.ledger.append([event("d")])
    assert await bench.ledger.next_to_close() == next_hour


async def test_only_whom_one_asks_for_is_posted(bench: EngineBench) -> None:
    """A customer's events are found at once, and the others need not wait for the disk."""
    await bench.ledger.append([event(customer) for customer in MANY])
    found = await stored(bench, EventQuery(customer_id="c7"))
    assert [one.event.customer_id for one in found] == ["c7"]
    assert totals_on_disk(bench) == 1


async def test_a_reader_sees_what_is_being_posted(bench: EngineBench) -> None:
    """Also while the transaction that posts it is on its way to the disk."""
    await bench.ledger.append([event("a", value=1)])
    bench.hop.may_pass = trio.Event()
    found: list[list[int]] = []

    async def read() -> None:
        seen = await stored(bench, EventQuery(customer_id="a"))
        found.append([int(one.event.value) for one in seen])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert found == []
        bench.hop.may_pass.set()
    assert found == [[1], [1]]


async def test_a_start_posts_what_a_crash_left(bench: EngineBench) -> None:
    """Each event once, though some of the customers had been posted already."""
    await bench.ledger.append([event(customer, value=1) for customer in MANY])
    await stored(bench, EventQuery(customer_id="c7"))
    await bench.ledger.append([event(customer, value=10) for customer in MANY])
    await bench.cut_off(2, bench.ledger._posting.post_all)
    assert 0 < totals_on_disk_after(bench) < 2 * len(MANY)
    await bench.restart()
    assert totals_on_disk(bench) == 2 * len(MANY)
    await bench.ledger.snapshot(rules())
    for customer in ("c0", "c7", "c299"):
        assert await figures(bench, f"{customer}_hourly_2026011411") == {"sum": "11"}
        assert len(await stored(bench, EventQuery(customer_id=customer))) == 2


def totals_on_disk_after(bench: EngineBench) -> int:
    """The same, of an engine whose power went off."""
    bench.store = Store(bench.folder)
    try:
        return totals_on_disk(bench)
    finally:
        bench.store.close()


async def test_an_engine_that_is_stopped_in_order_leaves_nothing_to_post(tmp_path: Path) -> None:
    """So the next start reads nothing again."""
    store = Store(tmp_path / "data")
    ledger = EmbeddedLedger(store, now_ms=lambda: START_MS, nonce=1, hop=inline, read_hop=inline)
    async with ledger.running():
        await ledger.append([event(customer) for customer in MANY])
    assert post_rest(store) == 0
    with store.read() as txn:
        assert txn.count("customers") == len(MANY)
    store.close()


async def test_a_stop_waits_only_so_long_for_the_last_posting(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """On a slow disk: what is left the next start posts."""
    store = Store(tmp_path / "data")
    hop = WriterHop(slow)
    ledger = EmbeddedLedger(store, now_ms=lambda: START_MS, nonce=1, hop=hop, read_hop=inline)
    async with ledger.running():
        await ledger.append([event(customer) for customer in MANY])
        began = trio.current_time()
        transactions = hop.transactions
    took = trio.current_time() - began
    assert took <= LAST_POSTING_S + SYNC_SECONDS
    assert hop.transactions - transactions == int(LAST_POSTING_S / SYNC_SECONDS) + 1
    with store.read() as txn:
        assert 0 < txn.count("customers") < len(MANY)
    assert post_rest(store) > 0
    with store.read() as txn:
        assert txn.count("customers") == len(MANY)
    store.close()


def test_large_events_are_not_held_together(tmp_path: Path) -> None:
    """A start after a crash must not need more memory than meterd had."""
    store = Store(tmp_path / "data")
    metadata = b'{"note": "' + b"x" * 16_000 + b'"}'
    for number in range(40):
        sent = [event("a", metadata=metadata)] * BLOCK_EVENTS
        receipt = receive(Stamp(START_MS, number * BLOCK_EVENTS, 7), sent)
        store.write(partial(log.write_receipts, receipts=[receipt]))
    tracemalloc.start()
    try:
        assert post_rest(store) == 40
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * BLOCK_EVENTS * len(metadata)
    store.close()


async def test_a_day_does_not_close_before_an_hour_that_came_while_it_was_asked_for(
    tmp_path: Path,
) -> None:
    """The first event of the day's last hour comes while what closes next is being read."""
    asked, answered = trio.Event(), trio.Event()
    answered.set()

    async def read(work: Callable[[], T]) -> T:
        asked.set()
        await answered.wait()
        return await inline(work)

    async def ask() -> None:
        found.append(await bench.ledger.next_to_close())

    found: list[Period | None] = []
    clock = SettableClock(at("2026-01-14T10:15"))
    async with trio.open_nursery() as nursery:
        bench = EngineBench(tmp_path / "data", nursery, clock, read_hop=read)
        await bench.start()
        await bench.ledger.append([event("a")])
        clock.now_ms = at("2026-01-14T23:59")
        hour = await bench.ledger.next_to_close()
        assert hour is not None
        await bench.ledger.close(hour, rules())
        asked, answered = trio.Event(), trio.Event()
        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await asked.wait()
            await bench.ledger.append([event("b")])
            clock.now_ms = at("2026-01-15T00:00")
            answered.set()
        [day] = found
        assert day is not None
        assert day.type is PeriodType.DAILY
        assert (await bench.ledger.close(day, rules())).created == 0
        last_hour = await bench.ledger.next_to_close()
        assert last_hour == period_at(PeriodType.HOURLY, at("2026-01-14T23:59"))
        assert (await bench.ledger.close(last_hour, rules())).created == 1
        assert await bench.ledger.next_to_close() == day
        assert (await bench.ledger.close(day, rules())).created == 2
        await bench.stop()


async def test_a_pass_that_takes_its_time_holds_up_nobody_who_looks_for_what_ended(
    bench: EngineBench, autojump_clock: MockClock
) -> None:
    """What it was to post is posted by who is in haste, and is then not looked for any more."""
    past = [
        msgspec.structs.replace(event(one), timestamp_ms=START_MS - 3 * HOUR_MS) for one in MANY
    ]
    await bench.ledger.append(past)
    await trio.sleep(1.2 * POST_SECONDS)
    assert 0 < totals_on_disk(bench) < len(MANY)
    with trio.fail_after(1):
        period = await bench.ledger.next_to_close()
    assert period is not None
    assert period.end_ms <= START_MS - 2 * HOUR_MS
    assert totals_on_disk(bench) == len(MANY)
