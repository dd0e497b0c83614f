"""Which events' times are taken: how far from the time of receipt, and whether in closed periods.

An event that does not say when it happened happened when it was received, and is always taken.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.durations import format_duration
from meterd.domain.idempotency import Recorded
from meterd.domain.periods import DAY_MS, PeriodType, period_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.domain.events import UsageEvent


class Late(StrEnum):
    """What becomes of an event of an hour that is closed."""

    REVISE = "revise"
    REJECT = "reject"


class Admission(msgspec.Struct, frozen=True):
    """How far back and ahead an event may say that it happened, and what becomes of late ones."""

    past_ms: int
    future_ms: int
    late: Late = Late.REVISE

    def judge(
        self, event: UsageEvent, now_ms: int, closed_until_ms: Mapping[PeriodType, int]
    ) -> Recorded:
        """RECORDED, or why it is refused; both bounds are inclusive."""
        happened_ms = event.timestamp_ms
        if happened_ms is None:
            return Recorded.RECORDED
        if happened_ms < now_ms - self.past_ms:
            return Recorded.TOO_OLD
        if happened_ms > now_ms + self.future_ms:
            return Recorded.TOO_NEW
        if self.late is Late.REJECT:
            hour = period_at(PeriodType.HOURLY, happened_ms)
            if hour.end_ms <= closed_until_ms[PeriodType.HOURLY]:
                return Recorded.TOO_LATE
        return Recorded.RECORDED

    def fault(self, outcome: Recorded) -> str | None:
        """What is wrong with an event that was judged so, if it is its time."""
        match outcome:
            case Recorded.TOO_OLD:
                past = format_duration(self.past_ms)
                return f"timestamp must be at most {past} ago (accept_past)"
            case Recorded.TOO_NEW:
                future = format_duration(self.future_ms)
                return f"timestamp must be at most {future} ahead (accept_future)"
            case Recorded.TOO_LATE:
                return 'timestamp must not be in an hour that is closed (late = "reject")'
        return None


# What a meterd takes that is not told otherwise.
USUAL: Final = Admission(past_ms=35 * DAY_MS, future_ms=300_000)
