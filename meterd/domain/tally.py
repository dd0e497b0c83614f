"""Counts one customer's events in the periods that are in hand, and takes events back.

Every event is counted once, in its hour. When an hour closes, its totals are handed up to its day;
when a day closes, to its week, month and year. So an event costs the same however many periods are
configured, a period that is configured later is complete from its first hour, and hourly totals are
there for ever. A longer period's totals at this moment are its own and those of its open parts.

An event may come when its hour is closed. Then it is counted in the hour and in every period that
the hour was handed up to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.changes import Change
from meterd.domain.counting import Counting, Recounting, both, chain_of
from meterd.domain.digests import STALE, chained, linked, stale, void_line
from meterd.domain.hierarchy import NOTHING_CLOSED, takers
from meterd.domain.periods import Period, PeriodType
from meterd.domain.totals import NOTHING, PeriodTotals, merge_types
from meterd.domain.voids import made_again

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.domain.receipts import Receipt
    from meterd.domain.totals import Totals
    from meterd.domain.voids import Void


# What a tally is made of holds no cycles, and there may be 100,000 of them: nothing of it is for
# the garbage collector to walk over (``gc=False``; no lists or tuples, but for a moment).


class Tally(msgspec.Struct, eq=False, gc=False):
    """One customer's totals in the periods that are in hand, and the changes not yet taken.

    A period is in hand from ``restore`` on.
    """

    customer_id: str
    _totals: dict[Period, PeriodTotals] = {}
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
            if self._count_in(receipt.hour, receipt, offsets, by_type):
                self._changing().note_blocks(receipt, by_type)
            return
        has_counted = False
        for hour, places in receipt.by_hour(offsets).items():
            by_type = receipt.by_type(places)
            if self.is_closed(hour, closed_until_ms):
                is_new = self._count_late(hour, receipt, places, by_type, closed_until_ms)
            else:
                is_new = self._count_in(hour, receipt, places, by_type)
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
    ) -> Void:
        """Takes an event back from the hour that is being counted again, and from all periods that
        it came to: what is left without it is ``recounted``. Returns the void as it is written.

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
        before = chain_of(self._totals[recounting.hour])
        void = change.voids[event_id] = msgspec.structs.replace(void, behind=before)
        chain = linked(before, void_line(event_id, void.reason, void.voided_ms))

        def stands(period: Period) -> PeriodTotals:
            return self._totals.get(period) or stored.get(period, NOTHING)

        made = made_again(recounting.hour, by_type, chain, void.voided_ms, stands)
        for period, totals in made.items():
            if totals.late_since_ms and not self._totals[period].late_since_ms:
                change.late[period] = totals.late_since_ms
            self._put(period, totals)
        return void

    def take_change(self) -> Change | None:
        """What is to be written since the last call, if anything."""
        self._put_counted()
        change, self._change = self._change, None
        return change

    def _count_in(
        self,
        hour: Period,
        receipt: Receipt,
        offsets: Sequence[int],
        by_type: Mapping[str, Sequence[int]],
    ) -> bool:
        """Counts these events in the hour, which is open, unless they are counted in it."""
        counting = self._counting
        if counting is None or counting.hour is not hour:
            self._put_counted()
            before = self._totals[hour]
            counting = Counting(
                hour, dict(before.by_type), before.through, before.closed, chain_of(before)
            )
            self._counting = counting
        if receipt.last_id <= counting.through:
            return False
        assert not counting.closed, f"{self.customer_id}: an event came for the closed {hour.key}"
        if not counting.by_type:
            self._note_first(receipt)
        counting.count(receipt, offsets, by_type)
        if self._recounting is not None:
            self._recounting.count(hour, receipt, by_type)
        return True

    def _count_late(
        self,
        hour: Period,
        receipt: Receipt,
        offsets: Sequence[int],
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
        chain = chained(chain_of(before), receipt, offsets)
        self._put(hour, msgspec.structs.replace(counted_in, through=receipt.last_id, chain=chain))
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
        chain = before.chain
        if is_closed and period.type is not PeriodType.HOURLY:
            chain = STALE if before is NOTHING else stale(chain)
        self._put(
            period,
            msgspec.structs.replace(
                before,
                closed=is_closed,
                by_type=merge_types(before.by_type, by_type),
                late_since_ms=late_since_ms,
                chain=chain,
            ),
        )
        if is_closed:
            for taker in takers(period):
                self._hand_in(taker, by_type, since_ms, closed_until_ms)

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
