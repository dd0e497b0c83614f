"""The log: every event ever recorded, but for a beginning that may have been pruned, in the order
of receipt, written before it is acknowledged.

A record holds whole blocks (see ``domain.receipts``) of one transaction, one after another, and is
keyed by the id of its first event. So what is new is appended at one place, a few pages for a whole
transaction; and since stamps only go up, records never overlap, and a block is in the last record
that does not begin after it. ``records_by_type`` says which records hold events of a type. Both are
written here, at once; what is kept for each customer is posted later (``journal``, ``recovery``).

Synchronous, inside a transaction of ``store``; knows nothing of actors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from meterd.domain.event_ids import ID_BYTES, Stamp, stamp_of
from meterd.domain.receipts import BLOCK_EVENTS, receive
from meterd.embedded import journal, keys, records
from meterd.embedded.records import LoggedBlock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from meterd.domain.events import UsageEvent
    from meterd.domain.receipts import Receipt
    from meterd.embedded.transaction import Transaction

# A record is full with the block that reaches this, so it has less than two blocks' events.
_FULL: Final = BLOCK_EVENTS
_LAST_ID: Final = b"\xff" * ID_BYTES


class Block(NamedTuple):
    """Events of one append, one behind another, and at which offset in it they begin."""

    id: bytes
    stamp: Stamp
    events: Sequence[UsageEvent]
    begins_at: int

    @property
    def last_id(self) -> bytes:
        """That of its last event."""
        return self.stamp.id(len(self.events) - 1)

    @property
    def append_id(self) -> bytes:
        """That of the append's first event."""
        return self.stamp.later(-self.begins_at).id() if self.begins_at else self.id


class _Record:
    """A record being filled."""

    def __init__(self, first: Stamp) -> None:
        self.first = first
        self.blocks: list[LoggedBlock[UsageEvent]] = []
        self.events = 0

    def add(self, stamp: Stamp, events: Sequence[UsageEvent], begins_at: int) -> None:
        later_ms = stamp.received_ms - self.first.received_ms
        later_counter = stamp.counter - self.first.counter
        self.blocks.append(LoggedBlock(later_ms, later_counter, events, begins_at))
        self.events += len(events)

    def write(self, txn: Transaction) -> None:
        record_id = self.first.id()
        txn.put("events", record_id, records.encode(self.blocks))
        for event_type in {event.event_type for block in self.blocks for event in block.events}:
            txn.put("records_by_type", keys.record_by_type(event_type, record_id), b"")


def write_receipts(txn: Transaction, receipts: Iterable[Receipt]) -> None:
    """Appends these, given in the order of their stamps, which are greater than all before."""
    record: _Record | None = None
    events = 0
    for receipt in receipts:
        for start in range(0, len(receipt.events), BLOCK_EVENTS):
            stamp = receipt.stamp.later(start)
            if record is not None and record.events >= _FULL:
                record.write(txn)
                record = None
            if record is None:
                record = _Record(stamp)
            record.add(stamp, receipt.events[start : start + BLOCK_EVENTS], start)
        events += len(receipt.events)
    if record is not None:
        record.write(txn)
        txn.put("meta", keys.EVENTS, records.number(count_events(txn) + events))


def blocks_from(txn: Transaction, after: bytes) -> Iterator[Block]:
    """What was recorded behind that id, in order. It may lie within a block, and then that is the
    first.
    """
    return (found for found in _in_records_from(txn, after) if found.last_id > after)


def appends_from(txn: Transaction, after: bytes) -> Iterator[Receipt]:
    """The same as it was received. The id may lie within an append, and then that is the first."""
    first = next(blocks_from(txn, after), None)
    if first is None:
        return
    append_id = first.append_id
    began: Block | None = None
    events: list[UsageEvent] = []
    for found in _in_records_from(txn, append_id):
        if found.id < append_id:
            continue
        if began is not None and not found.begins_at:
            yield receive(began.stamp, events)
            began = None
        if began is None:
            began, events = found, []
        events += found.events
    if began is not None:
        yield receive(began.stamp, events)


def _in_records_from(txn: Transaction, event_id: bytes) -> Iterator[Block]:
    """All from the record on that the event is in, if it is there."""
    start = txn.last_key("events", event_id) or b""
    for record_id, payload in txn.forward("events", start, b""):
        yield from blocks_in(record_id, payload)


def block(txn: Transaction, block_id: bytes) -> Sequence[UsageEvent]:
    """The events of the block of that id; none where there is no such block."""
    found = next(blocks(txn, [block_id]), None)
    return () if found is None else found.events


def event_at(txn: Transaction, stamp: Stamp) -> UsageEvent | None:
    """The event that was stored at that stamp, if one was."""
    record_id = txn.last_key("events", stamp.id())
    payload = None if record_id is None else txn.get("events", record_id)
    if record_id is None or payload is None:
        return None
    for found in blocks_in(record_id, payload):
        offset = stamp.counter - found.stamp.counter
        if found.stamp.later(offset) == stamp and 0 <= offset < len(found.events):
            return found.events[offset]
    return None


def blocks(txn: Transaction, block_ids: Iterable[bytes]) -> Iterator[Block]:
    """Those of the blocks that are there, of ids that go up or down: each record is read once."""
    record_id: bytes | None = None
    found: Mapping[bytes, Block] = {}
    for block_id in block_ids:
        if block_id not in found:
            if (its_record := txn.last_key("events", block_id)) is None or its_record == record_id:
                continue
            record_id, payload = its_record, txn.get("events", its_record)
            read = [] if payload is None else blocks_in(its_record, payload)
            found = {one.id: one for one in read}
        if block_id in found:
            yield found[block_id]


def blocks_in(record_id: bytes, payload: bytes) -> list[Block]:
    """All that a record holds, in their order."""
    first = stamp_of(record_id)
    stamps = [(one.stamp(first), one) for one in records.decode_record(payload)]
    return [Block(stamp.id(), stamp, one.events, one.begins_at) for stamp, one in stamps]


def last_stamp(txn: Transaction) -> Stamp | None:
    """The stamp of the last event that was ever stored; None while there is none."""
    for record_id, payload in txn.backward("events", _LAST_ID, b""):
        block = blocks_in(record_id, payload)[-1]
        return block.stamp.later(len(block.events) - 1)
    pruned = journal.read_pruned(txn)
    return stamp_of(pruned.through) if pruned.events else None


def count_events(txn: Transaction) -> int:
    """All events ever stored."""
    return records.read_number(txn.get("meta", keys.EVENTS))
