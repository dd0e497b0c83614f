"""Deletes events whose time is over, from the beginning of the log, with what its index by type has
of them and what says that they are void.

How far it came is written down in the transaction that deletes: the last event that is gone, and
the end of the last hour that one of them was in (``records.Pruned``). So after each transaction
what is left is whole, and a check knows which hours may lack events. Totals and their digests are
not touched.

What goes stands in one place of each table. The indexes of customers still name it: whoever reads
them passes over ids up to that mark, and ``sweeping`` lets go of them, many in one page at a time.
Idempotency keys are gone before (``forgetting``).

All that is read is read before, beside the writer: it waits for no page of the disk then, and a
damaged record is met where it ends nothing but this.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.event_ids import stamp_of
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.embedded import journal, keys, log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.embedded.log import Block
    from meterd.embedded.transaction import Transaction

# In one transaction: deleted, 5 ms of these, which are neighbours.
TOUCHED_AT_ONCE: Final = 1_024
# Some 20 ms of reading, where a batch is of few customers.
EVENTS_AT_ONCE: Final = 4_000
# Of periods that wait to be revised, which may be a million: 40 ms of reading.
LATE_AT_ONCE: Final = 10_000


class Prunable(msgspec.Struct):
    """Records of the log with the types of their events; ``until_ms`` is as in ``Pruned``."""

    records: list[tuple[bytes, set[str]]] = []
    voids: list[bytes] = []
    through: bytes = b""
    until_ms: int = 0
    events: int = 0
    touched: int = 0

    def add(self, record_id: bytes, blocks: Sequence[Block], latest_ms: int) -> None:
        """The next record, what is in it, and when the last of that was received or happened."""
        event_types = {event.event_type for block in blocks for event in block.events}
        self.until_ms = max(self.until_ms, period_at(PeriodType.HOURLY, latest_ms).end_ms)
        self.events += sum(len(block.events) for block in blocks)
        self.records.append((record_id, event_types))
        self.through = blocks[-1].last_id
        self.touched += 1 + len(event_types)

    @property
    def is_enough(self) -> bool:
        """Whether it is as much as a transaction should do."""
        touched = self.touched + len(self.voids)
        return touched >= TOUCHED_AT_ONCE or self.events >= EVENTS_AT_ONCE


def closed_until_ms(txn: Transaction, ended_ms: int) -> int:
    """Before this moment every period is closed, and ended by ``ended_ms``."""
    return min(
        period_at(kind, max(0, min(ended_ms, closed_ms))).start_ms
        for kind, closed_ms in journal.all_closed_until_ms(txn).items()
    )


def first_to_revise(txn: Transaction, start: bytes) -> tuple[float, bytes | None]:
    """When the first period begins of a portion of those that wait to be revised, from that key on;
    and from which the next portion goes on, None where there is none.
    """
    first_ms = inf
    for number, key in enumerate(txn.keys_forward("late", start, b"")):
        if number == LATE_AT_ONCE:
            return first_ms, key
        first_ms = min(first_ms, keys.totals_period(keys.late_totals_key(key)).start_ms)
    return first_ms, None


def prunable(txn: Transaction, before_ms: int) -> Prunable:
    """What is next of what was received or happened before the hour of that moment, and has no key
    any more. By then all is settled: closed, and as it was published.
    """
    found = Prunable()
    before_ms = before_ms // HOUR_MS * HOUR_MS
    forgotten = journal.forgotten_through(txn)
    void = txn.keys_forward("voids", b"", b"")
    next_void = next(void, None)
    for record_id, payload in txn.forward("events", b"", b""):
        if stamp_of(record_id).received_ms >= before_ms:
            break
        blocks = log.blocks_in(record_id, payload)
        latest_ms = _latest_ms(blocks)
        if blocks[-1].last_id > forgotten or latest_ms >= before_ms:
            break
        found.add(record_id, blocks, latest_ms)
        while next_void is not None and stamp_of(next_void).id() <= found.through:
            found.voids.append(next_void)
            next_void = next(void, None)
        if found.is_enough:
            break
    return found


def prune(txn: Transaction, found: Prunable) -> None:
    """They are gone from here on; what was found is still so."""
    for record_id, event_types in found.records:
        txn.delete("events", record_id)
        for event_type in event_types:
            txn.delete("records_by_type", keys.record_by_type(event_type, record_id))
    txn.delete_all("voids", found.voids)
    before = journal.read_pruned(txn)
    until_ms, events = max(before.until_ms, found.until_ms), before.events + found.events
    replaced = msgspec.structs.replace(
        before, through=found.through, until_ms=until_ms, events=events
    )
    journal.write_pruned(txn, replaced)


def _latest_ms(blocks: Sequence[Block]) -> int:
    """When the last of their events was received, or happened."""
    return max(
        max([block.stamp.received_ms, *[event.timestamp_ms or 0 for event in block.events]])
        for block in blocks
    )
