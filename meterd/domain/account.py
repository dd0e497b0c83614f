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
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.aggregations import Aggregation, ClosingRules, aggregate, completed_body
from meterd.domain.deliveries import Delivery, first_attempt
from meterd.domain.event_ids import Stamp, position
from meterd.domain.events import UsageEvent
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.totals import NOTHING, PeriodTotals, merge, merge_types, totals_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# Whom a closed period hands its totals to. Weeks do not fit into months, so days are what all
# longer periods are made of.
HANDS_UP_TO: Final[dict[PeriodType, tuple[PeriodType, ...]]] = {
    PeriodType.HOURLY: (PeriodType.DAILY,),
    PeriodType.DAILY: (PeriodType.WEEKLY, PeriodType.MONTHLY, PeriodType.YEARLY),
    PeriodType.WEEKLY: (),
    PeriodType.MONTHLY: (),
    PeriodType.YEARLY: (),
}


class PlacedEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event and its place in the append that it came with."""

    offset: int
    event: UsageEvent


class EventBlock(msgspec.Struct, frozen=True, gc=False):
    """Events of one customer and one type from one append: what is stored as one record."""

    stamp: Stamp
    event_type: str
    events: Sequence[PlacedEvent]


class Change(msgspec.Struct):
    """What one customer's decisions change on disk: all of it together, or nothing."""

    customer_id: str
    introduces: bool  # whether the customer may be new: these are its first events in an hour
    blocks: list[EventBlock]
    totals: dict[Period, PeriodTotals]
    aggregations: dict[Period, Aggregation]
    withdrawn: set[Period]  # whose snapshot is all there was to publish, and is not any more
    deliveries: list[Delivery]


class Snapshot(msgspec.Struct, frozen=True):
    """An open period's aggregation, and whether there was none of that period before."""

    aggregation: Aggregation
    is_first: bool


class Account:
    """One customer's totals in the periods that are in hand, and the changes not yet taken.

    A period is in hand from ``restore`` until a change that closes it, or no longer needs it, is on
    disk (``committed``): until then what is stored would be older than what was decided.
    """

    def __init__(self, customer_id: str, part: int) -> None:
        self.customer_id = customer_id
        self._part = part
        self._totals: dict[Period, PeriodTotals] = {}
        self._aggregations: dict[Period, Aggregation] = {}
        self._change = self._nothing_changed()

    def lacks(self, period: Period) -> bool:
        """Whether that period's stored totals must be restored before deciding on it."""
        return period not in self._totals

    def restore(self, period: Period, totals: PeriodTotals | None) -> None:
        """Takes in hand what is stored of the period, None where nothing is."""
        self._totals[period] = totals or NOTHING

    def append(self, stamp: Stamp, events: Sequence[PlacedEvent]) -> None:
        """Counts events, given in their order, in the stamp's hour, which must not be closed."""
        hour = period_at(PeriodType.HOURLY, stamp.received_ms)
        before = self._totals[hour]
        assert not before.closed, (
            f"{self.customer_id}: an event came for the closed hour {hour.key}"
        )
        if not before.by_type:
            self._change.introduces = True
        after = dict(before.by_type)
        for event_type, of_type in _by_type(events).items():
            first_at = self._position(stamp, of_type[0])
            last_at = first_at if len(of_type) == 1 else self._position(stamp, of_type[-1])
            added = totals_of([placed.event.value for placed in of_type], first_at, last_at)
            known = after.get(event_type)
            after[event_type] = added if known is None else merge(known, added)
            self._change.blocks.append(EventBlock(stamp, event_type, of_type))
        self._put(hour, PeriodTotals(closed=False, by_type=after))

    def _position(self, stamp: Stamp, placed: PlacedEvent) -> bytes:
        return position(stamp.received_ms, stamp.id(placed.offset, self._part))

    def close(
        self, period: Period, rules: ClosingRules, now_ms: int, stored: Aggregation | None
    ) -> Aggregation | None:
        """Closes a period whose parts are all closed, once; a second call changes nothing.

        The longer periods named by ``takers`` must be in hand too. The aggregation, if one is
        published, and its deliveries enter the same change as the totals handed up. ``stored`` is
        the period's aggregation on disk, a snapshot.
        """
        totals = self._totals[period]
        if totals.closed or not totals.by_type:
            return None
        for taker in takers(period):
            before = self._totals[taker]
            assert not before.closed, f"{self.customer_id}: {taker.key} closed before {period.key}"
            self._put(
                taker,
                PeriodTotals(closed=False, by_type=merge_types(before.by_type, totals.by_type)),
            )
        self._put(period, PeriodTotals(closed=True, by_type=totals.by_type))
        closed = self._aggregate(period, totals, rules, stored, closed=True, now_ms=now_ms)
        if closed is None and self._aggregations.get(period, stored) is not None:
            self._change.aggregations.pop(period, None)
            self._aggregations.pop(period, None)
            self._change.withdrawn.add(period)
        if closed is not None and closed.endpoints:
            body = completed_body(closed)
            self._change.deliveries += [
                first_attempt(closed, endpoint, body, now_ms) for endpoint in closed.endpoints
            ]
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
        if not (self._change.totals or self._change.aggregations):
            return None
        change, self._change = self._change, self._nothing_changed()
        return change

    def committed(self, change: Change) -> None:
        """That change is on disk: of what nobody decided on since, only open hours stay in hand."""
        decided = self._change.totals.keys() | self._change.aggregations.keys()
        for period, totals in list(self._totals.items()):
            is_open_hour = period.type is PeriodType.HOURLY and not totals.closed
            if period not in decided and not is_open_hour:
                del self._totals[period]
        for period in change.aggregations.keys() - self._change.aggregations.keys():
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
            self._change.aggregations[period] = made
        return made

    def _put(self, period: Period, totals: PeriodTotals) -> None:
        self._totals[period] = totals
        self._change.totals[period] = totals

    def _nothing_changed(self) -> Change:
        return Change(self.customer_id, False, [], {}, {}, set(), [])


def _by_type(events: Sequence[PlacedEvent]) -> Mapping[str, Sequence[PlacedEvent]]:
    if len(events) == 1:
        return {events[0].event.event_type: events}
    found: defaultdict[str, list[PlacedEvent]] = defaultdict(list)
    for placed in events:
        found[placed.event.event_type].append(placed)
    return found


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
