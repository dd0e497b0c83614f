"""The log: every event ever recorded, in the order of receipt, written before it is acknowledged.

A record holds whole blocks (see ``domain.receipts``) that came within one millisecond, one after
another, and is keyed by the id of its first event. So what is new is appended at one place, a few
pages for a whole transaction; records never overlap; and a block is in the last record that does
not begin after it. ``records_by_type`` says which records hold events of a type. Both are written
here, at once; what is kept for each customer is posted later (``journal``, ``recovery``).

Synchronous, inside a transaction of ``store``; knows nothing of actors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meterd.domain.event_ids import Stamp, stamp_of
from meterd.domain.receipts import BLOCK_EVENTS, receive
from meterd.embedded import keys, records
from meterd.embedded.records import LoggedBlock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from meterd.domain.events import UsageEvent
    from meterd.domain.receipts import Receipt
    from meterd.embedded.store import Transaction

# A record is full with the block that reaches this, so it has less than two blocks' events.
_FULL: Final = BLOCK_EVENTS
_LAST_ID: Final = b"\xff" * keys.STAMP_BYTES


class _Record:
    """A record being filled."""

    def __init__(self, block_id: bytes, stamp: Stamp) -> None:
        self.id = block_id
        self.stamp = stamp
        self.blocks: list[LoggedBlock] = []
        self.events = 0

    def add(self, counter: int, events: Sequence[UsageEvent]) -> None:
        self.blocks.append(LoggedBlock(counter - self.stamp.counter, events))
        self.events += len(events)

    def write(self, txn: Transaction) -> None:
        txn.put("events", self.id, records.encode(self.blocks))
        for event_type in {event.event_type for block in self.blocks for event in block.events}:
            txn.put("records_by_type", keys.record_by_type(event_type, self.id), b"")


def write_receipts(txn: Transaction, receipts: Iterable[Receipt]) -> None:
    """Appends these, given in the order of their stamps, which are greater than all before."""
    record: _Record | None = None
    events = 0
    for receipt in receipts:
        stamp = receipt.stamp
        for number, block_id in enumerate(receipt.blocks):
            start = number * BLOCK_EVENTS
            if record is not None and (
                record.events >= _FULL or record.stamp.received_ms != stamp.received_ms
            ):
                record.write(txn)
                record = None
            if record is None:
                record = _Record(block_id, stamp.later(start))
            record.add(stamp.counter + start, receipt.events[start : start + BLOCK_EVENTS])
        events += len(receipt.events)
    if record is not None:
        record.write(txn)
        txn.put("meta", keys.EVENTS, records.number(count_events(txn) + events))


def read_from(txn: Transaction, after: bytes) -> Iterator[Receipt]:
    """What was recorded behind that id, in order: a receipt for each block.

    The id may lie within a record, of which the blocks behind it are read. It cuts no block: what
    is posted is posted by whole appends, or by whole blocks.
    """
    start = txn.last_key("events", after) or b""
    for record_id, payload in txn.forward("events", start, b""):
        first = stamp_of(record_id)
        for block in records.decode_record(payload):
            receipt = receive(first.later(block.counter), block.events)
            if receipt.last_id > after:
                yield receipt


def last_stamp(txn: Transaction) -> Stamp | None:
    """The stamp of the last event; None while there is none."""
    for record_id, payload in txn.backward("events", _LAST_ID, b""):
        block = records.decode_record(payload)[-1]
        return stamp_of(record_id).later(block.counter + len(block.events) - 1)
    return None


def count_events(txn: Transaction) -> int:
    """All events ever stored."""
    return records.read_number(txn.get("meta", keys.EVENTS))
