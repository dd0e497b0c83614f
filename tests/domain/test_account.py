"""What an account decides, by the table of ``account_changes.py``: events, closings, snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.aggregations import completed_body, figures_digest
from meterd.domain.deliveries import delivery_id
from meterd.domain.hierarchy import parts_of, takers
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from tests.domain.account_changes import CHANGES
from tests.domain.account_steps import DAY, FIVE, HOUR, after, change_of, happen, lines_of, told
from tests.domain.desk import Desk, ms

if TYPE_CHECKING:
    from meterd.domain.account import Snapshot


@pytest.mark.parametrize(("steps", "change"), CHANGES.values(), ids=CHANGES)
def test_steps_make_this_change(steps: str, change: str) -> None:
    """The change not yet taken holds these lines and no others; and after it there is none."""
    desk = Desk()
    for step in lines_of(steps):
        happen(desk, step)
    assert told(desk.account.take_change()) == lines_of(change)
    assert desk.account.take_change() is None


def test_closing_says_what_it_published_and_only_the_first_time() -> None:
    """The aggregation that is returned is the one in the change; the second call returns None."""
    desk = after(FIVE)
    closed = desk.close(HOUR, HOUR.end_ms)
    assert closed is not None
    assert desk.close(HOUR, HOUR.end_ms) is None
    change = change_of(desk)
    assert change.aggregations == {HOUR: closed}
    assert (change.customer_id, closed.customer_id) == ("acme", "acme")


def test_closed_totals_know_what_was_published() -> None:
    """In the same change; open ones, and what nobody publishes, have no digest."""
    desk = after(FIVE)
    closed = desk.close(HOUR, HOUR.end_ms)
    assert closed is not None
    totals = change_of(desk).totals
    assert totals[HOUR].published == figures_digest(closed)
    assert totals[DAY].published == b""
    desk = after(FIVE)
    desk.rules = msgspec.structs.replace(desk.rules, published=frozenset())
    assert desk.close(HOUR, HOUR.end_ms) is None
    totals = change_of(desk).totals
    assert (totals[HOUR].closed, totals[HOUR].published) == (True, b"")


def test_a_delivery_carries_the_frozen_body_under_its_id() -> None:
    """Due at once, with the bytes of the closed aggregation."""
    desk = after(FIVE)
    closed = desk.close(HOUR, HOUR.end_ms + 300_000)
    assert closed is not None
    (delivery,) = change_of(desk).deliveries
    assert delivery.id == delivery_id("billing", "acme_hourly_2026011415", 1)
    assert delivery.body == completed_body(closed)
    assert (delivery.created_ms, delivery.next_attempt_ms) == (HOUR.end_ms + 300_000,) * 2


def test_a_snapshot_says_whether_it_is_the_first() -> None:
    """On disk or not yet: there is only one first, and none of what is closed or empty."""
    desk = after(FIVE)

    def taken(minute: int) -> Snapshot:
        snapshot = desk.snapshot(HOUR, HOUR.start_ms + minute * 60_000)
        assert snapshot is not None
        return snapshot

    assert [taken(20).is_first, taken(21).is_first] == [True, False]
    desk.commit()
    assert not taken(22).is_first
    desk.restart()
    assert not taken(23).is_first
    desk.close(HOUR, HOUR.end_ms)
    assert desk.snapshot(HOUR, HOUR.end_ms) is None
    assert desk.snapshot(period_at(PeriodType.HOURLY, HOUR.end_ms), HOUR.end_ms) is None


def test_only_open_hours_stay_in_hand() -> None:
    """A customer's memory is bounded: what is on disk and done with is let go."""
    desk = after(FIVE, "2026-01-14T15:11 snapshot daily", "2026-01-14T15:12 commit")
    assert not desk.account.lacks(HOUR)
    assert desk.account.lacks(DAY)
    happen(desk, "2026-01-14T16:05 close hourly")
    assert not desk.account.lacks(DAY)
    desk.commit()
    assert desk.account.lacks(HOUR)
    assert desk.account.lacks(DAY)


def test_what_is_decided_while_a_change_is_written_stays_in_hand() -> None:
    """Until it is on disk too: the disk would give back less than was decided."""
    desk = after(FIVE, "2026-01-14T15:20 snapshot hourly")
    first = change_of(desk)
    happen(desk, "2026-01-14T15:30 counts api=7")
    happen(desk, "2026-01-14T16:05 close hourly")
    desk.write(first)
    assert desk.totals[HOUR].by_type["api"].sum == 5
    assert not desk.account.lacks(HOUR)
    assert not desk.account.lacks(DAY)
    second = change_of(desk)
    happen(desk, "2026-01-14T16:10 counts api=100")
    happen(desk, "2026-01-14T17:05 close hourly")
    desk.write(second)
    desk.commit()
    assert desk.totals[HOUR].by_type["api"].sum == 12
    assert desk.totals[DAY].by_type["api"].sum == 112
    assert desk.aggregations[HOUR].created_ms == ms("2026-01-14T15:20")


def test_a_snapshot_taken_while_another_is_written_is_written_too() -> None:
    """The later one is on disk in the end, created when the first was."""
    desk = after(FIVE, "2026-01-14T15:20 snapshot daily")
    first = change_of(desk)
    happen(desk, "2026-01-14T15:30 snapshot daily")
    desk.write(first)
    desk.commit()
    on_disk = desk.aggregations[DAY]
    times = (ms("2026-01-14T15:20"), ms("2026-01-14T15:30"))
    assert (on_disk.created_ms, on_disk.computed_ms) == times


def test_a_snapshot_on_disk_is_let_go_though_events_came_meanwhile() -> None:
    """Whatever order things come in, nothing but open hours is left in memory."""
    desk = after(FIVE, "2026-01-14T15:20 snapshot hourly")
    first = change_of(desk)
    happen(desk, "2026-01-14T15:30 counts api=7")
    desk.write(first)
    desk.commit()
    assert list(desk.account._totals) == [HOUR]
    assert not desk.account._aggregations


@pytest.mark.parametrize(
    ("kind", "taken_over_by", "parts_at_ten"),
    [
        ("hourly", ["20260114"], []),
        ("daily", ["202603", "202601", "2026"], ["2026011410"]),
        ("weekly", [], ["2026011410", "20260114"]),
        ("monthly", [], ["2026011410", "20260114"]),
        ("yearly", [], ["2026011410", "20260114"]),
    ],
)
def test_who_hands_up_to_whom(kind: str, taken_over_by: list[str], parts_at_ten: list[str]) -> None:
    """Weeks do not fit into months, so days are what all longer periods are made of."""
    ten_ms = DAY.start_ms + 10 * HOUR_MS
    period = period_at(PeriodType(kind), ten_ms)
    assert [taker.key for taker in takers(period)] == taken_over_by
    running = [period_at(each, ten_ms) for each in PeriodType]
    assert [part.key for part in parts_of(period, running)] == parts_at_ten
