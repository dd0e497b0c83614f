"""Deletes events whose time is over, from the beginning of the log, with all that points to them.

How far it came is written down in the transaction that deletes: the last event that is gone, and
the end of the last hour that one of them was in (``records.Pruned``). So after each transaction
what is left is whole, and a check knows which hours may lack events. Totals and their digests are
not touched.

The indexes of a customer stand in the order of the log, too, so what goes of them is their
beginning. Idempotency keys are gone before (``forgetting``).

All that is read is read before, beside the writer: it waits for no page of the disk then, and a
damaged record is met where it ends nothing but this.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.receipts import receive
from meterd.embedded import journal, keys, records
from meterd.embedded.records import Pruned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.receipts import Receipt
    from meterd.embedded.transaction import Transaction

# In one transaction: deleted or written anew, 5 ms of these where each is in a page of its own.
TOUCHED_AT_ONCE: Final = 256
# Some 20 ms of reading, where a batch is of few customers.
EVENTS_AT_ONCE: Final = 4_000
# Where more periods wait to be revised it waits, too, rather than to look through all of them:
# these take 0.4 s of reading, once for many transactions.
LATE_MAX: Final = 100_000


class Prunable(msgspec.Struct):
    """Records of the log with the types of their events, and where the indexes name them: keys of
    ``blocks_by_customer`` and ``blocks_by_hour`` without the block. ``until_ms`` is as in
    ``Pruned``. ``dropped`` and ``kept`` are what becomes of index records: their tables and keys,
    and what stands there instead.
    """

    records: list[tuple[bytes, set[str]]] = []
    blocks: set[bytes] = set()
    dated_blocks: set[bytes] = set()
    dropped: list[tuple[str, bytes]] = []
    kept: list[tuple[str, bytes, bytes]] = []
    voids: list[bytes] = []
    through: bytes = b""
    until_ms: int = 0
    events: int = 0
    touched: int = 0

    def add(self, parts: int, record_id: bytes, receipts: Sequence[Receipt]) -> None:
        """The next record and what is in it."""
        event_types = set()
        for receipt in receipts:
            for offset, event in enumerate(receipt.events):
                event_types.add(event.event_type)
                part = keys.part_of(event.customer_id, parts)
                names = part, event.customer_id, event.event_type
                self.blocks.add(keys.blocks_prefix(*names))
                hour = period_at(PeriodType.HOURLY, receipt.happened_ms(offset))
                if hour != receipt.hour:
                    self.dated_blocks.add(keys.dated_blocks_prefix(hour, *names))
                self.until_ms = max(self.until_ms, receipt.hour.end_ms, hour.end_ms)
            self.events += len(receipt.events)
        self.records.append((record_id, event_types))
        self.through = receipts[-1].last_id
        self.touched += 1 + len(event_types)

    @property
    def is_enough(self) -> bool:
        """Whether it is as much as a transaction should do."""
        touched = self.touched + len(self.blocks) + len(self.dated_blocks) + len(self.voids)
        return touched >= TOUCHED_AT_ONCE or self.events >= EVENTS_AT_ONCE


def settled_until_ms(txn: Transaction, ended_ms: int) -> int:
    """Before this moment every period is closed, ended by ``ended_ms``, and as it was published."""
    until_ms = min(
        period_at(kind, max(0, min(ended_ms, closed_ms))).start_ms
        for kind, closed_ms in journal.all_closed_until_ms(txn).items()
    )
    for number, key in enumerate(txn.keys_forward("late", b"", b"")):
        if number == LATE_MAX:
            return 0
        until_ms = min(until_ms, keys.totals_period(keys.late_totals_key(key)).start_ms)
    return until_ms


def prunable(txn: Transaction, parts: int, before_ms: int) -> Prunable:
    """What is next of what was received or happened before the hour of that moment, and has no key
    any more; that is settled.
    """
    found = Prunable()
    before_ms = before_ms // HOUR_MS * HOUR_MS
    forgotten = journal.forgotten_through(txn)
    void = txn.keys_forward("voids", b"", b"")
    next_void = next(void, None)
    for record_id, payload in txn.forward("events", b"", b""):
        first = stamp_of(record_id)
        if first.received_ms >= before_ms:
            break
        blocks = records.decode_record(payload)
        receipts = [receive(block.stamp(first), block.events) for block in blocks]
        if receipts[-1].last_id > forgotten or _latest_ms(receipts) >= before_ms:
            break
        found.add(parts, record_id, receipts)
        while next_void is not None and stamp_of(next_void).id() <= found.through:
            found.voids.append(next_void)
            next_void = next(void, None)
        if found.is_enough:
            break
    for prefix in sorted(found.blocks):
        _split_blocks(txn, "blocks_by_customer", prefix, found)
    for prefix in sorted(found.dated_blocks):
        _split_blocks(txn, "blocks_by_hour", prefix, found)
    return found


def prune(txn: Transaction, found: Prunable) -> None:
    """They are gone from here on; what was found is still so but for what was added behind it."""
    for record_id, event_types in found.records:
        txn.delete("events", record_id)
        for event_type in event_types:
            txn.delete("records_by_type", keys.record_by_type(event_type, record_id))
    for table, key in found.dropped:
        txn.delete(table, key)
    for table, key, payload in found.kept:
        txn.put(table, key, payload)
    txn.delete_all("voids", found.voids)
    before = journal.read_pruned(txn)
    until_ms = max(before.until_ms, found.until_ms)
    journal.write_pruned(txn, Pruned(found.through, until_ms, before.events + found.events))


def _latest_ms(receipts: Sequence[Receipt]) -> int:
    """When the last of these events was received, or happened."""
    return max(
        max(receipt.received_ms, *map(receipt.happened_ms, range(len(receipt.events))))
        for receipt in receipts
    )


def _split_blocks(txn: Transaction, table: str, prefix: bytes, found: Prunable) -> None:
    """What becomes of an index's beginning, without the blocks up to the last event that goes."""
    stand = txn.forward(table, prefix, prefix)
    for key, payload in takewhile(lambda one: one[0][-ID_BYTES:] <= found.through, stand):
        found.dropped.append((table, key))
        rest = [one for one in records.split_block_ids(payload) if one > found.through]
        if rest:
            found.kept.append((table, prefix + rest[0], b"".join(rest)))
