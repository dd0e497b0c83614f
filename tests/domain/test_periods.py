"""The calendar against tables that a printed one can check, and its laws for every instant."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.periods import HOUR_MS, Period, PeriodType, period_at

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

instants = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(9000, 1, 1)).map(  # noqa: DTZ001
    lambda moment: ms_of(moment.replace(tzinfo=dt.UTC))
)
kinds = st.sampled_from(PeriodType)


def ms_of(moment: dt.datetime) -> int:
    return (moment - EPOCH) // dt.timedelta(milliseconds=1)


def ms(text: str) -> int:
    return ms_of(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


# instant, key, start, end (exclusive)
PERIODS = {
    PeriodType.HOURLY: [
        ("2026-01-14T15:00:00.000", "2026011415", "2026-01-14T15:00", "2026-01-14T16:00"),
        ("2026-01-14T15:59:59.999", "2026011415", "2026-01-14T15:00", "2026-01-14T16:00"),
        ("2026-01-14T16:00:00.000", "2026011416", "2026-01-14T16:00", "2026-01-14T17:00"),
        ("2024-02-29T23:30:00.000", "2024022923", "2024-02-29T23:00", "2024-03-01T00:00"),
        ("2025-12-31T23:59:59.999", "2025123123", "2025-12-31T23:00", "2026-01-01T00:00"),
        ("2026-03-29T02:30:00.000", "2026032902", "2026-03-29T02:00", "2026-03-29T03:00"),
        ("1970-01-01T00:00:00.000", "1970010100", "1970-01-01T00:00", "1970-01-01T01:00"),
        ("1969-12-31T23:59:59.999", "1969123123", "1969-12-31T23:00", "1970-01-01T00:00"),
    ],
    PeriodType.DAILY: [
        ("2026-01-14T00:00:00.000", "20260114", "2026-01-14", "2026-01-15"),
        ("2026-01-14T23:59:59.999", "20260114", "2026-01-14", "2026-01-15"),
        ("2024-02-28T12:00:00.000", "20240228", "2024-02-28", "2024-02-29"),
        ("2024-02-29T12:00:00.000", "20240229", "2024-02-29", "2024-03-01"),
        ("2023-02-28T12:00:00.000", "20230228", "2023-02-28", "2023-03-01"),
        ("2000-02-29T12:00:00.000", "20000229", "2000-02-29", "2000-03-01"),
        ("2100-02-28T12:00:00.000", "21000228", "2100-02-28", "2100-03-01"),
        ("2025-12-31T23:59:59.999", "20251231", "2025-12-31", "2026-01-01"),
    ],
    PeriodType.WEEKLY: [
        ("2026-01-14T12:00:00.000", "202603", "2026-01-12", "2026-01-19"),
        ("2026-01-11T23:59:59.999", "202602", "2026-01-05", "2026-01-12"),
        ("2026-01-12T00:00:00.000", "202603", "2026-01-12", "2026-01-19"),
        # The year's first days in its own week 1, which began in the old year ...
        ("2026-01-01T00:00:00.000", "202601", "2025-12-29", "2026-01-05"),
        ("2025-12-29T00:00:00.000", "202601", "2025-12-29", "2026-01-05"),
        ("2024-12-30T00:00:00.000", "202501", "2024-12-30", "2025-01-06"),
        ("2024-12-29T23:59:59.999", "202452", "2024-12-23", "2024-12-30"),
        # ... or in the old year's week 53 ...
        ("2027-01-01T00:00:00.000", "202653", "2026-12-28", "2027-01-04"),
        ("2027-01-03T23:59:59.999", "202653", "2026-12-28", "2027-01-04"),
        ("2027-01-04T00:00:00.000", "202701", "2027-01-04", "2027-01-11"),
        ("2020-12-31T12:00:00.000", "202053", "2020-12-28", "2021-01-04"),
        # ... or 52.
        ("2022-01-01T12:00:00.000", "202152", "2021-12-27", "2022-01-03"),
        ("2024-02-29T12:00:00.000", "202409", "2024-02-26", "2024-03-04"),
    ],
    PeriodType.MONTHLY: [
        ("2026-01-31T23:59:59.999", "202601", "2026-01-01", "2026-02-01"),
        ("2026-02-28T23:59:59.999", "202602", "2026-02-01", "2026-03-01"),
        ("2024-02-29T23:59:59.999", "202402", "2024-02-01", "2024-03-01"),
        ("2025-12-31T23:59:59.999", "202512", "2025-12-01", "2026-01-01"),
        ("2026-01-01T00:00:00.000", "202601", "2026-01-01", "2026-02-01"),
    ],
    PeriodType.YEARLY: [
        ("2026-01-01T00:00:00.000", "2026", "2026-01-01", "2027-01-01"),
        ("2025-12-31T23:59:59.999", "2025", "2025-01-01", "2026-01-01"),
        ("2024-02-29T12:00:00.000", "2024", "2024-01-01", "2025-01-01"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "instant", "key", "start", "end"),
    [(kind, *row) for kind, rows in PERIODS.items() for row in rows],
)
def test_an_instant_lies_in_the_period_the_calendar_says(
    kind: PeriodType, instant: str, key: str, start: str, end: str
) -> None:
    """Key, start and end of all five types: leap days, year ends, ISO weeks 52, 53 and 1."""
    period = period_at(kind, ms(instant))
    assert (period.type, period.key) == (kind, key)
    assert (period.start_ms, period.end_ms) == (ms(start), ms(end))
    assert period.last_ms == ms(end) - 1


DAYS_OF_MONTHS = {
    2023: [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31],
    2024: [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31],
    2100: [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31],
}


@pytest.mark.parametrize("year", DAYS_OF_MONTHS)
def test_months_and_years_are_as_long_as_the_calendar_says(year: int) -> None:
    """Twelve months follow one another without a gap and make up the year."""
    start_ms = ms(f"{year}-01-01")
    for month, days in enumerate(DAYS_OF_MONTHS[year], 1):
        period = period_at(PeriodType.MONTHLY, start_ms)
        assert period.key == f"{year}{month:02}"
        assert period.end_ms - period.start_ms == days * 24 * HOUR_MS
        start_ms = period.end_ms
    whole = period_at(PeriodType.YEARLY, ms(f"{year}-06-01"))
    assert (whole.start_ms, whole.end_ms) == (ms(f"{year}-01-01"), start_ms)


@given(kinds, instants)
def test_every_instant_lies_in_exactly_one_period_of_each_type(
    kind: PeriodType, instant_ms: int
) -> None:
    """It is inside its period, and every instant in there says the same period."""
    period = period_at(kind, instant_ms)
    assert period.start_ms <= instant_ms < period.end_ms
    assert period_at(kind, period.start_ms) == period
    assert period_at(kind, period.last_ms) == period


@given(kinds, instants)
def test_the_end_of_one_is_the_start_of_the_next(kind: PeriodType, instant_ms: int) -> None:
    """No gap, no overlap, and the keys of neighbours are in ascending order."""
    period = period_at(kind, instant_ms)
    following = period_at(kind, period.end_ms)
    assert following.start_ms == period.end_ms
    assert period_at(kind, period.start_ms - 1).end_ms == period.start_ms
    assert period.key < following.key


@given(kinds, instants)
def test_all_boundaries_are_on_the_hour(kind: PeriodType, instant_ms: int) -> None:
    """What is counted by the hour can be summed into every longer period."""
    period = period_at(kind, instant_ms)
    assert period.start_ms % HOUR_MS == 0
    assert period.end_ms % HOUR_MS == 0


@given(instants)
def test_keys_are_what_the_calendar_of_the_platform_says(instant_ms: int) -> None:
    """``strftime`` names the same hour, day, ISO week, month and year."""
    moment = EPOCH + dt.timedelta(milliseconds=instant_ms)
    formats = ["%Y%m%d%H", "%Y%m%d", "%G%V", "%Y%m", "%Y"]
    keys = [period_at(kind, instant_ms).key for kind in PeriodType]
    assert keys == [moment.strftime(form) for form in formats]


def test_what_ends_together_closes_finest_first() -> None:
    """2023 ended on a Sunday: its last hour, day, week, month and the year all end at once."""
    last = ms("2023-12-31T23:59:59.999")
    ending = [period_at(kind, last) for kind in PeriodType]
    assert {period.end_ms for period in ending} == {ms("2024-01-01")}
    assert sorted(ending) == ending


@given(st.lists(st.builds(period_at, kinds, instants)))
def test_periods_are_ordered_by_their_ends_then_finest_first(periods: list[Period]) -> None:
    """The order of closing: whatever ends first, however long it is."""
    finest_first = list(PeriodType)
    assert sorted(periods) == sorted(
        periods, key=lambda period: (period.end_ms, finest_first.index(period.type))
    )
