"""Of each kind of entry the first are written, the others are counted and told."""

from __future__ import annotations

import itertools
import math

import pytest

from meterd.log_repeats import KINDS_MAX, OTHERS, WINDOW_S, WRITTEN_MAX, Kind, LeftOut, Repeats

FAILED = Kind("delivery", "warning", "attempt failed", (("endpoint", "billing"),))
PARKED = Kind("delivery", "error", "delivery parked", (("endpoint", "billing"),))


def admitted(repeats: Repeats, kind: Kind, count: int, now_s: float) -> int:
    return sum(repeats.admits(kind, now_s) for _ in range(count))


@pytest.mark.parametrize(
    ("at_s", "count", "written", "left_out"),
    [
        ([0.0], 1, 1, 0),
        ([0.0], WRITTEN_MAX, WRITTEN_MAX, 0),
        ([0.0], WRITTEN_MAX + 1, WRITTEN_MAX, 1),
        ([0.0], 5000, WRITTEN_MAX, 5000 - WRITTEN_MAX),
        # Spread over one window, and just behind its end.
        ([0.0, WINDOW_S - 1], WRITTEN_MAX, WRITTEN_MAX, WRITTEN_MAX),
        ([0.0, WINDOW_S], WRITTEN_MAX, 2 * WRITTEN_MAX, 0),
        # A window begins with its first entry, not when the last one ended.
        ([0.0, WINDOW_S + 30, 2 * WINDOW_S + 29], WRITTEN_MAX, 2 * WRITTEN_MAX, WRITTEN_MAX),
        ([0.0, 1e9], WRITTEN_MAX + 1, 2 * WRITTEN_MAX, 2),
    ],
)
def test_what_is_written(at_s: list[float], count: int, written: int, left_out: int) -> None:
    """And that nothing is lost: what is not written is told as a number."""
    repeats = Repeats()
    assert sum(admitted(repeats, FAILED, count, at) for at in at_s) == written
    assert sum(told.entries for told in repeats.over()) == left_out
    assert repeats.over() == [], "told once"


def test_what_is_left_out_is_told_when_its_window_is_over() -> None:
    """Not before; and when it will be is known as soon as there is something to tell."""
    repeats = Repeats()
    admitted(repeats, FAILED, WRITTEN_MAX, 10.0)
    assert repeats.next_s() is None
    admitted(repeats, FAILED, 3, 20.0)
    assert repeats.next_s() == 10.0 + WINDOW_S
    assert repeats.over(10.0 + WINDOW_S - 0.001) == []
    assert repeats.over(10.0 + WINDOW_S) == [LeftOut(FAILED, 3)]
    assert repeats.next_s() is None


def test_what_a_later_entry_finds_over_is_to_be_told_at_once() -> None:
    """It began another window."""
    repeats = Repeats()
    admitted(repeats, FAILED, WRITTEN_MAX + 3, 0.0)
    admitted(repeats, FAILED, 1, WINDOW_S)
    assert repeats.next_s() == -math.inf
    assert repeats.over(WINDOW_S) == [LeftOut(FAILED, 3)]


def test_each_kind_has_its_own() -> None:
    """A flood of one leaves out nothing of another, whatever it differs in."""
    repeats = Repeats()
    others = [
        PARKED,
        FAILED._replace(fields=(("endpoint", "other"),)),
        FAILED._replace(level="error"),
        FAILED._replace(event="endpoint is down"),
        FAILED._replace(logger="api"),
    ]
    admitted(repeats, FAILED, 10_000, 0.0)
    for other in others:
        assert admitted(repeats, other, WRITTEN_MAX, 1.0) == WRITTEN_MAX
    assert repeats.over() == [LeftOut(FAILED, 10_000 - WRITTEN_MAX)]


def test_kinds_without_end_take_bounded_room() -> None:
    """What is beyond is one kind of its level; those that are known stay their own."""
    repeats = Repeats()
    made_up = (FAILED._replace(event=str(number)) for number in itertools.count())
    assert admitted(repeats, PARKED, 1, 0.0)
    written = sum(repeats.admits(next(made_up), 0.0) for _ in range(KINDS_MAX * 10))
    assert written == KINDS_MAX - 1 + WRITTEN_MAX
    assert admitted(repeats, PARKED, WRITTEN_MAX, 1.0) == WRITTEN_MAX - 1
    assert repeats.admits(PARKED._replace(event="new"), 1.0), "of another level, once at least"
    assert set(repeats.over()) == {
        LeftOut(PARKED, 1),
        LeftOut(Kind("meterd", "warning", OTHERS), KINDS_MAX * 9 + 1 - WRITTEN_MAX),
    }
    assert repeats.admits(next(made_up), 2 * WINDOW_S)
