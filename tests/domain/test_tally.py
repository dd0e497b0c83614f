"""What is counted of a customer's events, once; ``account_steps.py`` explains the steps."""

from __future__ import annotations

from decimal import Decimal

import pytest

from meterd.domain.event_ids import Stamp, position
from meterd.domain.operations import Operation
from tests.domain.account_steps import FIVE, HOUR, after, change_of, happen, told
from tests.domain.desk import ms


def test_a_batch_is_found_by_the_blocks_that_its_events_are_in() -> None:
    """Each once, though many of the events are in it; in order."""
    names = ["disk" if 64 <= number < 128 or number == 150 else "api" for number in range(200)]
    counts = " ".join(f"{name}=1" for name in names)
    change = change_of(after(f"2026-01-14T15:10 counts {counts}"))
    stamp = Stamp(ms("2026-01-14T15:10"), 0, 7)
    assert change.blocks == {
        "api": stamp.id(0) + stamp.id(128) + stamp.id(192),
        "disk": stamp.id(64) + stamp.id(128),
    }


def test_what_is_read_again_from_the_log_counts_once() -> None:
    """Hour by hour: what its totals have counted is passed over, what they have not is counted."""
    desk = after(FIVE, "2026-01-14T15:11 commit", "2026-01-14T15:12 counts api=7")
    desk.restart()
    desk.repeat()
    assert [line for line in told(desk.account.take_change()) if "api" in line] == [
        "block 14 15:12 api",
        "hourly 2026011415 open api=12/2",
    ]
    happen(desk, "2026-01-14T16:05 close hourly")
    desk.commit()
    desk.restart()
    desk.repeat()
    assert desk.account.take_change() is None


def test_positions_follow_the_order_of_the_array() -> None:
    """``first`` and ``last`` of a batch are those of the array, by the ids its events are given."""
    desk = after("2026-01-14T15:10 counts api=5 disk=1 api=9 api=7")
    at_ms = ms("2026-01-14T15:10")
    found = change_of(desk).totals[HOUR].by_type["api"]
    assert (found.first, found.last) == (Decimal(5), Decimal(7))
    stamp = Stamp(at_ms, 0, 7)
    assert found.first_at == position(at_ms, stamp.id(0))
    assert found.last_at == position(at_ms, stamp.id(3))
    assert found.read(Operation.MAX) == 9


@pytest.mark.parametrize(
    ("steps", "step"),
    [
        ([FIVE, "2026-01-14T16:05 close hourly"], "2026-01-14T15:59 counts api=1"),
    ],
    ids=["an event for a closed hour"],
)
def test_what_would_change_final_totals_is_our_own_mistake(steps: list[str], step: str) -> None:
    """It fails at once, and the totals stay final."""
    desk = after(*steps)
    with pytest.raises(AssertionError, match="acme"):
        for line in step.splitlines():
            happen(desk, line)
