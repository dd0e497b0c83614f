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

BLOCK_EVENTS: Final = 64
_FIRST: Final = (0,)


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """At least one event, in the order given; ``blocks`` are their blocks' ids."""

    stamp: Stamp
    events: Sequence[UsageEvent]
    hour: Period
    blocks: Sequence[bytes]
    last_id: bytes

    @property
    def received_ms(self) -> int:
        return self.stamp.received_ms

    def position(self, offset: int) -> bytes:
        """Where the event at that offset stands among its customer's."""
        if offset % BLOCK_EVENTS:
            return position(self.stamp.received_ms, self.stamp.id(offset))
        return position(self.stamp.received_ms, self.blocks[offset // BLOCK_EVENTS])


def receive(stamp: Stamp, events: Sequence[UsageEvent]) -> Receipt:
    """The receipt of events that came at the stamp's moment."""
    hour = period_at(PeriodType.HOURLY, stamp.received_ms)
    first_id = stamp.id()
    if len(events) == 1:
        return Receipt(stamp, events, hour, (first_id,), first_id)
    blocks = [stamp.id(offset) for offset in range(0, len(events), BLOCK_EVENTS)]
    return Receipt(stamp, events, hour, blocks, stamp.id(len(events) - 1))


def group_by_customer(events: Sequence[UsageEvent]) -> Mapping[str, Sequence[int]]:
    """The offsets of each customer's events, which go up."""
    if len(events) == 1:
        return {events[0].customer_id: _FIRST}
    found: defaultdict[str, list[int]] = defaultdict(list)
    for offset, event in enumerate(events):
        found[event.customer_id].append(offset)
    return found
