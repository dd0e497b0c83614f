"""When an endpoint is let alone: by a table."""

from __future__ import annotations

import pytest

from meterd.domain.breaker import OPENS_AFTER, Breaker


@pytest.mark.parametrize(
    ("failures", "pause_s"),
    [
        (0, 0),
        (1, 0),
        (9, 0),
        (10, 1),
        (11, 2),
        (12, 4),
        (15, 32),
        (16, 60),
        (17, 60),
        (1_000_000, 60),
    ],
)
def test_pauses_double_up_to_a_minute(failures: int, pause_s: int) -> None:
    """From the tenth failure in a row on."""
    breaker = Breaker(failures)
    assert breaker.pause_ms == 1000 * pause_s
    assert breaker.is_open == (failures >= OPENS_AFTER == 10)


def test_one_success_ends_it() -> None:
    """However long it lasted."""
    breaker = Breaker()
    for _ in range(50):
        breaker = breaker.after(failed=True)
    assert breaker == Breaker(50)
    assert breaker.after(failed=False) == Breaker()
