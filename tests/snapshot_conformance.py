"""What every engine must keep: snapshots of the periods that run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.domain.periods import PeriodType
from meterd.ledger import Closed, SnapshotCounts
from tests.ledger_bench import (
    START_MS,
    append_at,
    at,
    close_ended,
    event,
    figures,
    published,
    rules,
)

if TYPE_CHECKING:
    from tests.ledger_bench import Bench

HOURLY, DAILY, WEEKLY, _, YEARLY = PeriodType
NEXT_HOUR_MS = at("2026-01-14T12:00")
NEXT_YEAR_MS = at("2027-01-04T00:00")


class SnapshotConformance:
    async def test_a_snapshot_shows_what_runs(self, bench: Bench) -> None:
        """Every published running period, over closed days, closed hours and the running hour."""
        await append_at(bench, "2026-01-12T09:00", value=1)
        await append_at(bench, "2026-01-14T10:00", value=2)
        await append_at(bench, "2026-01-14T11:15", value=4)
        await append_at(bench, "2026-01-14T11:15", "b", value=8)
        await close_ended(bench, rules(HOURLY))
        counts = await bench.ledger.snapshot(rules(HOURLY, DAILY, WEEKLY, YEARLY))
        assert counts == SnapshotCounts(created=8, updated=0, customers=2, events=4)
        opened = [one.aggregation for one in await published(bench) if not one.aggregation.closed]
        assert {one.id: int(one.figures["sum"].value) for one in opened} == {
            "acme_hourly_2026011411": 4,
            "b_hourly_2026011411": 8,
            "acme_daily_20260114": 6,
            "b_daily_20260114": 8,
            "acme_weekly_202603": 7,
            "b_weekly_202603": 8,
            "acme_yearly_2026": 7,
            "b_yearly_2026": 8,
        }

    async def test_a_snapshot_is_made_anew_and_then_final(self, bench: Bench) -> None:
        """When it came to be stays; totals, time and state are those of the last look."""
        await bench.ledger.append([event(value=1)])
        first = await bench.ledger.snapshot(rules(HOURLY, DAILY))
        bench.clock.now_ms += 1000
        await bench.ledger.append([event(value=2), event("b", value=5)])
        second = await bench.ledger.snapshot(rules(HOURLY, DAILY))
        assert (first.created, first.updated) == (2, 0)
        assert (second.created, second.updated) == (2, 2)
        closed = await close_ended(bench, rules(HOURLY, DAILY), clock_ms=NEXT_HOUR_MS)
        assert [counts for _, counts in closed] == [Closed(created=0, updated=2)]
        found = {one.aggregation.id: one.aggregation for one in await published(bench)}
        hourly, daily = found["acme_hourly_2026011411"], found["acme_daily_20260114"]
        assert (hourly.closed, hourly.created_ms, hourly.computed_ms) == (
            True,
            START_MS,
            NEXT_HOUR_MS,
        )
        assert (daily.closed, daily.created_ms, daily.computed_ms) == (
            False,
            START_MS,
            START_MS + 1000,
        )
        assert await figures(bench, "acme_hourly_2026011411") == {"sum": "3"}

    async def test_a_snapshot_delivers_nothing_and_stops_nothing(self, bench: Bench) -> None:
        """The webhook comes with the close, once."""
        await bench.ledger.append([event()])
        await bench.ledger.snapshot(rules())
        assert bench.ledger.deliveries_made() == 0
        assert all(one.deliveries == () for one in await published(bench))
        await close_ended(bench, rules(), clock_ms=NEXT_YEAR_MS)
        assert bench.ledger.deliveries_made() == 5
        assert all(len(one.deliveries) == 1 for one in await published(bench))

    async def test_a_snapshot_of_nothing_running(self, bench: Bench) -> None:
        """It counts what is known, and writes nothing."""
        assert await bench.ledger.snapshot(rules()) == SnapshotCounts(0, 0, 0, 0)
        await bench.ledger.append([event()] * 3)
        await close_ended(bench, rules(HOURLY), clock_ms=NEXT_YEAR_MS)
        assert await bench.ledger.snapshot(rules()) == SnapshotCounts(0, 0, 1, 3)

    async def test_a_snapshot_holds_what_a_clock_has_left_ahead(self, bench: Bench) -> None:
        """Time stands still meanwhile: the hour that the clock stepped back out of goes on."""
        await append_at(bench, "2026-01-14T12:00", value=1)
        await append_at(bench, "2026-01-14T12:00", "b", value=4)
        await append_at(bench, "2026-01-14T11:59", value=2)
        await bench.ledger.snapshot(rules())
        assert await figures(bench, "acme_hourly_2026011412") == {"sum": "3"}
        assert await figures(bench, "acme_daily_20260114") == {"sum": "3"}
        assert await figures(bench, "acme_weekly_202603") == {"sum": "3"}
        assert await figures(bench, "b_daily_20260114") == {"sum": "4"}

    async def test_a_snapshot_that_closes_to_nothing_is_withdrawn(self, bench: Bench) -> None:
        """No period that has ended is shown as open for ever."""
        await bench.ledger.append([event()])
        await bench.ledger.snapshot(rules(HOURLY, DAILY))
        await close_ended(bench, rules(DAILY), clock_ms=NEXT_YEAR_MS)
        assert [one.aggregation.period_type for one in await published(bench)] == [DAILY]
        assert all(one.aggregation.closed for one in await published(bench))

    async def test_a_restart_goes_on_with_totals_and_snapshots(self, bench: Bench) -> None:
        """What was counted before and after stands together; what was created stays so."""
        await bench.ledger.append([event(value=1)])
        await bench.ledger.snapshot(rules())
        await bench.restart()
        bench.clock.now_ms += 1
        await bench.ledger.append([event(value=2)])
        counts = await bench.ledger.snapshot(rules())
        assert counts == SnapshotCounts(created=0, updated=5, customers=1, events=2)
        assert await figures(bench, "acme_yearly_2026") == {"sum": "3"}
