"""Decides, for one customer, what an event or a period's end changes.

Every event is counted once, in its hour. When an hour closes, its totals are handed up to its day;
when a day closes, to its week, month and year. So an event costs the same however many periods are
configured, a period that is configured later is complete from its first hour, and hourly totals are
there for ever. A longer period's totals at this moment are its own and those of its open parts.

An account is pure: it decides on totals that it is given (``restore``) and says what changed
(``Change``). Who calls it reads, writes, and keeps the order of calls.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.aggregations import (
    Aggregation,
    ClosingRules,
    aggregate,
    completed_body,
    figures_digest,
)
from meterd.domain.deliveries import Delivery, first_attempt
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.receipts import BLOCK_EVENTS
from meterd.domain.totals import (
    NOTHING,
    PeriodTotals,
    Totals,
    counted,
    merge,
    merge_types,
    totals_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.receipts import Receipt

# Whom a closed period hands its totals to. Weeks do not fit into months, so days are what all
# longer periods are made of.
HANDS_UP_TO: Final[dict[PeriodType, tuple[PeriodType, ...]]] = {
    PeriodType.HOURLY: (PeriodType.DAILY,),
    PeriodType.DAILY: (PeriodType.WEEKLY, PeriodType.MONTHLY, PeriodType.YEARLY),
    PeriodType.WEEKLY: (),
    PeriodType.MONTHLY: (),
    PeriodType.YEARLY: (),
}


# What an account is made of holds no cycles, and there may be 100,000 of them: nothing of it is for
# the garbage collector to walk over (``gc=False``; no lists or tuples, but for a moment).


class Change(msgspec.Struct, gc=False):
    """What one customer's decisions change on disk: all of it together, or nothing.

    ``blocks`` has the ids of those that hold events counted, one behind another, by event type.
    ``first_received_ms`` is when the first of them came, where the customer may be new: these are
    its first events in an hour.
    """

    customer_id: str
    first_received_ms: int | None = None
    blocks: dict[str, bytearray] = {}
    totals: dict[Period, PeriodTotals] = {}
    aggregations: dict[Period, Aggregation] = {}
    # Whose snapshot is all there was to publish, and is not any more.
    withdrawn: tuple[Period, ...] = ()
    deliveries: tuple[Delivery, ...] = ()


class Snapshot(msgspec.Struct, frozen=True):
    """An open period's aggregation, and whether there was none of that period before."""

    aggregation: Aggregation
    is_first: bool


class _Counting(msgspec.Struct, eq=False, gc=False):
    """An open hour's totals while events are counted in it."""

    hour: Period
    by_type: dict[str, Totals]
    through: bytes
    closed: bool
    has_counted: bool = False

    def totals(self) -> PeriodTotals:
        """As counted; nothing may be counted here any more."""
        return PeriodTotals(closed=False, by_type=self.by_type, through=self.through)


class Account(msgspec.Struct, eq=False, gc=False):
    """One customer's totals in the periods that are in hand, and the changes not yet taken.

    A period is in hand from ``restore`` until a change that closes it, or no longer needs it, is on
    disk (``committed``): until then what is stored would be older than what was decided.
    """

    customer_id: str
    _totals: dict[Period, PeriodTotals] = {}
    _aggregations: dict[Period, Aggregation] = {}
    _change: Change | None = None
    _counting: _Counting | None = None

    def lacks(self, period: Period) -> bool:
        """Whether that period's stored totals must be restored before deciding on it."""
        if self._counting is not None and self._counting.hour is period:
            return False
        return period not in self._totals

    def restore(self, period: Period, totals: PeriodTotals | None) -> None:
        """Takes in hand what is stored of the period, None where nothing is."""
        self._totals[period] = totals or NOTHING

    def append(self, receipt: Receipt, offsets: Sequence[int]) -> None:
        """Counts the receipt's events at these offsets, which go up, in its hour.

        The hour must not be closed, unless these events are counted in it: an event counts once,
        also when it is read again from the log.
        """
        counting = self._count_in(receipt.hour)
        if receipt.last_id <= counting.through:
            return
        assert not counting.closed, (
            f"{self.customer_id}: an event came for the closed hour {receipt.hour.key}"
        )
        if not counting.by_type and self._changing().first_received_ms is None:
            self._changing().first_received_ms = receipt.received_ms
        counting.through = receipt.last_id
        counting.has_counted = True
        if len(offsets) == 1:
            self._count(counting, receipt, receipt.events[offsets[0]].event_type, offsets)
            return
        by_type: defaultdict[str, list[int]] = defaultdict(list)
        for offset in offsets:
            by_type[receipt.events[offset].event_type].append(offset)
        for event_type, places in by_type.items():
            self._count(counting, receipt, event_type, places)

    def close(
        self,
        period: Period,
        rules: ClosingRules,
        now_ms: int,
        stored: Aggregation | None,
        due_ms: int | None = None,
    ) -> Aggregation | None:
        """Closes a period whose parts are all closed, once; a second call changes nothing.

        The longer periods named by ``takers`` must be in hand too. The aggregation, if one is
        published, and its deliveries enter the same change as the totals handed up. ``stored`` is
        the period's aggregation on disk, a snapshot. Deliveries are due at ``due_ms``, else now.
        """
        self._put_counted()
        totals = self._totals[period]
        if totals.closed or not totals.by_type:
            return None
        for taker in takers(period):
            before = self._totals[taker]
            assert not before.closed, f"{self.customer_id}: {taker.key} closed before {period.key}"
            by_type = merge_types(before.by_type, totals.by_type)
            self._put(taker, PeriodTotals(closed=False, by_type=by_type))
        closed = self._aggregate(period, totals, rules, stored, closed=True, now_ms=now_ms)
        published = b"" if closed is None else figures_digest(closed)
        self._put(period, msgspec.structs.replace(totals, closed=True, published=published))
        if closed is None and self._aggregations.get(period, stored) is not None:
            change = self._changing()
            change.aggregations.pop(period, None)
            self._aggregations.pop(period, None)
            change.withdrawn += (period,)
        if closed is not None and closed.endpoints:
            body = completed_body(closed)
            self._changing().deliveries += tuple(
                first_attempt(closed, endpoint, body, now_ms, due_ms)
                for endpoint in closed.endpoints
            )
        return closed

    def snapshot(
        self,
        period: Period,
        parts: Sequence[Period],
        rules: ClosingRules,
        now_ms: int,
        stored: Aggregation | None,
    ) -> Snapshot | None:
        """The open period's aggregation as of now, or None where there is nothing to show.

        ``parts`` are the hours and days in it that may still be open; they must be in hand. A
        snapshot changes no totals and delivers nothing.
        """
        self._put_counted()
        totals = self._totals[period]
        if totals.closed:
            return None
        by_type = totals.by_type
        for part in parts:
            if not self._totals[part].closed:
                by_type = merge_types(by_type, self._totals[part].by_type)
        earlier = self._aggregations.get(period, stored)
        running = PeriodTotals(closed=False, by_type=by_type)
        made = self._aggregate(period, running, rules, earlier, closed=False, now_ms=now_ms)
        return None if made is None else Snapshot(made, is_first=earlier is None)

    def take_change(self) -> Change | None:
        """What is to be written since the last call, if anything."""
        self._put_counted()
        change, self._change = self._change, None
        return change

    def committed(self, change: Change) -> None:
        """That change is on disk: of what nobody decided on since, only open hours stay in hand."""
        since = self._change or Change(self.customer_id)
        decided = since.totals.keys() | since.aggregations.keys()
        for period, totals in list(self._totals.items()):
            is_open_hour = period.type is PeriodType.HOURLY and not totals.closed
            if period not in decided and not is_open_hour:
                del self._totals[period]
        for period in change.aggregations.keys() - since.aggregations.keys():
            del self._aggregations[period]

    def _aggregate(
        self,
        period: Period,
        totals: PeriodTotals,
        rules: ClosingRules,
        earlier: Aggregation | None,
        *,
        closed: bool,
        now_ms: int,
    ) -> Aggregation | None:
        made = aggregate(
            self.customer_id,
            period,
            totals,
            rules,
            closed=closed,
            now_ms=now_ms,
            earlier=self._aggregations.get(period, earlier),
        )
        if made is not None:
            self._aggregations[period] = made
            self._changing().aggregations[period] = made
        return made

    def _count_in(self, hour: Period) -> _Counting:
        counting = self._counting
        if counting is None or counting.hour is not hour:
            self._put_counted()
            before = self._totals[hour]
            counting = _Counting(hour, dict(before.by_type), before.through, before.closed)
            self._counting = counting
        return counting

    def _count(
        self, counting: _Counting, receipt: Receipt, event_type: str, offsets: Sequence[int]
    ) -> None:
        """Counts these events, which are all of that type."""
        first = offsets[0]
        before = counting.by_type.get(event_type)
        blocks = self._blocks(event_type)
        if len(offsets) > 1:
            added = _totals_of(receipt, offsets)
            totals = added if before is None else merge(before, added)
            numbers = dict.fromkeys([offset // BLOCK_EVENTS for offset in offsets])
            blocks += b"".join([receipt.blocks[number] for number in numbers])
        else:
            at, value = receipt.position(first), receipt.events[first].value
            totals = totals_of((value,), at, at) if before is None else counted(before, value, at)
            blocks += receipt.blocks[first // BLOCK_EVENTS]
        counting.by_type[event_type] = totals

    def _blocks(self, event_type: str) -> bytearray:
        by_type = self._changing().blocks
        found = by_type.get(event_type)
        if found is None:
            found = by_type[event_type] = bytearray()
        return found

    def _put_counted(self) -> None:
        """What was counted becomes the hour's totals."""
        counting, self._counting = self._counting, None
        if counting is not None and counting.has_counted:
            self._put(counting.hour, counting.totals())

    def _put(self, period: Period, totals: PeriodTotals) -> None:
        self._totals[period] = totals
        self._changing().totals[period] = totals

    def _changing(self) -> Change:
        if self._change is None:
            self._change = Change(self.customer_id)
        return self._change


def _totals_of(receipt: Receipt, offsets: Sequence[int]) -> Totals:
    """The totals of these events alone."""
    values = [receipt.events[offset].value for offset in offsets]
    return totals_of(values, receipt.position(offsets[0]), receipt.position(offsets[-1]))


def takers(period: Period) -> tuple[Period, ...]:
    """The longer periods that take over this one's totals when it closes."""
    return tuple(period_at(kind, period.start_ms) for kind in HANDS_UP_TO[period.type])


def parts_of(period: Period, candidates: Sequence[Period]) -> tuple[Period, ...]:
    """Those of the candidates that hand their totals up to this period, or to a day of it."""
    return tuple(
        part
        for part in candidates
        if part.rank < period.rank
        and HANDS_UP_TO[part.type]
        and period_at(period.type, part.start_ms) == period
    )
