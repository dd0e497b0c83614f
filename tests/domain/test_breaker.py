"""When an endpoint is let alone: by a table."""

from __future__ import annotations

import pytest

from meterd.domain.breaker import OPENS_AFTER, Breaker
from meterd.domain.outcomes import Outcome

FIRST, REPEAT = False, True
ARRIVED = Outcome(status=200)
REFUSED = Outcome("HTTP 422: x", status=422)
BROKEN = Outcome("HTTP 503: x", status=503)
TIMEOUT = Outcome("Request timeout")


@pytest.mark.parametrize(
    ("failures", "pause_s"),
    [(0, 0), (1, 0), (9, 0), (10, 1), (11, 2), (12, 4), (14, 16), (15, 30), (1_000_000, 30)],
)
@pytest.mark.parametrize("is_down", [True, False])
def test_pauses_double_up_to_half_a_minute(failures: int, pause_s: int, is_down: bool) -> None:
    """From the tenth failure in a row on."""
    breaker = Breaker(failures, failures if is_down else 0)
    assert breaker.pause_ms == 1000 * pause_s
    assert breaker.is_open == (failures >= OPENS_AFTER == 10)
    assert breaker.is_down == (is_down and breaker.is_open)


@pytest.mark.parametrize(
    ("attempts", "is_open", "is_down"),
    [
        ([(BROKEN, FIRST)] * 10, True, True),
        ([(TIMEOUT, FIRST)] * 10, True, True),
        ([(REFUSED, FIRST)] * 10, True, False),
        ([(REFUSED, FIRST)] * 1000, True, False),
        ([(BROKEN, REPEAT)] * 1000, False, False),
        ([(REFUSED, REPEAT)] * 1000, False, False),
        ([*[(BROKEN, FIRST)] * 9, (REFUSED, FIRST), *[(BROKEN, FIRST)] * 9], True, False),
        ([*[(BROKEN, FIRST)] * 90, (REFUSED, REPEAT)], True, False),
        ([*[(REFUSED, FIRST)] * 90, *[(BROKEN, REPEAT)] * 90], True, False),
        ([*[(REFUSED, FIRST)] * 90, *[(BROKEN, FIRST)] * 10], True, True),
        ([*[(BROKEN, FIRST)] * 90, (ARRIVED, REPEAT)], False, False),
        ([*[(REFUSED, FIRST)] * 90, (ARRIVED, FIRST)], False, False),
    ],
)
def test_what_counts(attempts: list[tuple[Outcome, bool]], is_open: bool, is_down: bool) -> None:
    """First attempts do, refusals for less; one that arrives ends it."""
    breaker = Breaker()
    for outcome, is_repeat in attempts:
        breaker = breaker.after(outcome, is_repeat=is_repeat)
    assert (breaker.is_open, breaker.is_down) == (is_open, is_down)


def test_let_alone_each_failure_makes_the_pause_longer() -> None:
    """Of whichever kind."""
    down, refusing = Breaker(10, 10), Breaker(10, 0)
    for is_repeat in (FIRST, REPEAT):
        assert down.after(TIMEOUT, is_repeat=is_repeat).pause_ms == 2 * down.pause_ms
        assert refusing.after(REFUSED, is_repeat=is_repeat).pause_ms == 2 * refusing.pause_ms
