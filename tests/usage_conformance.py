"""What every engine must keep: who has usage, totals that run, windows, groups."""

from __future__ import annotations

from decimal import Context
from typing import TYPE_CHECKING

import pytest

from meterd.domain.operations import Operation
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.usage import Customer, Groups, UsageQuery
from tests.ledger_bench import ALL, START_MS, append_at, at, close_ended, event, rules

if TYPE_CHECKING:
    from meterd.domain.totals import Totals
    from meterd.domain.usage import GroupKey, WindowTotals
    from tests.ledger_bench import Bench

HOURLY, DAILY, WEEKLY, MONTHLY, YEARLY = PeriodType


_DIGITS = Context(prec=1000)


def read(totals: Totals) -> dict[str, str]:
    """All seven operations, as text: the same for the same number."""
    return {
        str(operation): f"{totals.read(operation).normalize(_DIGITS):f}" for operation in Operation
    }


def sums(windows: list[WindowTotals]) -> dict[str, str]:
    """Of event type ``sum``, by the window's key: open ones with a star."""
    return {
        f"{one.period.key}{'' if one.closed else '*'}": f"{one.by_type['sum'].sum:f}"
        for one in windows
    }


async def windows_of(bench: Bench, query: UsageQuery) -> list[WindowTotals]:
    return await bench.ledger.usage_windows(query, limit=ALL)


async def groups_of(
    bench: Bench, query: UsageQuery, kind: PeriodType, portion: int = ALL
) -> dict[GroupKey, dict[str, str]]:
    """What the window of that kind comes to in which the clock is now."""
    window = (await windows_of(bench, query))[-1]
    assert window.period == period_at(kind, bench.clock.now_ms)
    groups, before = Groups(), None
    while True:
        found = await bench.ledger.usage_groups(query, window.period, limit=portion, before=before)
        groups.add(found.groups)
        if (before := found.before) is None:
            return {(row.event_type, row.group): read(row.totals) for row in groups.rows(window)}


class UsageConformance:
    async def test_customers_in_the_order_of_their_ids(self, bench: Bench) -> None:
        """Each once, with when the first of its events was received; in pages of any size."""
        names = sorted([f"c{number}" for number in range(20)] + ["", "Ærø", "a b", "\U0001f600"])
        for number, name in enumerate(names[1:]):
            bench.clock.now_ms = START_MS + number
            await bench.ledger.append([event(name), event(names[1 + number // 2])])
        expected = [Customer(name, START_MS + number) for number, name in enumerate(names[1:])]
        assert await bench.ledger.customers(limit=ALL) == expected
        for size in (1, 7, 23):
            found: list[Customer] = []
            while page := await bench.ledger.customers(
                limit=size, after=found[-1].id if found else None
            ):
                assert len(page) <= size
                found += page
            assert found == expected
        await bench.restart()
        behind = [customer for customer in expected if customer.id > "c1"]
        assert await bench.ledger.customers(limit=2, after="c1") == behind[:2]

    async def test_nobody(self, bench: Bench) -> None:
        """Nobody is listed, and has used nothing; whatever is asked for."""
        assert await bench.ledger.customers(limit=ALL) == []
        await bench.ledger.append([event()])
        for name in ("nobody", "acm", "acme\x00", "", "x" * 600):
            usage = await bench.ledger.customer_usage(name, MONTHLY)
            assert (usage.first_seen_ms, usage.window.by_type) == (None, {})
            assert usage.window.period.key == "202601"
            assert await windows_of(bench, UsageQuery(name, HOURLY)) == []
            found = await bench.ledger.usage_groups(
                UsageQuery(name, HOURLY, group_by=("x",)), usage.window.period, limit=1
            )
            assert (found.groups, found.before) == ({}, None)

    async def test_an_acknowledged_event_is_in_every_running_total(self, bench: Bench) -> None:
        """At once, in all five periods, over closed days, closed hours and the running hour."""
        await append_at(bench, "2026-01-12T09:00", value=1)
        await append_at(bench, "2026-01-14T10:00", value=2)
        await close_ended(bench, rules(HOURLY))
        for number, value in enumerate((4, 8, 16)):
            bench.clock.now_ms = START_MS + number
            await bench.ledger.append([event(value=value), event("b", value=1000)])
            for kind, below in zip(PeriodType, (0, 2, 3, 3, 3), strict=True):
                usage = await bench.ledger.customer_usage("acme", kind)
                assert usage.first_seen_ms == at("2026-01-12T09:00")
                assert usage.window.period == period_at(kind, START_MS)
                assert not usage.window.closed
                assert usage.window.by_type["sum"].sum == below + 2 * value - 4

    async def test_all_seven_operations_of_every_type(self, bench: Bench) -> None:
        """Whatever is configured: all that totals carry."""
        await bench.ledger.append(
            [event(event_type=kind, value=n) for n in ("0.1", "1.2", "-1") for kind in ("x", "y")]
        )
        usage = await bench.ledger.customer_usage("acme", HOURLY)
        assert list(map(read, usage.window.by_type.values())) == 2 * [
            {
                "sum": "0.3",
                "avg": "0.1",
                "min": "-1",
                "max": "1.2",
                "count": "3",
                "first": "0.1",
                "last": "-1",
            }
        ]

    async def test_a_period_at_another_time(self, bench: Bench) -> None:
        """Closed or open, with or without events, before, behind and between them."""
        await append_at(bench, "2026-01-14T09:00", value=1)
        await append_at(bench, "2026-01-14T11:15", value=2)
        await close_ended(bench, rules(HOURLY))
        found = {}
        for hour in ("08", "09", "10", "11", "12"):
            moment = at(f"2026-01-14T{hour}:59")
            window = (await bench.ledger.customer_usage("acme", HOURLY, at_ms=moment)).window
            found[hour] = ([f"{one.sum}" for one in window.by_type.values()], window.closed)
        assert found == {
            "08": ([], True),
            "09": (["1"], True),
            "10": ([], False),
            "11": (["2"], False),
            "12": ([], False),
        }

    async def test_windows_of_every_length(self, bench: Bench) -> None:
        """The earliest first; those without events are not there; what is closed says so."""
        for number, instant in enumerate(
            ("2025-12-31T23:59", "2026-01-01T00:00", "2026-01-04T23:30", "2026-01-05T00:10")
        ):
            await append_at(bench, instant, value=10**number)
        await close_ended(bench, rules(HOURLY))
        await append_at(bench, "2026-01-05T00:10", "b", value=7)
        expected = {
            HOURLY: {"2025123123": "1", "2026010100": "10", "2026010423": "100"}
            | {"2026010500*": "1000"},
            DAILY: {"20251231": "1", "20260101": "10", "20260104": "100", "20260105*": "1000"},
            WEEKLY: {"202601": "111", "202602*": "1000"},
            MONTHLY: {"202512": "1", "202601*": "1110"},
            YEARLY: {"2025": "1", "2026*": "1110"},
        }
        for kind, by_key in expected.items():
            assert sums(await windows_of(bench, UsageQuery("acme", kind))) == by_key
        await bench.restart()
        for kind, by_key in expected.items():
            assert sums(await windows_of(bench, UsageQuery("acme", kind))) == by_key

    async def test_windows_of_a_range_and_a_type(self, bench: Bench) -> None:
        """``from`` is in, ``to`` is out; windows without events of the type are not there."""
        for hour in range(6):
            bench.clock.now_ms = START_MS + hour * HOUR_MS
            await bench.ledger.append([event(event_type="other")])
            if hour != 3:
                await bench.ledger.append([event(value=hour)])
        start_ms = period_at(HOURLY, START_MS).start_ms
        for first in (None, *range(-2, 8)):
            for end in (None, *range(-1, 8)):
                bounds = (
                    None if first is None else start_ms + first * HOUR_MS,
                    None if end is None else start_ms + end * HOUR_MS,
                )
                query = UsageQuery("acme", HOURLY, "sum", *bounds)
                found = await windows_of(bench, query)
                assert [int(one.by_type["sum"].sum) for one in found] == [
                    hour
                    for hour in (0, 1, 2, 4, 5)
                    if (first is None or hour >= first) and (end is None or hour < end)
                ]
                assert all(list(one.by_type) == ["sum"] for one in found)
        assert await windows_of(bench, UsageQuery("acme", HOURLY, "none")) == []

    async def test_pages_visit_each_window_once(self, bench: Bench) -> None:
        """Of any size, while others come behind."""
        for hour in (0, 1, 5, 30):
            bench.clock.now_ms = START_MS + hour * HOUR_MS
            await bench.ledger.append([event(value=hour)])
        query = UsageQuery("acme", HOURLY)
        whole = await windows_of(bench, query)
        for size in range(1, 6):
            found: list[WindowTotals] = []
            after_ms = None
            while page := await bench.ledger.usage_windows(query, limit=size, after_ms=after_ms):
                assert len(page) <= size
                found += page
                after_ms = found[-1].period.start_ms
            assert sums(found) == sums(whole)

    @pytest.mark.parametrize("portion", [1, 2, 3, ALL])
    async def test_groups(self, bench: Bench, portion: int) -> None:
        """By the texts of the named metadata, in each type; null and what is missing are one."""
        sent = [
            ("sum", 1, b'{"plan":"pro","region":"eu"}'),
            ("sum", 2, b'{"plan":"free"}'),
            ("sum", 4, b'{"region":"eu", "plan":"pro"}'),
            ("max", 8, b'{"plan":"pro"}'),
            ("sum", 16, b"{}"),
            ("sum", 32, b'{"plan":null}'),
            ("sum", 64, b'{"plan":""}'),
        ]
        await bench.ledger.append([event("b", metadata=b'{"plan":"pro"}')])
        for kind, value, metadata in sent:
            await bench.ledger.append([event("acme", kind, value, metadata)])
        found = await groups_of(
            bench, UsageQuery("acme", MONTHLY, group_by=("plan",)), MONTHLY, portion
        )
        assert {key: (one["sum"], one["first"], one["last"]) for key, one in found.items()} == {
            ("max", ("pro",)): ("8", "8", "8"),
            ("sum", (None,)): ("48", "16", "32"),
            ("sum", ("",)): ("64", "64", "64"),
            ("sum", ("free",)): ("2", "2", "2"),
            ("sum", ("pro",)): ("5", "1", "4"),
        }
        assert list(found) == sorted(found, key=lambda key: (key[0], key[1][0] or ""))
        both = await groups_of(
            bench, UsageQuery("acme", DAILY, "sum", group_by=("region", "plan")), DAILY, portion
        )
        assert {key: one["count"] for key, one in both.items()} == {
            ("sum", (None, None)): "2",
            ("sum", (None, "")): "1",
            ("sum", (None, "free")): "1",
            ("sum", ("eu", "pro")): "2",
        }

    async def test_filters(self, bench: Bench) -> None:
        """Any of one name's texts, of every name; a filter alone groups nothing."""
        for number in range(24):
            text = f'{{"plan":"p{number % 3}","size":{number % 4}}}'
            await bench.ledger.append([event(value=2**number, metadata=text.encode())])
        for filters, expected in (
            ({"plan": {"p1"}}, {n for n in range(24) if n % 3 == 1}),
            ({"plan": {"p1", "p2"}}, {n for n in range(24) if n % 3}),
            ({"plan": {"p1"}, "size": {"0", "3"}}, {n for n in range(24) if n % 12 in {4, 7}}),
            ({"plan": {"p9"}}, set()),
            ({"other": {"p1"}}, set()),
        ):
            query = UsageQuery(
                "acme", HOURLY, filters={name: frozenset(texts) for name, texts in filters.items()}
            )
            found = await groups_of(bench, query, HOURLY, 5)
            total = sum(2**n for n in expected)
            assert [one["sum"] for one in found.values()] == ([str(total)] if expected else [])

    async def test_groups_end_where_windows_do(self, bench: Bench) -> None:
        """To the millisecond."""
        for value, instant in enumerate(("11:00", "11:59:59.999", "12:00", "12:59:59.999")):
            await append_at(bench, f"2026-01-14T{instant}", value=10**value)
        query = UsageQuery("acme", HOURLY, group_by=("x",))
        found = []
        for window in await windows_of(bench, query):
            portion = await bench.ledger.usage_groups(query, window.period, limit=ALL)
            [counted] = portion.groups.values()
            assert counted.sum == window.by_type["sum"].sum
            found.append(int(counted.sum))
        assert found == [11, 1100]

    async def test_events_that_come_amid_the_portions(self, bench: Bench) -> None:
        """Those that were there are counted once; those that come are not counted halfway."""
        await bench.ledger.append([event(value=2**n) for n in range(10)])
        query = UsageQuery("acme", HOURLY, group_by=("x",))
        period = period_at(HOURLY, START_MS)
        total, before = 0, None
        while True:
            found = await bench.ledger.usage_groups(query, period, limit=3, before=before)
            total += sum(int(one.sum) for one in found.groups.values())
            await bench.ledger.append([event(value=10_000)])
            if (before := found.before) is None:
                break
        assert total == 2**10 - 1
