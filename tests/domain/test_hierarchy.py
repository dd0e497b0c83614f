"""Whom totals are handed up to, and what is closed when a period is."""

from __future__ import annotations

import pytest

from meterd.domain.hierarchy import NOTHING_CLOSED, belongs_to, closed_with
from meterd.domain.instants import format_instant
from meterd.domain.periods import PeriodType, period_at
from tests.ledger_bench import at


def test_an_hour_belongs_to_four_longer_periods() -> None:
    """At the turn of a year, where the week is of the year to come."""
    hour = period_at(PeriodType.HOURLY, at("2029-12-31T23:30"))
    assert [f"{one.type} {one.key}" for one in belongs_to(hour)] == [
        "daily 20291231",
        "weekly 203001",
        "monthly 202912",
        "yearly 2029",
    ]
    assert belongs_to(period_at(PeriodType.YEARLY, hour.start_ms)) == ()


@pytest.mark.parametrize(
    ("kind", "instant", "hours", "days", "weeks", "months"),
    [
        # An hour in the middle of a day: the day before is over with all that is in it.
        (PeriodType.HOURLY, "2026-01-14T11", "14T12", "14T00", "12T00", "01T00"),
        # The last hour of a day closes before the day does.
        (PeriodType.HOURLY, "2026-01-14T23", "15T00", "14T00", "12T00", "01T00"),
        (PeriodType.DAILY, "2026-01-14T23", "15T00", "15T00", "12T00", "01T00"),
        # The last day of a week, before the week and with it.
        (PeriodType.DAILY, "2026-01-18T10", "19T00", "19T00", "12T00", "01T00"),
        (PeriodType.WEEKLY, "2026-01-18T10", "19T00", "19T00", "19T00", "01T00"),
    ],
)
def test_what_closes_before_a_closed_period_is_closed(
    kind: PeriodType, instant: str, hours: str, days: str, weeks: str, months: str
) -> None:
    """By the order of closing: end, then finest first."""
    until = closed_with(period_at(kind, at(f"{instant}:30")), NOTHING_CLOSED)
    named = [format_instant(until[one])[8:13] for one in PeriodType][:4]
    assert named == [hours, days, weeks, months]


def test_it_never_goes_back() -> None:
    """Naming an earlier period again opens nothing."""
    later = closed_with(period_at(PeriodType.DAILY, at("2026-01-18T10:00")), NOTHING_CLOSED)
    assert closed_with(period_at(PeriodType.HOURLY, at("2026-01-14T10:00")), later) == later
