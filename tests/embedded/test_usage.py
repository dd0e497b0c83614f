"""Windows and groups from the store: what they read, what they cost, and whether they are right
after anything that may have happened.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import hypothesis.strategies as st
import msgspec
import pytest
import trio
from hypothesis import given, settings

from meterd.domain.event_ids import Stamp, stamp_of
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType, period_at
from meterd.domain.receipts import receive
from meterd.domain.usage import Groups, UsageQuery
from meterd.embedded import log, usage
from meterd.embedded.store import PARTS, Store
from meterd.embedded.transaction import Transaction
from tests.embedded.engine_bench import EngineBench, post_rest
from tests.embedded.test_queries import cost
from tests.ledger_bench import ALL, START_MS, SettableClock, close_ended, event, rules
from tests.model_ledger import ModelLedger
from tests.usage_conformance import read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.events import UsageEvent
    from meterd.domain.periods import Period
    from meterd.domain.usage import UsagePortion, WindowTotals
    from meterd.ledger import Ledger

HOURLY, DAILY, WEEKLY, MONTHLY, YEARLY = PeriodType
MINUTE_MS: Final = 60_000
OF_EVENTS: Final = {"events", "records_by_type", "blocks_by_customer"}
PLANS: Final = (b'{"plan":"pro"}', b'{"plan":"free"}', b"{}")


def filled(folder: Path, appends: list[tuple[int, list[UsageEvent]]]) -> Store:
    """A store with these events, each append with when it came; all posted."""
    store = Store(folder)
    receipts = [receive(Stamp(ms, n * 1000, 0), events) for n, (ms, events) in enumerate(appends)]
    store.write(partial(log.write_receipts, receipts=receipts))
    post_rest(store)
    return store


def a_month(*, others: int) -> list[tuple[int, list[UsageEvent]]]:
    """An append every hour, with one event of ours and many of others'."""
    return [
        (
            START_MS + hour * HOUR_MS,
            [
                event("acme", value=hour, metadata=PLANS[hour % 3]),
                *(event(f"c{n}", value=n) for n in range(others)),
            ],
        )
        for hour in range(24 * 30)
    ]


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = filled(tmp_path_factory.mktemp("usage") / "data", a_month(others=3))
    yield store
    store.close()


@pytest.mark.parametrize("kind", PeriodType)
def test_windows_are_of_stored_totals(month: Store, kind: PeriodType) -> None:
    """Right in a store that has neither events nor an index of them."""
    query = UsageQuery("acme", kind)
    with month.read() as txn:
        tables = {name: table for name, table in txn._tables.items() if name not in OF_EVENTS}
        blind = Transaction(txn._txn, tables)
        windows = usage.read_windows(blind, PARTS, query, None, ALL)
        live = usage.read_customer_usage(blind, PARTS, "acme", windows[-1].period)
        with pytest.raises(KeyError):
            usage.read_groups(blind, PARTS, query, windows[0].period, None, 1)
    hours = 24 * 30
    assert sum(int(one.by_type["sum"].sum) for one in windows) == hours * (hours - 1) // 2
    assert sum(one.by_type["sum"].count for one in windows) == hours
    assert live.window == windows[-1]


def test_groups_cost_what_they_count(tmp_path: Path, month: Store) -> None:
    """Of one customer's events in the window, whatever others sent and whatever stands outside."""
    crowded = filled(tmp_path / "data", a_month(others=60))
    query = UsageQuery("acme", DAILY, group_by=("plan",))
    day = period_at(DAILY, START_MS + 10 * DAY_MS)
    costs = []
    for store in (month, crowded):
        steps, portion = cost(
            store, lambda txn: usage.read_groups(txn, PARTS, query, day, None, ALL)
        )
        assert sum(totals.count for totals in portion.groups.values()) == 24
        costs.append(steps)
    crowded.close()
    # A step to each block, two to its record, one to read that; the index's own records.
    assert max(costs) <= 24 * 4 + 20, costs


def test_a_portion_reads_no_more_than_it_may(month: Store) -> None:
    """Of a month's events a few at a time; together they are all."""
    query = UsageQuery("acme", YEARLY, filters={"plan": frozenset(["pro"])})
    year = period_at(YEARLY, START_MS)
    groups, before, portions = Groups(), None, 0
    while True:
        ask = partial(_portion, query=query, period=year, before=before, limit=50)
        steps, portion = cost(month, ask)
        assert steps <= 50 * 4 + 20
        groups.add(portion.groups)
        portions += 1
        if (before := portion.before) is None:
            break
    [row] = groups.rows(usage_window(month, year.start_ms))
    assert (row.totals.count, portions) == (240, 24 * 30 // 50 + 1)


def dated_month() -> list[tuple[int, list[UsageEvent]]]:
    """Appends of two types for some days, whose events say that they happened up to a day before
    or some minutes later, or nothing of it.
    """
    chance = Random(6)
    return [
        (
            now_ms := START_MS + number * 20 * MINUTE_MS,
            [
                msgspec.structs.replace(
                    event(chance.choice(("acme", "c1")), chance.choice(("sum", "min"))),
                    timestamp_ms=chance.choice(
                        (None, now_ms - chance.randrange(DAY_MS), now_ms + 4 * MINUTE_MS)
                    ),
                )
                for _ in range(chance.choice((1, 2, 70)))
            ],
        )
        for number in range(150)
    ]


@pytest.mark.parametrize("event_type", [None, "sum"])
@pytest.mark.parametrize("hours", [1, 5, 24, 24 * 30])
def test_the_events_of_hours_are_those_that_happened_then(
    tmp_path: Path, hours: int, event_type: str | None
) -> None:
    """Whenever they were received, the last stored first, from wherever it is gone on."""
    appends = dated_month()
    store = filled(tmp_path / "data", appends)
    first_ms = period_at(HOURLY, START_MS - DAY_MS).start_ms
    with store.read() as txn:
        for start_ms in range(first_ms, START_MS + 3 * DAY_MS, max(hours, 7) * HOUR_MS):
            end_ms = start_ms + hours * HOUR_MS
            wanted = []
            for number, (received_ms, events) in enumerate(appends):
                for offset, one in enumerate(events):
                    happened_ms = one.timestamp_ms or received_ms
                    is_named = one.customer_id == "acme" and event_type in {None, one.event_type}
                    if is_named and start_ms <= happened_ms < end_ms:
                        wanted.append((Stamp(received_ms, number * 1000, 0).id(offset), one))
            wanted.reverse()
            found: list[tuple[bytes, UsageEvent]] = []
            before = None
            while some := list(
                islice(
                    usage.events_of_hours(txn, PARTS, "acme", event_type, start_ms, end_ms, before),
                    100,
                )
            ):
                found += [(stamp_of(one.id).id(), one.event) for one in some]
                before = some[-1].id
            assert found == wanted
    store.close()


def _windows(txn: Transaction, query: UsageQuery) -> list[WindowTotals]:
    return usage.read_windows(txn, PARTS, query, None, ALL)


def _portion(
    txn: Transaction, query: UsageQuery, period: Period, before: bytes | None, limit: int
) -> UsagePortion:
    return usage.read_groups(txn, PARTS, query, period, before, limit)


def usage_window(store: Store, start_ms: int) -> WindowTotals:
    query = UsageQuery("acme", YEARLY, from_ms=start_ms)
    with store.read() as txn:
        return usage.read_windows(txn, PARTS, query, None, 1)[0]


def test_days_without_events_cost_one_step(tmp_path: Path) -> None:
    """Of who comes twice a year not every hour is looked for; nor is one before all customers."""

    async def fill() -> None:
        async with trio.open_nursery() as nursery:
            bench = EngineBench(tmp_path / "data", nursery)
            await bench.start()
            await bench.ledger.append([event("acme", value=1)])
            bench.clock.now_ms += 360 * DAY_MS
            await bench.ledger.append([event("acme", value=2)])
            await close_ended(bench, rules())
            await bench.stop()

    trio.run(fill)
    store = Store(tmp_path / "data")
    for query in (UsageQuery("acme", HOURLY), UsageQuery("acme", HOURLY, "sum", 0)):
        ask = partial(_windows, query=query)
        steps, windows = cost(store, ask)
        assert [int(one.by_type["sum"].sum) for one in windows] == [1, 2]
        assert steps <= 360 + 3 * 24 + 100
    store.close()


# Against the model

STEPS = st.one_of(
    st.tuples(
        st.just("append"),
        st.lists(
            st.tuples(
                st.sampled_from(["acme", "b"]),
                st.sampled_from(["sum", "last"]),
                st.sampled_from(["0.1", "0.2", "-3", "1e20", "9007199254740993"]),
                st.sampled_from(PLANS),
            ),
            min_size=1,
            max_size=5,
        ),
    ),
    st.tuples(st.just("wait"), st.sampled_from([1, HOUR_MS, 5 * HOUR_MS, DAY_MS, 20 * DAY_MS])),
    st.tuples(st.just("wait"), st.sampled_from([-1, -HOUR_MS, -DAY_MS])),
    st.tuples(st.just("close"), st.none()),
    st.tuples(st.just("restart"), st.none()),
)


@settings(max_examples=60)
@given(
    steps=st.lists(STEPS, min_size=1, max_size=14),
    portion=st.integers(1, 5),
    bounds=st.tuples(st.integers(-2, 2), st.integers(0, 3)),
)
def test_usage_is_what_fractions_say(
    steps: list[Any], portion: int, bounds: tuple[int, int]
) -> None:
    """Over random events, closings, clocks that step back and restarts: every window of every
    length, every running total and every group, against sums of fractions over the events.
    """
    trio.run(_compare, steps, portion, bounds)


async def _compare(steps: list[Any], portion: int, bounds: tuple[int, int]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="meterd-usage-"))
    clock = SettableClock(START_MS)
    model = ModelLedger(clock)
    async with trio.open_nursery() as nursery:
        bench = EngineBench(folder / "data", nursery, clock)
        await bench.start()
        for what, given_ in steps:
            match what:
                case "append":
                    events = [event(*fields) for fields in given_]
                    for ledger in (bench.ledger, model):
                        await ledger.append(events)
                case "wait":
                    clock.now_ms += given_
                case "close":
                    await close_ended(bench, rules())
                    while (period := await model.next_to_close()) is not None:
                        if period.end_ms > clock.now_ms:
                            break
                        await model.close(period, rules())
                case "restart":
                    await bench.restart()
        for kind in PeriodType:
            now = period_at(kind, START_MS)
            from_ms = period_at(kind, now.start_ms + bounds[0] * (now.end_ms - now.start_ms))
            to_ms = period_at(kind, from_ms.start_ms + bounds[1] * 40 * HOUR_MS).end_ms
            for query in (
                UsageQuery("acme", kind),
                UsageQuery("acme", kind, "last", from_ms.start_ms, to_ms, ("plan",)),
            ):
                asked = partial(_all_usage, query=query, portion=portion)
                assert await asked(bench.ledger) == await asked(model)
        assert await bench.ledger.customers(limit=9) == await model.customers(limit=9)
        await bench.stop()
    shutil.rmtree(folder)


async def _all_usage(ledger: Ledger, query: UsageQuery, portion: int) -> list[object]:
    windows = await ledger.usage_windows(query, limit=ALL)
    found: list[object] = [(_shown(window)) for window in windows]
    live = await ledger.customer_usage(query.customer_id, query.window)
    found.append((live.first_seen_ms, _shown(live.window)))
    for window in windows:
        groups, before = Groups(), None
        while True:
            some = await ledger.usage_groups(query, window.period, limit=portion, before=before)
            groups.add(some.groups)
            if (before := some.before) is None:
                break
        rows = groups.rows(window)
        found.append([(row.event_type, row.group, read(row.totals)) for row in rows])
        # What is in a group is in the window.
        assert sum(row.totals.count for row in rows) == sum(
            totals.count for totals in window.by_type.values()
        )
    return found


def _shown(window: WindowTotals) -> object:
    by_type = {name: read(totals) for name, totals in window.by_type.items()}
    return window.period, window.closed, by_type
