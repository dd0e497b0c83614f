"""What every engine must keep of where ``watching.Watching`` begins to look: nothing that was not
looked at is forgotten, whatever closed, changed or crashed meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meterd.domain.periods import PeriodType
from tests.ledger_bench import append_at, at, close_ended, rules
from tests.thresholds_conformance import DAY, Watcher, alert

if TYPE_CHECKING:
    from tests.thresholds_conformance import ThresholdBench


async def close_ended_by(bench: ThresholdBench, instant_ms: int) -> None:
    while (period := await bench.ledger.next_to_close()) and period.end_ms <= instant_ms:
        await bench.ledger.close(period, rules(*DAY))


class ThresholdLooksConformance:
    @pytest.mark.parametrize("is_closed", [False, True])
    async def test_the_last_hour_before_a_crash_is_looked_at(
        self, bench: ThresholdBench, *, is_closed: bool
    ) -> None:
        """Its end may have come, and its close, before anybody could tell."""
        await append_at(bench, "2026-01-14T10:59", value=3)
        bench.clock.now_ms = at("2026-01-14T11:00")
        if is_closed:
            await close_ended(bench, rules(*DAY))
        await bench.restart()
        bench.clock.now_ms = at("2026-01-16T07:00")
        watcher = Watcher(bench, alert(3, period=PeriodType.HOURLY), alert(3))
        await close_ended(bench, rules(*DAY))
        assert sorted(await watcher.at_all()) == ["acme 20260114 sum 3", "acme 2026011410 sum 3"]

    async def test_what_a_start_closed_and_did_not_look_at_the_next_one_looks_at(
        self, bench: ThresholdBench
    ) -> None:
        """However much it closed, and the one behind it; when all was looked at, that is over."""
        hourly = alert(3, period=PeriodType.HOURLY)
        for hour in (9, 10, 11, 12):
            await append_at(bench, f"2026-01-14T{hour:02}:30", value=3)
        for hour in (11, 12):
            await bench.restart()
            Watcher(bench, hourly)
            bench.clock.now_ms = at("2026-01-14T12:59")
            await close_ended_by(bench, at(f"2026-01-14T{hour}:00"))
        await bench.restart()
        watcher = Watcher(bench, hourly)
        hours = [f"acme 20260114{hour:02} sum" for hour in (9, 10, 11, 12)]
        assert sorted(await watcher.at_all()) == [f"{hour} 3" for hour in hours]
        assert await watcher.at_changed() == []
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-14T13:01"))
        await bench.restart()
        again = Watcher(bench, alert(2, period=PeriodType.HOURLY))
        assert sorted(await again.at_all()) == [f"{hour} 2" for hour in hours[2:]]

    async def test_who_begins_to_watch_looks_at_what_runs_or_closed_last(
        self, bench: ThresholdBench
    ) -> None:
        """Also where somebody did before: without alerts nobody is looked at, and nothing waits."""
        hourly = alert(3, period=PeriodType.HOURLY)
        Watcher(bench, hourly)
        for hour in (9, 10, 11, 12):
            await append_at(bench, f"2026-01-14T{hour:02}:30", value=3)
            await close_ended(bench, rules(*DAY))
        await bench.restart()
        bench.ledger.watch(None)
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-14T13:01"))
        await bench.restart()
        assert await Watcher(bench, hourly).at_all() == ["acme 2026011412 sum 3"]

    @pytest.mark.parametrize("is_taken", [False, True])
    async def test_what_was_not_looked_at_is_not_forgotten(
        self, bench: ThresholdBench, *, is_taken: bool
    ) -> None:
        """Alerts change while an hour waits to be looked at, or is; two have closed meanwhile."""
        hourly = alert(2, period=PeriodType.HOURLY)
        Watcher(bench, hourly)
        await append_at(bench, "2026-01-14T11:15", value=3)
        await bench.ledger.customer_usage("acme", PeriodType.HOURLY)
        if is_taken:
            assert await bench.ledger.changed(limit=1)
        await append_at(bench, "2026-01-14T12:15")
        assert await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-14T13:05"))
        again = Watcher(bench, hourly, alert(9))
        assert await again.at_all() == ["acme 2026011411 sum 2"]

    async def test_what_was_looked_at_is_over(self, bench: ThresholdBench) -> None:
        """A new threshold is not told of an hour of which nothing waits, and another has closed."""
        watcher = Watcher(bench, alert(5, period=PeriodType.HOURLY))
        assert await watcher.at_all() == []
        await append_at(bench, "2026-01-14T11:15", value=3)
        await append_at(bench, "2026-01-14T12:15", value=3)
        assert await watcher.at_changed() == []
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-14T13:05"))
        again = Watcher(bench, alert(2, period=PeriodType.HOURLY))
        assert await again.at_all() == ["acme 2026011412 sum 2"]
