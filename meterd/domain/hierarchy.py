"""Which periods a period's totals belong to: whom it hands them up to when it closes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meterd.domain.periods import RANK, Period, PeriodType, period_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Whom a closed period hands its totals to. Weeks do not fit into months, so days are what all
# longer periods are made of.
HANDS_UP_TO: Final[dict[PeriodType, tuple[PeriodType, ...]]] = {
    PeriodType.HOURLY: (PeriodType.DAILY,),
    PeriodType.DAILY: (PeriodType.WEEKLY, PeriodType.MONTHLY, PeriodType.YEARLY),
    PeriodType.WEEKLY: (),
    PeriodType.MONTHLY: (),
    PeriodType.YEARLY: (),
}

# Whose digests a period's is made of (``digests``). A year has fewer months than days, and they are
# closed before it.
PROVED_BY: Final[dict[PeriodType, PeriodType]] = {
    PeriodType.DAILY: PeriodType.HOURLY,
    PeriodType.WEEKLY: PeriodType.DAILY,
    PeriodType.MONTHLY: PeriodType.DAILY,
    PeriodType.YEARLY: PeriodType.MONTHLY,
}

NOTHING_CLOSED: Final = dict.fromkeys(PeriodType, 0)


def closed_with(period: Period, before_ms: Mapping[PeriodType, int]) -> dict[PeriodType, int]:
    """Until when periods of each type are closed when that one is: whatever comes before it in the
    order of closing is, too. Never earlier than before.
    """
    return {kind: max(before_ms[kind], _last_end_ms(kind, period)) for kind in PeriodType}


def _last_end_ms(kind: PeriodType, period: Period) -> int:
    """When the last period of the type ends that does not close behind that one."""
    running = period_at(kind, period.end_ms)
    if running.start_ms < period.end_ms or RANK[kind] <= period.rank:
        return running.start_ms
    return period_at(kind, period.end_ms - 1).start_ms


def takers(period: Period) -> tuple[Period, ...]:
    """The longer periods that take over this one's totals when it closes."""
    return tuple(period_at(kind, period.start_ms) for kind in HANDS_UP_TO[period.type])


def givers(period: Period) -> tuple[Period, ...]:
    """The shorter periods that hand their totals up to this one, in their order."""
    kinds = [kind for kind, takers in HANDS_UP_TO.items() if period.type in takers]
    found: list[Period] = []
    for kind in kinds:
        start_ms = period.start_ms
        while start_ms < period.end_ms:
            found.append(period_at(kind, start_ms))
            start_ms = found[-1].end_ms
    return tuple(found)


def belongs_to(period: Period) -> tuple[Period, ...]:
    """All longer periods that its totals come to: its takers, and theirs."""
    found = takers(period)
    return found + tuple(other for taker in found for other in takers(taker))


def parts_of(period: Period, candidates: Sequence[Period]) -> tuple[Period, ...]:
    """Those of the candidates that hand their totals up to this period, or to a day of it."""
    return tuple(
        part
        for part in candidates
        if part.rank < period.rank
        and HANDS_UP_TO[part.type]
        and period_at(period.type, part.start_ms) == period
    )
