"""Counts that whoever watches meterd may read at any time; they begin at 0 with each process.

Plain numbers, counted where something happens and by one thread: to count costs some ten
nanoseconds, and nothing waits for whoever reads. What they are called outside is the edge's matter.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.outcomes import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.outcomes import Outcome

# Events in one transaction: none (other work), singles, what gathers under load, full batches.
COMMIT_EVENTS_BOUNDS: Final = (0, 1, 10, 100, 1_000, 5_000, 20_000)
# From a disk with a cache of its own to one that is failing.
COMMIT_SECONDS_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
# How long everything may wait for everything else.
LAG_SECONDS_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Histogram:
    """How many values were no greater than each bound, and what they are in sum."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` ascend; what is beyond them all is counted too."""
        assert list(bounds) == sorted(set(bounds))
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound with the number of values up to it; the last is infinite."""
        return list(zip((*self._bounds, float("inf")), accumulate(self._counts), strict=True))


class EventCounts(msgspec.Struct):
    """Events by what they were answered. ``refused``: as far as they could be told apart.

    A batch that is refused for what some of it is counts these: the others were not judged.
    """

    stored: int = 0
    duplicate: int = 0
    conflict: int = 0
    refused: int = 0


class CommitCounts:
    """One value for each transaction: its events, and how long it took until it was on disk."""

    def __init__(self) -> None:
        self.events = Histogram(COMMIT_EVENTS_BOUNDS)
        self.seconds = Histogram(COMMIT_SECONDS_BOUNDS)


# By lane, method, route and status. A route is a template: no name that a client chose is in it.
RequestCounts = Counter[tuple[str, str, str, int]]
# What alerts wait for. Counted from 0 on where there are requests at all: a counter that begins
# with its first one has not increased, as Prometheus sees it.
WATCHED_STATUSES: Final = (500, 503, 507)


class AttemptCounts:
    """What came of attempts, by endpoint and ``outcome_class``; deliveries parked, by endpoint.

    Of all workers that an endpoint ever had.
    """

    def __init__(self) -> None:
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.parked: Counter[str] = Counter()


def outcome_class(outcome: Outcome) -> str:
    """``2xx`` and the other classes of status, else what the attempt ended by; a dozen at most."""
    if outcome.dry_run:
        return "dry-run"
    if outcome.kind not in {None, ErrorKind.STATUS}:
        return str(outcome.kind)
    return "unknown" if outcome.status is None else f"{outcome.status // 100}xx"
