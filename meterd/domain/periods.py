"""Which half-open UTC calendar period contains an instant, its key, and when it ends.

Instants are whole milliseconds since 1970-01-01T00:00:00Z. Every period starts and ends on the
hour, so an hour is the finest thing the rest of meterd ever has to count in. Nothing here knows the
time of day: instants come as arguments.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from functools import lru_cache
from typing import Final, assert_never

import msgspec

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


class PeriodType(StrEnum):
    """The calendar a total is kept over, finest first."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"


class Period(msgspec.Struct, frozen=True, order=True, gc=False):
    """``[start_ms, end_ms)``. Compared by end, then finest first: the order of closing."""

    end_ms: int
    rank: int
    start_ms: int
    type: PeriodType
    key: str

    @property
    def last_ms(self) -> int:
        """The last millisecond inside, which is how the API and the webhooks write the end."""
        return self.end_ms - 1


RANK: Final = {kind: rank for rank, kind in enumerate(PeriodType)}


def period_at(kind: PeriodType, instant_ms: int) -> Period:
    """The period of that type which contains the instant."""
    return _period_of_hour(kind, instant_ms // HOUR_MS)


@lru_cache(maxsize=4096)
def _period_of_hour(kind: PeriodType, hour: int) -> Period:
    moment = dt.datetime.fromtimestamp(hour * 3600, dt.UTC)
    midnight = moment.replace(hour=0)
    match kind:
        case PeriodType.HOURLY:
            start, end, key = moment, moment + dt.timedelta(hours=1), f"{moment:%Y%m%d%H}"
        case PeriodType.DAILY:
            start, end, key = midnight, midnight + dt.timedelta(days=1), f"{moment:%Y%m%d}"
        case PeriodType.WEEKLY:
            start = midnight - dt.timedelta(days=moment.weekday())
            end, key = start + dt.timedelta(days=7), week_key(moment)
        case PeriodType.MONTHLY:
            start = midnight.replace(day=1)
            end, key = (start + dt.timedelta(days=32)).replace(day=1), f"{moment:%Y%m}"
        case PeriodType.YEARLY:
            start = midnight.replace(month=1, day=1)
            end, key = start.replace(year=start.year + 1), f"{moment:%Y}"
        case _:
            assert_never(kind)
    return Period(_ms(end), RANK[kind], _ms(start), kind, key)


def week_key(moment: dt.datetime) -> str:
    """``GGGGWW`` of ISO 8601: the year that the week's Thursday lies in, and the week's number."""
    year, week, _ = moment.isocalendar()
    return f"{year:04d}{week:02d}"


def _ms(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1000


_FORMATS: Final = {
    PeriodType.HOURLY: "%Y%m%d%H",
    PeriodType.DAILY: "%Y%m%d",
    PeriodType.WEEKLY: "%G%V%u",
    PeriodType.MONTHLY: "%Y%m",
    PeriodType.YEARLY: "%Y",
}


def period_of_key(kind: PeriodType, key: str) -> Period | None:
    """The period of that type and key; None where there is none."""
    text = key + "1" if kind is PeriodType.WEEKLY else key  # its Monday
    try:
        moment = dt.datetime.strptime(text, _FORMATS[kind]).replace(tzinfo=dt.UTC)
        found = period_at(kind, _ms(moment))
    except (ValueError, OverflowError):
        return None
    return found if found.key == key else None
