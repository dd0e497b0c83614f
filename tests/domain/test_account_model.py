"""An account against plain books in fractions, with commits in flight and restarts among the steps.

The books are every event ever counted and how far closing has come. Time begins on a Friday so that
the hours soon reach a day's, a week's, a month's and a year's end, all at one midnight.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meterd.domain.deliveries import delivery_id
from meterd.domain.operations import Operation
from meterd.domain.periods import HOUR_MS, Period, PeriodType, period_at
from meterd.domain.totals import NOTHING
from tests.domain.desk import RULES, Desk, ms

if TYPE_CHECKING:
    from meterd.domain.aggregations import Aggregation
    from meterd.domain.changes import Change
    from meterd.domain.totals import PeriodTotals, Totals

START = ms("2023-12-29T21:00")
BEFORE_ALL = (0, 0)

quantities = st.decimals(-1000, 1000, places=3) | st.sampled_from(
    [Decimal("1e308"), Decimal("1e-400"), Decimal(9007199254740993)]
)
events = st.lists(st.tuples(st.sampled_from(["api", "disk"]), quantities), min_size=1, max_size=3)

ByType = dict[str, list[Fraction]]


class Counted(msgspec.Struct, frozen=True):
    received_ms: int
    event_type: str
    value: Fraction


class Books(msgspec.Struct, frozen=True):
    """All events in order, and the last period closed, as (end, rank): the order of closing."""

    events: tuple[Counted, ...] = ()
    closed_through: tuple[int, int] = BEFORE_ALL

    def is_closed(self, period: Period) -> bool:
        return (period.end_ms, period.rank) <= self.closed_through

    def whole(self) -> dict[Period, ByType]:
        """Every event in each of its five periods."""
        return self._gathered(lambda event, period: True)

    def kept(self) -> dict[Period, ByType]:
        """An hour's events; in longer periods those that their closed parts have handed up."""

        def is_in(event: Counted, period: Period) -> bool:
            match period.type:
                case PeriodType.HOURLY:
                    return True
                case PeriodType.DAILY:
                    part = PeriodType.HOURLY
                case _:
                    part = PeriodType.DAILY
            return self.is_closed(period_at(part, event.received_ms))

        return self._gathered(is_in)

    def _gathered(self, is_in: Any) -> dict[Period, ByType]:
        found: dict[Period, ByType] = {}
        for event in self.events:
            for kind in PeriodType:
                period = period_at(kind, event.received_ms)
                if is_in(event, period):
                    by_type = found.setdefault(period, {})
                    by_type.setdefault(event.event_type, []).append(event.value)
        return found


def figures(values: list[Fraction]) -> tuple[object, ...]:
    return len(values), sum(values), min(values), max(values), values[0], values[-1]


def figures_of(totals: Totals) -> tuple[object, ...]:
    kept = (totals.sum, totals.min, totals.max, totals.first, totals.last)
    return totals.count, *map(Fraction, kept)


def agree(made: Aggregation, by_type: ByType) -> bool:
    """Whether an aggregation says what the books say, by the operations of the rules."""
    expected = {
        event_type: (len(values), sum(values) if event_type == "api" else max(values))
        for event_type, values in by_type.items()
    }
    assert RULES.operations == {"api": Operation.SUM, "disk": Operation.MAX}
    said = {name: (found.count, Fraction(found.value)) for name, found in made.figures.items()}
    return said == expected


class AccountMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.now_ms = START
        self.books = Books()  # what was decided
        self.durable = Books()  # what is on disk
        self.in_flight: tuple[Change | None, Books] | None = None

    @rule(counted=events, minute=st.integers(0, 59))
    def append(self, counted: list[tuple[str, Decimal]], minute: int) -> None:
        hour_ms = self.now_ms // HOUR_MS * HOUR_MS
        self.now_ms = max(self.now_ms, hour_ms + minute * 60_000)
        self.desk.append(self.now_ms, counted)
        added = [Counted(self.now_ms, name, Fraction(value)) for name, value in counted]
        self.books = msgspec.structs.replace(self.books, events=(*self.books.events, *added))

    @rule(hours=st.integers(1, 30))
    def time_passes(self, hours: int) -> None:
        self.now_ms = (self.now_ms // HOUR_MS + hours) * HOUR_MS

    @rule(at_most=st.integers(1, 200))
    def close(self, at_most: int) -> None:
        """Some of what is overdue, in its order, a second time for good measure."""
        for period in self._overdue()[:at_most]:
            made = self.desk.close(period, self.now_ms)
            by_type = self.books.whole().get(period)
            self.books = msgspec.structs.replace(
                self.books, closed_through=(period.end_ms, period.rank)
            )
            if made is None:
                assert by_type is None
            else:
                assert made.closed
                assert by_type is not None
                assert agree(made, by_type)
            assert self.desk.close(period, self.now_ms) is None

    @precondition(lambda self: not self._overdue())
    @rule()
    def snapshot(self) -> None:
        """Of every period that runs: all of its events, handed up or not."""
        whole = self.books.whole()
        for kind in PeriodType:
            period = period_at(kind, self.now_ms)
            snapshot = self.desk.snapshot(period, self.now_ms)
            if snapshot is None:
                assert period not in whole
            else:
                assert not snapshot.aggregation.closed
                assert agree(snapshot.aggregation, whole[period])

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def take_change(self) -> None:
        self.in_flight = self.desk.account.take_change(), self.books

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def commit(self) -> None:
        assert self.in_flight is not None
        change, self.durable = self.in_flight
        self.in_flight = None
        if change is not None:
            self.desk.write(change)

    @rule(landed=st.booleans())
    def restart(self, landed: bool) -> None:
        """What is not on disk is lost; what was being written may have landed there."""
        if self.in_flight is not None and landed:
            self.commit()
        self.desk.restart()
        self.in_flight = None
        self.books = self.durable

    @invariant()
    def what_is_in_hand_or_else_on_disk_is_what_was_decided(self) -> None:
        in_hand = dict(self.desk.account._totals)
        if (counting := self.desk.account._counting) is not None and counting.has_counted:
            in_hand[counting.hour] = counting.totals()
        self._hold(self.books, self.desk.totals | in_hand)

    @invariant()
    def what_is_on_disk_is_what_was_written(self) -> None:
        self._hold(self.durable, self.desk.totals)

    @invariant()
    def every_closed_period_is_published_and_delivered_once(self) -> None:
        whole = self.durable.whole()
        closed = {period for period in whole if self.durable.is_closed(period)}
        on_disk = self.desk.aggregations
        assert {period for period, made in on_disk.items() if made.closed} == closed
        assert all(agree(on_disk[period], whole[period]) for period in closed)
        assert sorted(sent.id for sent in self.desk.deliveries) == sorted(
            delivery_id("billing", on_disk[period].id, 1) for period in closed
        )

    def _hold(self, books: Books, stored: dict[Period, PeriodTotals]) -> None:
        kept = books.kept()
        for period in stored.keys() | kept.keys():
            totals = stored.get(period, NOTHING)
            found = {name: figures_of(each) for name, each in totals.by_type.items()}
            expected = {name: figures(each) for name, each in kept.get(period, {}).items()}
            assert found == expected, period
            assert totals.closed == (bool(expected) and books.is_closed(period)), period

    def _overdue(self) -> list[Period]:
        """Ended and not closed, empty ones too."""
        end_ms, rank = self.books.closed_through
        found = set()
        for hour_ms in range(max(end_ms - HOUR_MS, START), self.now_ms, HOUR_MS):
            found |= {period_at(kind, hour_ms) for kind in PeriodType}
        return sorted(
            period
            for period in found
            if (end_ms, rank) < (period.end_ms, period.rank) and period.end_ms <= self.now_ms
        )


TestAccount = AccountMachine.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
