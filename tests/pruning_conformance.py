"""What every engine must keep: events that are deleted are gone, and nothing that was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.admission import Admission
from meterd.domain.errors import PrunedError
from meterd.domain.idempotency import Recorded
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType, period_at
from meterd.domain.usage import UsageQuery
from meterd.ledger import EventQuery
from tests.lateness_conformance import happened
from tests.ledger_bench import (
    ALL,
    EVERY_EVENT,
    at,
    close_ended,
    event,
    published,
    rules,
    stored,
)
from tests.voids_conformance import void

if TYPE_CHECKING:
    from tests.ledger_bench import Bench

ALL_PERIODS = tuple(PeriodType)
HOUR = at("2026-01-14T11:00")
# When the last period ends that has an event of START_MS in it.
YEAR_END = at("2027-01-01T00:00")
LATER = at("2027-06-01T00:00")


_ANY = Admission(past_ms=3650 * DAY_MS, future_ms=DAY_MS)


async def revise(bench: Bench) -> None:
    """All that is late; asking for the next to close has what was counted posted."""
    await bench.ledger.next_to_close()
    await bench.ledger.revise(rules(*ALL_PERIODS), until_ms=bench.clock.now_ms)


async def close_all(bench: Bench, clock_ms: int = LATER) -> None:
    await close_ended(bench, rules(*ALL_PERIODS), clock_ms=clock_ms)
    await revise(bench)


async def prune(
    bench: Bench,
    before_ms: int = LATER,
    ended_ms: int = LATER,
    *,
    keys: bool = True,
    sweep: bool = False,
) -> int:
    """How many were deleted; their keys are forgotten before."""
    while keys and await bench.ledger.forget_keys(before_ms=LATER):
        pass
    pruned = 0
    while some := await bench.ledger.prune_events(before_ms=before_ms, ended_ms=ended_ms):
        pruned += some
    while sweep and await bench.ledger.sweep_pruned():
        pass
    return pruned


async def values(bench: Bench, query: EventQuery = EVERY_EVENT) -> list[int]:
    """Of the events that are there, oldest first."""
    return [int(one.event.value) for one in reversed(await stored(bench, query))]


async def counted(bench: Bench) -> object:
    """All that stands of what was counted."""
    usage = [
        await bench.ledger.usage_windows(UsageQuery("acme", kind), limit=ALL)
        for kind in ALL_PERIODS
    ]
    return usage, await published(bench), await bench.ledger.customers(limit=ALL)


class PruningConformance:
    @pytest.mark.parametrize("sweep", [False, True])
    async def test_what_is_deleted_is_gone_and_what_was_counted_is_not(
        self, bench: Bench, *, sweep: bool
    ) -> None:
        """Totals, aggregations, customers: as they were, also behind a restart; and the log goes
        on behind it.
        """
        await bench.ledger.append([event(value=value) for value in (1, 2)] + [event("b", value=3)])
        await close_all(bench)
        before = await counted(bench)
        assert await bench.ledger.pruned_until_ms() == 0
        assert await bench.ledger.count_kept() == 3
        assert await prune(bench, sweep=sweep) == 3
        for _ in range(2):
            assert await values(bench) == []
            assert await values(bench, EventQuery("acme")) == []
            assert await values(bench, EventQuery("acme", oldest_first=True)) == []
            assert await values(bench, EventQuery(event_type="sum")) == []
            assert await bench.ledger.pruned_until_ms() == HOUR + HOUR_MS
            assert await counted(bench) == before
            await bench.restart()
        assert await prune(bench) == 0
        await bench.ledger.append([event(value=4)])
        assert await values(bench) == [4]
        assert await values(bench, EventQuery("acme")) == [4]
        assert await bench.ledger.count_kept() == 1
        assert await values(bench, EventQuery("acme", oldest_first=True)) == [4]
        await close_all(bench, LATER + 400 * DAY_MS)
        assert await values(bench) == [4]

    @pytest.mark.parametrize(
        ("closed_ms", "before_ms", "ended_ms", "pruned"),
        [
            (YEAR_END, LATER, LATER, 2),
            (YEAR_END - 1, LATER, LATER, 0),
            (YEAR_END, LATER, YEAR_END, 2),
            (YEAR_END, LATER, YEAR_END - 1, 0),
            (YEAR_END, HOUR + HOUR_MS, LATER, 1),
            (YEAR_END, HOUR + 2 * HOUR_MS - 1, LATER, 1),
            (YEAR_END, HOUR + 2 * HOUR_MS, LATER, 2),
            (YEAR_END, HOUR + HOUR_MS - 1, LATER, 0),
            (YEAR_END, -1, LATER, 0),
            (YEAR_END, LATER, -1, 0),
        ],
    )
    async def test_each_bound_to_the_millisecond(
        self, bench: Bench, closed_ms: int, before_ms: int, ended_ms: int, pruned: int
    ) -> None:
        """The year that holds an event is closed, and ended by then; whole hours go."""
        await bench.ledger.append([event(value=1)])
        bench.clock.now_ms += HOUR_MS
        await bench.ledger.append([event(value=2)])
        await close_all(bench, closed_ms)
        assert await prune(bench, before_ms, ended_ms) == pruned
        assert await values(bench) == [1, 2][pruned:]

    async def test_a_week_beyond_the_year_keeps_its_events(self, bench: Bench) -> None:
        """Every period that holds an event must be closed, not the longest alone."""
        bench.clock.now_ms = at("2026-12-30T10:00")
        await bench.ledger.append([event()])
        week_end = at("2027-01-04T00:00")
        await close_all(bench, week_end - 1)
        assert await prune(bench) == 0
        await close_all(bench, week_end)
        assert await prune(bench, ended_ms=week_end - 1) == 0
        assert await prune(bench, ended_ms=week_end) == 1

    async def test_an_event_that_must_stay_keeps_what_came_behind_it(self, bench: Bench) -> None:
        """The log is deleted from its beginning; what happened later than it came counts, too."""
        await bench.ledger.append([event(value=1)])
        bench.clock.now_ms += 1_000
        ahead = msgspec.structs.replace(event(value=2), timestamp_ms=HOUR + HOUR_MS + 5_000)
        bench.clock.now_ms = HOUR + HOUR_MS - 1_000
        await bench.ledger.append([ahead])
        await bench.ledger.append([event(value=3)])
        await close_all(bench)
        assert await prune(bench, HOUR + HOUR_MS) == 1
        assert await values(bench) == [2, 3]
        assert await prune(bench, HOUR + 2 * HOUR_MS) == 2
        assert await bench.ledger.pruned_until_ms() == HOUR + 2 * HOUR_MS

    async def test_an_event_with_its_key_stays(self, bench: Bench) -> None:
        """A repeat is known for as long as was promised."""
        keyed = msgspec.structs.replace(event(value=1), idempotency_key="a")
        await bench.ledger.append([keyed])
        await close_all(bench)
        assert await prune(bench, keys=False) == 0
        assert await bench.ledger.append([keyed]) == [Recorded.DUPLICATE]
        assert await prune(bench) == 1
        assert await bench.ledger.append([keyed]) == [Recorded.RECORDED]

    async def test_what_is_to_be_revised_keeps_its_events(self, bench: Bench) -> None:
        """Until it is; also those of others."""
        await bench.ledger.append([event(value=1), event("b", value=2)])
        await close_all(bench)
        await void(bench, 0)
        assert await prune(bench) == 0
        await revise(bench)
        before = await counted(bench)
        assert await prune(bench) == 2
        assert await counted(bench) == before

    async def test_what_is_to_be_revised_keeps_nothing_of_before(self, bench: Bench) -> None:
        """Of the year that it is in, that is."""
        await bench.ledger.append([event(value=1)])
        bench.clock.now_ms = LATER
        await bench.ledger.append([event(value=2)])
        later_ms = LATER + 400 * DAY_MS
        await close_all(bench, later_ms)
        await void(bench, 1)
        assert await prune(bench, later_ms, later_ms) == 1
        assert await values(bench) == [2]

    async def test_an_event_that_is_gone_is_not_taken_back(self, bench: Bench) -> None:
        """Nor one that is there of an hour of which some are gone; the next hour's is."""
        await bench.ledger.append([event(value=1)])
        bench.clock.now_ms += HOUR_MS
        late = happened("2026-01-14T11:20", 2)
        await bench.ledger.append([late, event(value=3)])
        gone, left, other = reversed(await stored(bench))
        await close_all(bench)
        assert await prune(bench, HOUR + HOUR_MS) == 1
        before = await counted(bench)
        for one in (gone, left):
            with pytest.raises(PrunedError) as refused:
                await bench.ledger.void(one.id, "too late")
            assert refused.value.until_ms == HOUR + HOUR_MS
        assert await counted(bench) == before
        voided = await bench.ledger.void(other.id, "in time")
        assert voided is not None
        assert await bench.ledger.void(other.id[:-1] + b"\xff", "never was") is None

    async def test_groups_of_what_is_gone_are_refused(self, bench: Bench) -> None:
        """Rather than counted from what is left; windows of totals are answered as ever."""
        await bench.ledger.append([event(value=1)])
        bench.clock.now_ms += HOUR_MS
        await bench.ledger.append([event(value=2)])
        await close_all(bench)
        assert await prune(bench, HOUR + HOUR_MS) == 1
        query = UsageQuery("acme", PeriodType.HOURLY, group_by=("region",))
        for kind in (PeriodType.HOURLY, PeriodType.DAILY, PeriodType.YEARLY):
            with pytest.raises(PrunedError) as refused:
                await bench.ledger.usage_groups(query, period_at(kind, HOUR), limit=ALL)
            assert refused.value.until_ms == HOUR + HOUR_MS
        behind = period_at(PeriodType.HOURLY, HOUR + HOUR_MS)
        portion = await bench.ledger.usage_groups(query, behind, limit=ALL)
        assert [totals.sum for totals in portion.groups.values()] == [2]
        windows = await bench.ledger.usage_windows(query, limit=ALL)
        assert [window.by_type["sum"].sum for window in windows] == [1, 2]

    async def test_a_late_event_counts_where_others_are_gone(self, bench: Bench) -> None:
        """Where accept_past has become longer: it is added to what was counted, and revised."""
        await bench.ledger.append([event(value=1)])
        await close_all(bench)
        assert await prune(bench) == 1
        await bench.ledger.append([happened("2026-01-14T11:20", 2)], admission=_ANY)
        assert await prune(bench) == 0
        await close_all(bench)
        windows = await bench.ledger.usage_windows(UsageQuery("acme", PeriodType.YEARLY), limit=ALL)
        assert [window.by_type["sum"].sum for window in windows] == [3]
        assert [one.aggregation.revision for one in await published(bench)] == [2] * 5
        await bench.restart()
        (left,) = await stored(bench)
        with pytest.raises(PrunedError):
            await bench.ledger.void(left.id, "not any more")

    async def test_what_came_late_just_now_keeps_its_periods(self, bench: Bench) -> None:
        """Whether or not its totals are on disk yet."""
        await bench.ledger.append([event(value=1)])
        await close_all(bench)
        await prune(bench, before_ms=HOUR)  # which forgets the keys
        await bench.ledger.append([happened("2026-01-14T11:20", 2)], admission=_ANY)
        assert await bench.ledger.prune_events(before_ms=LATER, ended_ms=LATER) == 0
        await revise(bench)
        assert await bench.ledger.prune_events(before_ms=LATER, ended_ms=LATER) == 1

    async def test_when_the_last_event_came_before_the_start(self, bench: Bench) -> None:
        """Whatever came since, and whether or not it is there."""
        assert bench.ledger.last_before_start_ms() == 0
        await bench.ledger.append([event(value=1)])
        assert bench.ledger.last_before_start_ms() == 0
        last_ms = bench.clock.now_ms
        await close_all(bench)
        assert await prune(bench) == 1
        await bench.restart()
        await bench.ledger.append([event(value=2)])
        assert bench.ledger.last_before_start_ms() == last_ms

    async def test_much_goes_a_portion_at_a_time(self, bench: Bench) -> None:
        """And what is left is whole behind each: the newest, in their order."""
        many = [event(f"c{number % 300}", value=number) for number in range(2000)]
        for start in range(0, len(many), 100):
            bench.clock.now_ms += 1
            await bench.ledger.append(many[start : start + 100])
        await close_all(bench)
        assert await prune(bench, before_ms=HOUR) == 0  # which forgets the keys
        gone = 0
        while some := await bench.ledger.prune_events(before_ms=LATER, ended_ms=LATER):
            gone += some
            assert await values(bench) == list(range(gone, 2000))
        assert gone == 2000
