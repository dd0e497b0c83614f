"""What every engine must keep: periods that close, and how their aggregations are read."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import trio

from meterd.domain.operations import Operation
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType, period_at
from meterd.ledger import AggregationQuery, Closed
from tests.ledger_bench import (
    EVERY_AGGREGATION,
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

if TYPE_CHECKING:
    from meterd.ledger import AggregationPlace, DeliveredAggregation
    from tests.ledger_bench import Bench

HOURLY, DAILY, WEEKLY, MONTHLY, YEARLY = PeriodType
NEXT_HOUR_MS = at("2026-01-14T12:00")
NEXT_YEAR_MS = at("2027-01-04T00:00")  # the first week of 2027, which began in 2026, is over too


def ids(found: list[DeliveredAggregation]) -> list[str]:
    return [one.aggregation.id for one in found]


class ClosingConformance:
    async def test_periods_close_by_their_end_then_finest_first(self, bench: Bench) -> None:
        """At the end of 2028 an hour, a day, a week, a month and a year end together."""
        await append_at(bench, "2028-12-30T10:00")
        await append_at(bench, "2028-12-31T09:30", "b")
        await append_at(bench, "2028-12-31T23:59", "c")
        await append_at(bench, "2029-01-01T00:00", "d")
        closed = await close_ended(bench, rules(), clock_ms=at("2029-01-01T00:30"))
        assert [(str(period.type), period.key) for period, _ in closed] == [
            ("hourly", "2028123010"),
            ("daily", "20281230"),
            ("hourly", "2028123109"),
            ("hourly", "2028123123"),
            ("daily", "20281231"),
            ("weekly", "202852"),
            ("monthly", "202812"),
            ("yearly", "2028"),
        ]
        assert [counts.created for _, counts in closed] == [1, 1, 1, 1, 2, 3, 3, 3]
        following = await bench.ledger.next_to_close()
        assert following is not None
        assert following.key == "2029010100"

    async def test_nothing_stored_has_nothing_to_close(self, bench: Bench) -> None:
        """An empty ledger, and one in which all is closed."""
        assert await bench.ledger.next_to_close() is None
        await bench.ledger.append([event()])
        await close_ended(bench, rules(), clock_ms=NEXT_YEAR_MS)
        assert await bench.ledger.next_to_close() is None

    @pytest.mark.parametrize("operation", Operation)
    async def test_totals_are_exact_in_every_period(
        self, bench: Bench, operation: Operation
    ) -> None:
        """Hours make days, days make the rest, and no operation loses a digit or an order."""
        for instant, values in (
            ("2026-01-14T11:00", ("0.1", "0.2")),
            ("2026-01-14T11:59", ("9007199254740993",)),
            ("2026-01-14T13:00", ("-0.3", "1e-30")),
            ("2026-01-15T00:00", ("7",)),
        ):
            bench.clock.now_ms = at(instant)
            await bench.ledger.append([event("c", operation, value) for value in values])
        expected = {
            Operation.SUM: ("9007199254740993.3", "9007199254741000." + "0" * 29 + "1"),
            Operation.AVG: (
                "3002399751580331.1",
                "1501199875790166.666666666666666667",
            ),
            Operation.MIN: ("0.1", "-0.3"),
            Operation.MAX: ("9007199254740993", "9007199254740993"),
            Operation.COUNT: ("3", "6"),
            Operation.FIRST: ("0.1", "0.1"),
            Operation.LAST: ("9007199254740993", "7"),
        }[operation]
        await close_ended(bench, rules(), clock_ms=NEXT_YEAR_MS)
        (hourly,) = (await figures(bench, "c_hourly_2026011411")).values()
        (yearly,) = (await figures(bench, "c_yearly_2026")).values()
        assert (hourly, yearly) == expected
        assert await figures(bench, "c_weekly_202603") == {str(operation): yearly}
        assert await figures(bench, "c_monthly_202601") == {str(operation): yearly}

    async def test_closing_twice_changes_nothing(self, bench: Bench) -> None:
        """Neither the last period again, nor an earlier one when a later one is closed."""
        await append_at(bench, "2026-01-14T10:00")
        await append_at(bench, "2026-01-14T11:00")
        closed = await close_ended(bench, rules(), clock_ms=NEXT_HOUR_MS)
        before = await published(bench)
        made = bench.ledger.deliveries_made()
        bench.clock.now_ms += HOUR_MS
        for period, _ in reversed(closed):
            assert await bench.ledger.close(period, rules()) == Closed(0, 0)
            following = await bench.ledger.next_to_close()
            assert following is not None
            assert following.key == "20260114", "what is closed is not to be closed"
        assert await published(bench) == before
        assert bench.ledger.deliveries_made() == made

    async def test_two_closers_at_once_close_once(self, bench: Bench) -> None:
        """A trigger and the clock may close the same periods at the same time."""
        for hour in ("2026-01-14T10:00", "2026-01-14T11:00"):
            for customer in ("a", "b", "c"):
                await append_at(bench, hour, customer)
        bench.clock.now_ms = NEXT_YEAR_MS
        counts: list[int] = []

        async def close() -> None:
            closed = await close_ended(bench, rules())
            counts.append(sum(found.created for _, found in closed))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(close)
        assert sum(counts) == 3 * 6
        assert bench.ledger.deliveries_made() == 3 * 6
        assert await figures(bench, "b_yearly_2026") == {"sum": "2"}

    async def test_only_published_periods_and_configured_types_show(self, bench: Bench) -> None:
        """The others close silently: no aggregation, no delivery, and never again."""
        await bench.ledger.append([event(event_type="sum"), event(event_type="count")])
        await bench.ledger.append([event("b", "count")])
        by = rules(DAILY, YEARLY, operations={"sum": Operation.SUM})
        closed = await close_ended(bench, by, clock_ms=NEXT_YEAR_MS)
        assert [counts.created for _, counts in closed] == [0, 1, 0, 0, 1]
        assert ids(await published(bench)) == ["acme_daily_20260114", "acme_yearly_2026"]
        assert await figures(bench, "acme_daily_20260114") == {"sum": "1"}
        assert bench.ledger.deliveries_made() == 2
        assert await bench.ledger.next_to_close() is None

    async def test_a_period_configured_later_is_complete(self, bench: Bench) -> None:
        """Hours and days that closed unseen are in the week that is published when it ends."""
        await append_at(bench, "2026-01-12T00:00", value=1)
        await append_at(bench, "2026-01-14T10:00", value=2)
        await close_ended(bench, rules(HOURLY), clock_ms=at("2026-01-15T12:00"))
        await append_at(bench, "2026-01-15T12:00", value=4)
        await close_ended(bench, rules(WEEKLY), clock_ms=at("2026-01-19T00:00"))
        assert await figures(bench, "acme_weekly_202603") == {"sum": "7"}

    async def test_an_operation_may_change_in_the_middle(self, bench: Bench) -> None:
        """A period is read by the operation that is configured when it closes, over all of it."""
        for value in (3, 8, 4):
            await bench.ledger.append([event(value=value)])
        await close_ended(bench, rules(HOURLY), clock_ms=NEXT_HOUR_MS)
        by = rules(DAILY, operations={"sum": Operation.MAX})
        await close_ended(bench, by, clock_ms=NEXT_HOUR_MS + DAY_MS)
        assert await figures(bench, "acme_hourly_2026011411") == {"sum": "15"}
        assert await figures(bench, "acme_daily_20260114") == {"sum": "8"}

    async def test_a_closed_period_takes_no_more_events(self, bench: Bench) -> None:
        """A clock that steps back dates events behind what is closed, also after a restart."""
        await append_at(bench, "2026-01-14T11:15")
        await close_ended(bench, rules(), clock_ms=at("2026-01-15T00:30"))
        for _ in range(2):
            await append_at(bench, "2026-01-14T10:00")
            newest, *_ = await stored(bench)
            assert newest.received_ms == at("2026-01-15T00:00")
            await bench.restart()
        await close_ended(bench, rules(), clock_ms=NEXT_YEAR_MS)
        assert await figures(bench, "acme_daily_20260114") == {"sum": "1"}
        assert await figures(bench, "acme_daily_20260115") == {"sum": "2"}
        assert await figures(bench, "acme_yearly_2026") == {"sum": "3"}

    async def test_events_that_come_while_a_period_closes_are_in_one(self, bench: Bench) -> None:
        """Each acknowledged event is in exactly one hour, and in all longer periods."""
        acknowledged = 0

        async def append() -> None:
            nonlocal acknowledged
            for number in range(20):
                await bench.ledger.append([event(f"c{number % 5}"), event("all")])
                acknowledged += 2

        async def close() -> None:
            for hours in range(4):
                await close_ended(bench, rules(), clock_ms=START_MS + hours * HOUR_MS)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(append)
            nursery.start_soon(close)
        await close_ended(bench, rules(), clock_ms=NEXT_YEAR_MS)
        log = await stored(bench)
        assert len(log) == acknowledged == 400
        for one in (found.aggregation for found in await published(bench)):
            assert one.event_count == sum(
                one.customer_id == of.event.customer_id
                and period_at(one.period_type, of.received_ms) == one.period
                for of in log
            ), one.id

    async def test_aggregations_stand_newest_first_then_by_customer_then_shortest_first(
        self, bench: Bench
    ) -> None:
        """By start of period; customers in the byte order of their ids."""
        for instant in ("2026-01-01T00:10", "2026-01-01T01:10", "2026-02-01T00:10"):
            for customer in ("acme", "b", "Ærø", "acme2"):
                await append_at(bench, instant, customer)
        await close_ended(bench, rules(), clock_ms=NEXT_YEAR_MS)
        whole = await published(bench)
        assert len(whole) == 4 * (3 + 2 + 2 + 2 + 1)
        assert ids(whole)[:9] == [
            *("acme_hourly_2026020100", "acme_daily_20260201", "acme_monthly_202602"),
            *("acme2_hourly_2026020100", "acme2_daily_20260201", "acme2_monthly_202602"),
            *("b_hourly_2026020100", "b_daily_20260201", "b_monthly_202602"),
        ]

    async def test_every_combination_of_aggregation_filters(self, bench: Bench) -> None:
        """Customer, period type and both inclusive bounds, alone and together."""
        for instant in ("2026-01-01T00:10", "2026-01-01T01:10", "2026-02-01T00:10"):
            for name in ("acme", "b", "Ærø", "acme2"):
                await append_at(bench, instant, name)
        await close_ended(bench, rules(), clock_ms=NEXT_YEAR_MS)
        whole = await published(bench)
        starts = sorted({one.aggregation.start_ms for one in whole})
        bounds = (None, starts[1], starts[1] + 1, starts[-1], starts[-1] + 1, -1)
        for customer, kind, from_ms, to_ms in itertools.product(
            (None, "acme", "Ærø", "acm"), (None, *PeriodType), bounds, bounds
        ):
            query = AggregationQuery(customer, kind, from_ms, to_ms)
            expected = [
                one
                for one in whole
                if customer in {None, one.aggregation.customer_id}
                and kind in {None, one.aggregation.period_type}
                and (from_ms is None or one.aggregation.start_ms >= from_ms)
                and (to_ms is None or one.aggregation.start_ms <= to_ms)
            ]
            assert await published(bench, query) == expected, query

    @pytest.mark.parametrize(
        "query",
        [
            EVERY_AGGREGATION,
            AggregationQuery(customer_id="b"),
            AggregationQuery(period_type=DAILY),
            AggregationQuery(from_ms=at("2026-01-01T00:00"), to_ms=at("2026-01-01T01:00")),
            AggregationQuery(customer_id="nobody"),
        ],
    )
    async def test_pages_visit_each_aggregation_once(
        self, bench: Bench, query: AggregationQuery
    ) -> None:
        """For any size of page."""
        for instant in ("2026-01-01T00:10", "2026-01-01T01:10", "2026-02-01T00:10"):
            for customer in ("acme", "b", "acme2"):
                await append_at(bench, instant, customer)
        await close_ended(bench, rules(), clock_ms=NEXT_YEAR_MS)
        whole = await published(bench, query)
        for size in range(1, len(whole) + 2):
            visited: list[DeliveredAggregation] = []
            after: AggregationPlace | None = None
            for _ in range(len(whole) + 1):
                visited += await bench.ledger.aggregations(query, limit=size, after=after)
                after = await bench.ledger.aggregations_page_end(query, limit=size, after=after)
                if after is None:
                    break
            assert visited == whole, size
