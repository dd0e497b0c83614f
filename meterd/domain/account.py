"""Decides, for one customer, what an event or a period's end changes.

Every event is counted once, in its hour. When an hour closes, its totals are handed up to its day;
when a day closes, to its week, month and year. So an event costs the same however many periods are
configured, a period that is configured later is complete from its first hour, and hourly totals are
there for ever. A longer period's totals at this moment are its own and those of its open parts.

An event may come when its hour is closed. Then it is counted in the hour and in every period that
the hour was handed up to, and each of these that is closed is published once more, as a revision,
after a while (``revise``).

An account is pure: it decides on totals that it is given (``restore``) and says what changed
(``Change``). Who calls it reads, writes, and keeps the order of calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.aggregations import (
    Aggregation,
    ClosingRules,
    aggregate,
    completed_body,
    figures_digest,
    revise,
    revised_body,
)
from meterd.domain.changes import Change
from meterd.domain.counting import Counting, Recounting, both
from meterd.domain.deliveries import first_attempt
from meterd.domain.hierarchy import NOTHING_CLOSED, takers
from meterd.domain.periods import Period, PeriodType
from meterd.domain.totals import NOTHING, PeriodTotals, merge_types
from meterd.domain.voids import made_again

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.domain.receipts import Receipt
    from meterd.domain.totals import Totals
    from meterd.domain.voids import Void


# What an account is made of holds no cycles, and there may be 100,000 of them: nothing of it is for
# the garbage collector to walk over (``gc=False``; no lists or tuples, but for a moment).


class Snapshot(msgspec.Struct, frozen=True):
    """An open period's aggregation, and whether there was none of that period before."""

    aggregation: Aggregation
    is_first: bool


class Account(msgspec.Struct, eq=False, gc=False):
    """One customer's totals in the periods that are in hand, and the changes not yet taken.

    A period is in hand from ``restore`` until a change that closes it, or no longer needs it, is on
    disk (``committed``): until then what is stored would be older than what was decided.
    """

    customer_id: str
    _totals: dict[Period, PeriodTotals] = {}
    _aggregations: dict[Period, Aggregation] = {}
    _change: Change | None = None
    _counting: Counting | None = None
    _recounting: Recounting | None = None

    def lacks(self, period: Period) -> bool:
        """Whether that period's stored totals must be restored before deciding on it."""
        if self._counting is not None and self._counting.hour is period:
            return False
        return period not in self._totals

    def restore(self, period: Period, totals: PeriodTotals | None) -> None:
        """Takes in hand what is stored of the period, None where nothing is."""
        self._totals[period] = totals or NOTHING

    def append(
        self, receipt: Receipt, offsets: Sequence[int], closed_until_ms: Mapping[PeriodType, int]
    ) -> None:
        """Counts the receipt's events at these offsets, which go up, in their hours.

        Those of a closed hour are late: its ``takers``, and theirs, must be in hand too. Before
        ``closed_until_ms`` whatever is not stored is closed. An event counts once, also when it is
        read again from the log.
        """
        if not receipt.is_dated:
            by_type = receipt.by_type(offsets)
            if self._count_in(receipt.hour, receipt, by_type):
                self._changing().note_blocks(receipt, by_type)
            return
        has_counted = False
        for hour, places in receipt.by_hour(offsets).items():
            by_type = receipt.by_type(places)
            if self.is_closed(hour, closed_until_ms):
                is_new = self._count_late(hour, receipt, by_type, closed_until_ms)
            else:
                is_new = self._count_in(hour, receipt, by_type)
            if is_new and hour != receipt.hour:
                self._changing().note_dated_blocks(hour, receipt, by_type)
            has_counted |= is_new
        if has_counted:
            self._changing().note_blocks(receipt, receipt.by_type(offsets))

    def is_closed(
        self, period: Period, closed_until_ms: Mapping[PeriodType, int] = NOTHING_CLOSED
    ) -> bool:
        """Whether what comes for that period, which is in hand, is late."""
        if self._counting is not None and self._counting.hour is period:
            return self._counting.closed
        totals = self._totals[period]
        return totals.closed or (
            totals is NOTHING and period.end_ms <= closed_until_ms[period.type]
        )

    def close(
        self,
        period: Period,
        rules: ClosingRules,
        now_ms: int,
        stored: Aggregation | None,
        due_ms: int | None = None,
    ) -> Aggregation | None:
        """Closes a period whose parts are all closed, once; a second call changes nothing.

        The longer periods named by ``takers`` must be in hand too, and theirs where one of them is
        closed, as it may be where the period had no events until others of them were.

        The aggregation, if one is published, and its deliveries enter the same change as the totals
        handed up. ``stored`` is the period's aggregation on disk, a snapshot. Deliveries are due at
        ``due_ms``, else now.
        """
        self._put_counted()
        totals = self._totals[period]
        if totals.closed or totals is NOTHING:
            return None
        for taker in takers(period):
            self._hand_in(taker, totals.by_type, now_ms)
        closed = self._aggregate(period, totals, rules, stored, closed=True, now_ms=now_ms)
        published = b"" if closed is None else figures_digest(closed)
        self._put(period, msgspec.structs.replace(totals, closed=True, published=published))
        if closed is None and self._aggregations.get(period, stored) is not None:
            self._withdraw(period)
        if closed is not None and closed.endpoints:
            body = completed_body(closed)
            self._changing().deliveries += tuple(
                first_attempt(closed, endpoint, body, now_ms, due_ms)
                for endpoint in closed.endpoints
            )
        return closed

    def revise(
        self,
        period: Period,
        rules: ClosingRules,
        now_ms: int,
        stored: Aggregation | None,
        due_ms: int | None = None,
    ) -> Aggregation | None:
        """Publishes anew what late events have changed, as the next revision after ``stored``, the
        aggregation on disk; see ``close``.
        """
        totals = self._totals[period]
        if not totals.late_since_ms:
            return None
        change = self._changing()
        if change.late.pop(period, None) is None:
            change.revised[period] = totals.late_since_ms
        earlier = self._aggregations.get(period, stored)
        made = revise(self.customer_id, period, totals, rules, now_ms=now_ms, earlier=earlier)
        published = totals.published if made is None else figures_digest(made)
        self._put(period, msgspec.structs.replace(totals, published=published, late_since_ms=0))
        if made is not None:
            self._aggregations[period] = change.aggregations[period] = made
            body = completed_body(made)
            if earlier is not None and earlier.closed:
                change.superseded += (earlier,)
                body = revised_body(made, earlier)
            change.deliveries += tuple(
                first_attempt(made, endpoint, body, now_ms, due_ms) for endpoint in made.endpoints
            )
        return made

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
        if not by_type and earlier is not None:
            self._withdraw(period)  # all of its events are void
        made = self._aggregate(period, running, rules, earlier, closed=False, now_ms=now_ms)
        return None if made is None else Snapshot(made, is_first=earlier is None)

    @property
    def is_recounting(self) -> bool:
        """Whether an event is about to be void (``begin_recount``)."""
        return self._recounting is not None

    def begin_recount(self, hour: Period, event_type: str) -> bytes:
        """Events of that hour, which is in hand, and type are counted again, those up to the id
        that is returned; what comes meanwhile is noted, until ``void`` or ``end_recount``.
        """
        self._put_counted()
        self._recounting = Recounting(hour, event_type)
        return self._totals[hour].through

    def end_recount(self) -> None:
        """Nothing comes of it, or it is done."""
        self._recounting = None

    def void(
        self,
        event_id: bytes,
        void: Void,
        recounted: Totals | None,
        stored: Mapping[Period, PeriodTotals],
    ) -> None:
        """Takes an event back from the hour that is being counted again, and from all periods that
        it came to: what is left without it is ``recounted``.

        The hour and all that it belongs to must be in hand; ``stored`` has, of the other parts of
        these, those that are not, as they are on disk.
        """
        assert self._recounting is not None, "an event is to be void that was not counted again"
        recounting, self._recounting = self._recounting, None
        self._put_counted()
        by_type = dict(self._totals[recounting.hour].by_type)
        left = both(recounted, recounting.since)
        if left is None:
            del by_type[recounting.event_type]
        else:
            by_type[recounting.event_type] = left
        change = self._changing()
        change.voids[event_id] = void

        def stands(period: Period) -> PeriodTotals:
            return self._totals.get(period) or stored.get(period, NOTHING)

        made = made_again(recounting.hour, by_type, void.voided_ms, stands)
        for period, totals in made.items():
            if totals.late_since_ms and not self._totals[period].late_since_ms:
                change.late[period] = totals.late_since_ms
            self._put(period, totals)

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

    def _count_in(
        self, hour: Period, receipt: Receipt, by_type: Mapping[str, Sequence[int]]
    ) -> bool:
        """Counts these events in the hour, which is open, unless they are counted in it."""
        counting = self._counting
        if counting is None or counting.hour is not hour:
            self._put_counted()
            before = self._totals[hour]
            counting = Counting(hour, dict(before.by_type), before.through, before.closed)
            self._counting = counting
        if receipt.last_id <= counting.through:
            return False
        assert not counting.closed, f"{self.customer_id}: an event came for the closed {hour.key}"
        if not counting.by_type:
            self._note_first(receipt)
        counting.count(receipt, by_type)
        if self._recounting is not None:
            self._recounting.count(hour, receipt, by_type)
        return True

    def _count_late(
        self,
        hour: Period,
        receipt: Receipt,
        by_type: Mapping[str, Sequence[int]],
        closed_until_ms: Mapping[PeriodType, int],
    ) -> bool:
        """The same in an hour that is closed, and in all periods that it was handed up to."""
        self._put_counted()
        before = self._totals[hour]
        if receipt.last_id <= before.through:
            return False
        if not before.by_type:
            self._note_first(receipt)
        added = {event_type: receipt.totals(offsets) for event_type, offsets in by_type.items()}
        if self._recounting is not None:
            self._recounting.count(hour, receipt, by_type)
        self._hand_in(hour, added, receipt.received_ms, closed_until_ms)
        counted_in = self._totals[hour]
        self._put(hour, msgspec.structs.replace(counted_in, through=receipt.last_id))
        return True

    def _hand_in(
        self,
        period: Period,
        by_type: dict[str, Totals],
        since_ms: int,
        closed_until_ms: Mapping[PeriodType, int] = NOTHING_CLOSED,
    ) -> None:
        """Adds totals of its parts to a period, and where it is closed to those it belongs to."""
        is_closed = self.is_closed(period, closed_until_ms)
        before = self._totals[period]
        late_since_ms = before.late_since_ms
        if is_closed and not late_since_ms:
            late_since_ms = self._changing().late[period] = since_ms
        self._put(
            period,
            msgspec.structs.replace(
                before,
                closed=is_closed,
                by_type=merge_types(before.by_type, by_type),
                late_since_ms=late_since_ms,
            ),
        )
        if is_closed:
            for taker in takers(period):
                self._hand_in(taker, by_type, since_ms, closed_until_ms)

    def _withdraw(self, period: Period) -> None:
        """There is nothing to publish of it any more."""
        change = self._changing()
        change.aggregations.pop(period, None)
        self._aggregations.pop(period, None)
        change.withdrawn += (period,)

    def _note_first(self, receipt: Receipt) -> None:
        if self._changing().first_received_ms is None:
            self._changing().first_received_ms = receipt.received_ms

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
