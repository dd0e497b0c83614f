"""What is counted in one hour while it goes on: all of it, and what comes while some is counted
again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.digests import START, UNKNOWN, chained
from meterd.domain.periods import Period
from meterd.domain.totals import PeriodTotals, Totals, counted, merge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.domain.receipts import Receipt


class Counting(msgspec.Struct, eq=False, gc=False):
    """An open hour's totals while events are counted in it."""

    hour: Period
    by_type: dict[str, Totals]
    through: bytes
    closed: bool
    chain: bytes
    has_counted: bool = False

    def count(
        self, receipt: Receipt, offsets: Sequence[int], by_type: Mapping[str, Sequence[int]]
    ) -> None:
        """Counts the receipt's events at these offsets, which are given by type, too."""
        self.through = receipt.last_id
        self.chain = chained(self.chain, receipt, offsets)
        self.has_counted = True
        for event_type, places in by_type.items():
            found = self.by_type.get(event_type)
            if found is not None and len(places) == 1:
                (offset,) = places
                value, at = receipt.events[offset].value, receipt.position(offset)
                totals = counted(found, value, at)
            else:
                added = receipt.totals(places)
                totals = added if found is None else merge(found, added)
            self.by_type[event_type] = totals

    def totals(self) -> PeriodTotals:
        """As counted; nothing may be counted here any more."""
        return PeriodTotals(
            closed=False, by_type=self.by_type, through=self.through, chain=self.chain
        )


def chain_of(hour: PeriodTotals) -> bytes:
    """The chain that what is counted in the hour next comes to."""
    is_new = not (hour.through or hour.by_type)
    return hour.chain or (START if is_new else UNKNOWN)


class Recounting(msgspec.Struct, eq=False, gc=False):
    """Of an hour that is being counted again, what comes meanwhile of that type: ``since``.

    What is read again is as old as its reading is long, and the customer's events go on being
    counted: both together are the hour's totals.
    """

    hour: Period
    event_type: str
    since: Totals | None = None

    def count(self, hour: Period, receipt: Receipt, by_type: Mapping[str, Sequence[int]]) -> None:
        """The receipt's events at these offsets are counted in that hour."""
        offsets = by_type.get(self.event_type)
        if hour == self.hour and offsets:
            self.since = both(self.since, receipt.totals(offsets))


def both(one: Totals | None, other: Totals | None) -> Totals | None:
    """The totals of two sets of events together, of which either may be empty."""
    if one is None or other is None:
        return other if one is None else one
    return merge(one, other)
