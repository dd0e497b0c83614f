"""An append as it was received: its events with their ids, in the blocks that the log keeps.

A block is up to ``BLOCK_EVENTS`` consecutive events of one append, and is named by the id of its
first event. It is what an index points to: small enough that reading one event of a customer reads
few of others, large enough that a batch needs few entries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from meterd.domain.event_ids import Stamp, position
from meterd.domain.events import UsageEvent
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.totals import Totals, totals_of

BLOCK_EVENTS: Final = 64
_FIRST: Final = (0,)


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """At least one event, in the order given; ``blocks`` are their blocks' ids, ``hour`` is that of
    receipt. ``is_dated`` says that some of them say when they happened; the others happened then.
    """

    stamp: Stamp
    events: Sequence[UsageEvent]
    hour: Period
    blocks: Sequence[bytes]
    last_id: bytes
    is_dated: bool = False

    @property
    def received_ms(self) -> int:
        return self.stamp.received_ms

    @property
    def earliest_ms(self) -> int:
        """When the first of the events happened."""
        if not self.is_dated:
            return self.stamp.received_ms
        return min(map(self.happened_ms, range(len(self.events))))

    def happened_ms(self, offset: int) -> int:
        """When the event at that offset happened."""
        said_ms = self.events[offset].timestamp_ms
        return self.stamp.received_ms if said_ms is None else said_ms

    def position(self, offset: int) -> bytes:
        """Where the event at that offset stands among its customer's."""
        happened_ms = self.happened_ms(offset) if self.is_dated else self.stamp.received_ms
        if offset % BLOCK_EVENTS:
            return position(happened_ms, self.stamp.id(offset))
        return position(happened_ms, self.blocks[offset // BLOCK_EVENTS])

    def totals(self, offsets: Sequence[int]) -> Totals:
        """Of the events at these offsets alone."""
        if self.is_dated:
            offsets = sorted(offsets, key=self.position)
        values = [self.events[offset].value for offset in offsets]
        return totals_of(values, self.position(offsets[0]), self.position(offsets[-1]))

    def block_ids(self, offsets: Sequence[int]) -> bytes:
        """Of the blocks that hold the events at these offsets, which go up, one behind another."""
        if len(offsets) == 1:
            return self.blocks[offsets[0] // BLOCK_EVENTS]
        numbers = dict.fromkeys([offset // BLOCK_EVENTS for offset in offsets])
        return b"".join([self.blocks[number] for number in numbers])

    def by_type(self, offsets: Sequence[int]) -> Mapping[str, Sequence[int]]:
        """These offsets, of which there is at least one, by the type of the event there."""
        if len(offsets) == 1:
            return {self.events[offsets[0]].event_type: offsets}
        found: defaultdict[str, list[int]] = defaultdict(list)
        for offset in offsets:
            found[self.events[offset].event_type].append(offset)
        return found

    def by_hour(self, offsets: Sequence[int]) -> Mapping[Period, Sequence[int]]:
        """These offsets, by the hour in which the event there happened."""
        if not self.is_dated:
            return {self.hour: offsets}
        found: defaultdict[Period, list[int]] = defaultdict(list)
        for offset in offsets:
            found[period_at(PeriodType.HOURLY, self.happened_ms(offset))].append(offset)
        return found


def receive(stamp: Stamp, events: Sequence[UsageEvent]) -> Receipt:
    """The receipt of events that came at the stamp's moment."""
    hour = period_at(PeriodType.HOURLY, stamp.received_ms)
    first_id = stamp.id()
    if len(events) == 1:
        is_dated = events[0].timestamp_ms is not None
        return Receipt(stamp, events, hour, (first_id,), first_id, is_dated)
    blocks = [stamp.id(offset) for offset in range(0, len(events), BLOCK_EVENTS)]
    is_dated = any([event.timestamp_ms is not None for event in events])  # noqa: C419 - faster
    return Receipt(stamp, events, hour, blocks, stamp.id(len(events) - 1), is_dated)


def group_by_customer(events: Sequence[UsageEvent]) -> Mapping[str, Sequence[int]]:
    """The offsets of each customer's events, which go up."""
    if len(events) == 1:
        return {events[0].customer_id: _FIRST}
    found: defaultdict[str, list[int]] = defaultdict(list)
    for offset, event in enumerate(events):
        found[event.customer_id].append(offset)
    return found
