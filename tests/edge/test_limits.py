"""The limits hang together."""

from __future__ import annotations

from typing import Any

import pytest

from meterd.domain.errors import OverloadedError
from meterd.edge.limits import PIECE_BYTES, BodyBudget, Drip, Limits, Pace


@pytest.mark.parametrize(
    "contradiction",
    [
        {"connections_per_peer_max": 900},
        {"request_line_bytes_max": 16 * 1024},
        {"head_bytes_max": PIECE_BYTES + 1},
        {"graceful_s": 6.1},
    ],
)
def test_limits_that_contradict_each_other_are_our_mistake(contradiction: dict[str, Any]) -> None:
    """A set of limits in which one cannot be kept because of another does not come to be."""
    Limits()
    with pytest.raises(AssertionError):
        Limits(**contradiction)


def test_what_is_taken_must_be_given_back() -> None:
    """Bodies together never pass the bound; what does not fit changes nothing."""
    budget = BodyBudget(100)
    assert budget.take(60)
    assert not budget.take(41)
    assert budget.take(40)
    with pytest.raises(OverloadedError), budget.holding(1):
        pass
    budget.give_back(60)
    with budget.holding(60):
        assert not budget.take(1)
    assert budget.take(60)


def test_pace_is_a_stall_earned_back_by_sending() -> None:
    """A sender may stall so long in all, and no credit is saved up beyond that."""
    pace = Pace(10, 100)
    pace.record(4, 0)
    assert pace.left_s == 6
    pace.record(1, 300)
    assert pace.left_s == 8
    pace.record(1, 100_000)
    assert pace.left_s == 10
    for _ in range(10):
        pace.record(2, 100)
    assert pace.left_s == 0


def test_small_pieces_one_after_another_are_a_drip() -> None:
    """A few are nothing, and a larger one begins anew."""
    drip = Drip(1.0)
    rests = []
    for received_bytes in (127, 1, 1, 1, 1, 1, 128, 1, 1, 1, 1, 0):
        drip.record(0.01, received_bytes)
        rests.append(drip.rest_s)
    assert rests == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1]


def test_what_comes_at_once_is_no_drip() -> None:
    """However small the records are that it was put into."""
    drip = Drip(1.0)
    for _ in range(100):
        drip.record(0.0001, 1)
    assert drip.rest_s == 0
