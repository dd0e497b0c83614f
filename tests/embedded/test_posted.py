"""Whose totals were posted is remembered, in bounds."""

from __future__ import annotations

from decimal import Decimal

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.alerts import Alert
from meterd.domain.changes import Change
from meterd.domain.hierarchy import NOTHING_CLOSED
from meterd.domain.operations import Operation
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.thresholds import Watched
from meterd.domain.totals import NOTHING, PeriodTotals, totals_of
from meterd.domain.voids import Void
from meterd.embedded import posted
from meterd.embedded.posted import Posted
from meterd.watching import Look
from tests.ledger_bench import START_MS

DAY = period_at(PeriodType.DAILY, START_MS)
WATCHED = Watched([Alert("a", "calls", PeriodType.DAILY, (Decimal(1),))], {"calls": Operation.SUM})


def change(customer: str, event_type: str = "calls", hours_on: int = 0) -> Change:
    hour = period_at(PeriodType.HOURLY, START_MS + hours_on * HOUR_MS)
    blocks = {event_type: bytearray(16)} if event_type else {}
    return Change(customer, blocks=blocks, totals={hour: NOTHING, DAY: NOTHING})


@pytest.fixture
def noted() -> Posted:
    found = Posted()
    found.watch(WATCHED, lambda: NOTHING_CLOSED)
    return found


async def test_each_customer_and_period_is_noted_once(noted: Posted) -> None:
    """However often it is posted; in the order of posting, so many at a time."""
    noted.note([change("a"), change("b", hours_on=1), change("a", hours_on=2)])
    noted.note([change("a"), change("c")])
    assert await noted.take(2) == [Look("a", (DAY,)), Look("b", (DAY,))]
    assert await noted.take(2) == [Look("c", (DAY,))]


async def test_what_nobody_watches_is_not_noted(noted: Posted) -> None:
    """Other event types; totals that a close hands up; anything, where nothing is watched."""
    noted.note([change("a", "others"), change("a", ""), change("b")])
    assert await noted.take(9) == [Look("b", (DAY,))]
    noted.watch(None, lambda: NOTHING_CLOSED)
    noted.note([change("a")])
    noted.watch(WATCHED, lambda: NOTHING_CLOSED)
    assert await waits(noted)


async def test_who_had_an_event_taken_back_is_noted(noted: Posted) -> None:
    """A sum goes up when a negative value is void; what is left of the hour says of which types."""
    hour = period_at(PeriodType.HOURLY, START_MS)
    value = Decimal(120)
    for event_type in ("others", "calls"):
        assert await waits(noted)
        left = PeriodTotals(closed=False, by_type={event_type: totals_of([value], b"1", b"1")})
        void = {b"id": Void("sent twice", START_MS)}
        noted.note([Change("a", totals={hour: left}, voids=void)])
    assert not await waits(noted)


async def test_what_is_closed_for_long_is_not_noted(noted: Posted) -> None:
    """The last day that closed still is."""
    noted.watch(WATCHED, lambda: {**NOTHING_CLOSED, PeriodType.DAILY: DAY.end_ms})
    noted.note([change("a", hours_on=-24), change("b")])
    assert await noted.take(9) == [Look("b", (DAY,))]


async def test_where_too_many_wait_everybody_is_to_be_looked_at(
    noted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded, and nothing is lost."""
    monkeypatch.setattr(posted, "NOTED_MAX", 2)
    noted.note([change("a"), change("b"), change("c")])
    noted.note([change("d")])
    assert await noted.take(9) == []
    noted.note([change("e")])
    assert await noted.take(9) == [Look("e", (DAY,))]


async def test_what_was_lost_is_looked_for_where_it_was_noted(
    noted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much has closed since; when all of it was looked at, from what is closed by then."""
    monkeypatch.setattr(posted, "NOTED_MAX", 2)
    noted.note([change("a"), change("b"), change("c")])
    later = dict.fromkeys(PeriodType, DAY.end_ms * 2)
    assert await noted.take(9) == []
    assert noted.watch(WATCHED, lambda: later) == NOTHING_CLOSED
    assert noted.watch(WATCHED, lambda: later) == NOTHING_CLOSED
    assert await waits(noted)
    assert noted.watch(WATCHED, lambda: later) == later


async def test_who_takes_waits_until_something_was_posted(noted: Posted) -> None:
    """And is woken by it."""
    assert await waits(noted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(noted.take, 9)
        await wait_all_tasks_blocked()
        noted.note([change("a")])


async def waits(noted: Posted) -> bool:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await wait_all_tasks_blocked()
                scope.cancel()

            nursery.start_soon(cancel)
            await noted.take(9)
            nursery.cancel_scope.cancel()
    return scope.cancelled_caught
