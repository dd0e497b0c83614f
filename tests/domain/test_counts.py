"""What is counted, and by which names attempts are told apart."""

from __future__ import annotations

import math

import pytest

from meterd.domain.counts import Histogram, outcome_class
from meterd.domain.outcomes import ErrorKind, Outcome


def test_a_histogram_counts_each_value_once() -> None:
    """Under the first bound that is not less; beyond all of them too. The sum is exact for ints."""
    histogram = Histogram((0, 1, 10))
    for value in (0, 1, 1, 2, 10, 11, 1000):
        histogram.observe(value)
    assert histogram.cumulative() == [(0, 1), (1, 3), (10, 5), (math.inf, 7)]
    assert (histogram.count, histogram.total) == (7, 1025)


def test_a_new_histogram_is_empty() -> None:
    """All its bounds are there from the start: a rate begins at 0."""
    assert Histogram((1,)).cumulative() == [(1, 0), (math.inf, 0)]


@pytest.mark.parametrize("bounds", [(1, 0), (1, 1)])
def test_bounds_ascend(bounds: tuple[int, ...]) -> None:
    """Else values were counted under the wrong one."""
    with pytest.raises(AssertionError):
        Histogram(bounds)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Outcome(status=200), "2xx"),
        (Outcome(status=204), "2xx"),
        (Outcome("HTTP 302: Found", ErrorKind.STATUS, 302), "3xx"),
        (Outcome("HTTP 410: Gone", ErrorKind.STATUS, 410), "4xx"),
        (Outcome("HTTP 503", ErrorKind.STATUS, 503), "5xx"),
        (Outcome("no address", ErrorKind.DNS), "dns"),
        (Outcome("refused by the guard", ErrorKind.REFUSED_ADDRESS), "refused-address"),
        (Outcome("no end within 15 s", ErrorKind.TIMEOUT, 200), "timeout"),
        (Outcome(dry_run=True), "dry-run"),
        (Outcome("outcome unknown"), "unknown"),
    ],
)
def test_attempts_by_class(outcome: Outcome, name: str) -> None:
    """A class of status where the receiver has answered, else what the attempt ended by."""
    assert outcome_class(outcome) == name
