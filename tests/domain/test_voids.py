"""What periods come to when an hour of theirs has other totals, as tables."""

from __future__ import annotations

from decimal import Decimal

import pytest

from meterd.domain.digests import DIGEST_BYTES, STALE, UNKNOWN
from meterd.domain.hierarchy import givers, takers
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.totals import NOTHING, PeriodTotals, Totals, totals_of
from meterd.domain.voids import made_again
from tests.ledger_bench import at

NOW_MS = at("2026-01-20T00:00")
TEN, ELEVEN = (period_at(PeriodType.HOURLY, at(f"2026-01-14T{hour}:00")) for hour in (10, 11))
DAY = period_at(PeriodType.DAILY, TEN.start_ms)
OTHER_DAY = period_at(PeriodType.DAILY, at("2026-01-15T00:00"))
WEEK, MONTH, YEAR = takers(DAY)
CHAIN = b"c" * DIGEST_BYTES


def totals(*values: int, first_ms: int = TEN.start_ms) -> Totals:
    """Of events that happened one behind another."""
    positions = [(first_ms + number).to_bytes(8, "big") for number in range(len(values))]
    return totals_of([Decimal(value) for value in values], positions[0], positions[-1])


def closed(
    by_type: dict[str, Totals], late_since_ms: int = 0, chain: bytes = CHAIN
) -> PeriodTotals:
    return PeriodTotals(True, by_type, late_since_ms=late_since_ms, chain=chain)


def shown(made: PeriodTotals) -> str:
    """``late api=min/sum/max/last of count``."""
    said = [
        f"{name}={one.min}/{one.sum}/{one.max}/{one.last} of {one.count}"
        for name, one in made.by_type.items()
    ]
    return " ".join([str(made.late_since_ms), *said])


ELEVENS = totals(2, 6, first_ms=ELEVEN.start_ms)
OTHERS = totals(4, first_ms=OTHER_DAY.start_ms)
BOTH = totals(9, 1, 2, 6)


def test_an_open_hour_is_itself_only() -> None:
    """Nothing was handed up, and nothing is late."""
    stands = {TEN: PeriodTotals(closed=False, by_type={"api": totals(9)}, through=b"id")}
    made = made_again(TEN, {"api": totals(1)}, CHAIN, NOW_MS, lambda one: stands.get(one, NOTHING))
    assert made == {TEN: PeriodTotals(False, {"api": totals(1)}, b"id", chain=CHAIN)}


@pytest.mark.parametrize(
    ("left", "hour", "day"),
    [
        ({"api": totals(1)}, "api=1/1/1/1 of 1", "api=1/9/6/6 of 3"),
        ({"api": totals(9)}, "api=9/9/9/9 of 1", "api=2/17/9/6 of 3"),
        ({}, "", "api=2/8/6/6 of 2"),
        (
            {"api": totals(1), "disk": totals(5)},
            "api=1/1/1/1 of 1 disk=5/5/5/5 of 1",
            "api=1/9/6/6 of 3 disk=5/5/5/5 of 1",
        ),
    ],
)
def test_a_closed_hour_is_late_and_its_open_day_is_made_of_what_is_closed(
    left: dict[str, Totals], hour: str, day: str
) -> None:
    """An hour that is open is no part of the day yet."""
    stands = {
        TEN: closed({"api": totals(9, 1)}),
        ELEVEN: closed({"api": ELEVENS}),
        period_at(PeriodType.HOURLY, ELEVEN.end_ms): PeriodTotals(
            closed=False, by_type={"api": totals(-100)}
        ),
        DAY: PeriodTotals(closed=False, by_type={"api": BOTH}),
    }
    made = made_again(TEN, left, CHAIN, NOW_MS, lambda one: stands.get(one, NOTHING))
    assert set(made) == {TEN, DAY}
    assert shown(made[TEN]) == f"{NOW_MS} {hour}".strip()
    assert shown(made[DAY]) == f"0 {day}"
    assert (made[TEN].closed, made[DAY].closed) == (True, False)


def test_a_closed_day_is_handed_up_to_all_that_it_belongs_to() -> None:
    """Each is late if it is closed: since it was before, where it was."""
    stands = {
        TEN: closed({"api": totals(9, 1)}, late_since_ms=5),
        ELEVEN: closed({"api": ELEVENS}),
        DAY: closed({"api": BOTH}),
        OTHER_DAY: closed({"api": OTHERS}),
        WEEK: closed({"api": BOTH}, chain=UNKNOWN),
        MONTH: PeriodTotals(closed=False, by_type={"api": BOTH}),
        YEAR: PeriodTotals(closed=False, by_type={"api": BOTH}),
    }
    made = made_again(TEN, {}, CHAIN, NOW_MS, lambda one: stands.get(one, NOTHING))
    assert {period.type: shown(one) for period, one in made.items()} == {
        PeriodType.HOURLY: "5",
        PeriodType.DAILY: f"{NOW_MS} api=2/8/6/6 of 2",
        PeriodType.WEEKLY: f"{NOW_MS} api=2/12/6/4 of 3",
        PeriodType.MONTHLY: "0 api=2/12/6/4 of 3",
        PeriodType.YEARLY: "0 api=2/12/6/4 of 3",
    }
    # What was made of it is made again, but where it was never known, or is not made yet.
    assert [made[one].chain for one in (TEN, DAY, WEEK, MONTH)] == [CHAIN, STALE, UNKNOWN, UNKNOWN]


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        (PeriodType.HOURLY, 0),
        (PeriodType.DAILY, 24),
        (PeriodType.WEEKLY, 7),
        (PeriodType.MONTHLY, 29),
        (PeriodType.YEARLY, 366),
    ],
)
def test_a_period_is_made_of_those_that_hand_up_to_it(kind: PeriodType, count: int) -> None:
    """All of them, in their order, in a leap year."""
    period = period_at(kind, at("2024-02-29T12:00"))
    found = givers(period)
    assert len(found) == count
    assert all(period in takers(part) for part in found)
    assert list(found) == sorted(found)
    if found:
        assert (found[0].start_ms, found[-1].end_ms) == (period.start_ms, period.end_ms)
        assert sum(part.end_ms - part.start_ms for part in found) == period.end_ms - period.start_ms
