"""meterd/domain/durations.py"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.durations import examples_within, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("0s", 0),
        ("250ms", 250),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("35d", 3_024_000_000),
        ("1d1h1m1s1ms", 90_061_001),
        ("90m", 5_400_000),
    ],
)
def test_a_duration_is_read_in_milliseconds(text: str, duration_ms: int) -> None:
    """Each unit counts what it says, and a count may exceed the next unit."""
    assert parse_duration(text) == duration_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "m",
        "5 m",
        " 5m",
        "5m ",
        "-5m",
        "+5m",
        "1.5h",
        "5M",
        "5min",
        "30m1h",
        "5m5m",
        "1w",
        "1e3s",
        "5m\n",
        "\u0665m",
        "1_000s",
        "1234567890s",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """No unit, an unknown one, one twice or out of order, signs, spaces, other digits: None."""
    assert parse_duration(text) is None


@given(st.integers(0, 999_999_999 * 86_400_000))
def test_a_written_duration_reads_back(duration_ms: int) -> None:
    """Writing and reading lose nothing."""
    assert parse_duration(format_duration(duration_ms)) == duration_ms


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ((0, 35 * 86_400_000), '"30s", "5m", "1h30m" or "2d"'),
        ((1000, 60_000), '"5s" or "30s"'),
        ((0, 6000), '"5s"'),
    ],
)
def test_examples_are_within_bounds(bounds: tuple[int, int], text: str) -> None:
    """What a message shows is taken."""
    assert examples_within(*bounds) == text


def test_a_duration_is_written_in_its_largest_units() -> None:
    """People read ``1h30m``, not ``5400s``."""
    written = [format_duration(ms) for ms in (0, 5_400_000, 86_400_000, 300_250)]
    assert written == ["0s", "1h30m", "1d", "5m250ms"]
