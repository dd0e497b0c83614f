"""When requests are due, and what the times say that they took."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Schedule:
    """Which request is due. Instants and durations are seconds on one clock.

    With a rate a request's time counts from when it was due, not from when a connection was free
    for it: a server that stalls is charged with all that it kept waiting (no coordinated omission).
    """

    def __init__(self, began: float, until: float, rate: float | None) -> None:
        self.until = until
        self._began = began
        self._rate = rate
        self._taken = 0

    def take(self, now: float) -> float | None:
        """Since when the next request is due; None if none is, and then nothing is taken."""
        if self._rate is None:
            return now if now < self.until else None
        due = self._next_due(self._rate)
        if due > now or due >= self.until:
            return None
        self._taken += 1
        return due

    def wait_s(self, now: float) -> float:
        """How long until ``take`` may give something, or never will again."""
        if self._rate is None:
            return max(0.0, self.until - now)
        return max(0.0, min(self._next_due(self._rate), self.until) - now)

    def is_over(self, now: float) -> bool:
        """Whether ``take`` will give nothing any more."""
        if self._rate is None:
            return now >= self.until
        return self._next_due(self._rate) >= self.until

    def overdue(self, now: float) -> int:
        """How many requests are due and not taken."""
        if self._rate is None:
            return 0
        ended = min(now, self.until)
        return max(0, math.ceil((ended - self._began) * self._rate) - self._taken)

    def _next_due(self, rate: float) -> float:
        return self._began + self._taken / rate


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least of the values that at least this share of them does not exceed; 0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
