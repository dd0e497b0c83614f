"""Holds the indexes of the log against the log: by type, by customer and type, and by hour of those
events that did not happen in the hour in which they were received.

They are asked, in the order of the log, for what must stand in them next. What stands in them
beyond that shows at the end, where their sizes differ, and only then is looked for.
"""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import takewhile
from operator import lt
from typing import TYPE_CHECKING, Final

from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.receipts import receive
from meterd.embedded import journal, keys, log, records
from meterd.embedded.differences import NOTHING, Difference, at_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from meterd.domain.events import UsageEvent
    from meterd.embedded.differences import Checking
    from meterd.embedded.records import Pruned
    from meterd.embedded.transaction import Transaction

_BY_TYPE: Final = "records_by_type"
_BY_CUSTOMER: Final = "blocks_by_customer"
_BY_HOUR: Final = "blocks_by_hour"
_HOUR_BYTES: Final = 4


class TypeIndex:
    """``records_by_type``: for each type exactly the records that hold events of it, of those from
    ``start`` on and before ``end``.

    One place in it is kept for each event type.
    """

    def __init__(self, txn: Transaction, start: bytes = b"", end: bytes | None = None) -> None:
        self._txn = txn
        self._start = start
        self._end = end
        self._rest: dict[str, Iterator[bytes]] = {}
        self._next: dict[str, bytes | None] = {}

    def expect(self, event_types: Iterable[str], record_id: bytes) -> Iterator[Difference]:
        """The next record of the log, and the types of its events."""
        for event_type in event_types:
            if event_type not in self._rest:
                self._rest[event_type] = self._standing(event_type)
                self._advance(event_type)
            found = self._next[event_type]
            wanted = keys.record_by_type(event_type, record_id)
            while found is not None and found < wanted:
                yield _extra(found)
                found = self._advance(event_type)
            if found == wanted:
                self._advance(event_type)
            else:
                yield at_key(_BY_TYPE, wanted, "record", NOTHING, "there")

    def finish(self) -> Iterator[Difference]:
        """What stands behind all that was expected, and types of which nothing was."""
        start = b""
        while (key := self._txn.first_key(_BY_TYPE, start)) is not None:
            event_type = key.split(keys.END, 1)[0]
            name = event_type.decode()
            if name in self._next:
                while (found := self._next[name]) is not None:
                    yield _extra(found)
                    self._advance(name)
            else:
                yield from map(_extra, self._standing(name))
            start = event_type + keys.AFTER_END

    def _standing(self, event_type: str) -> Iterator[bytes]:
        """What stands in it of that type."""
        start, prefix = (
            keys.record_by_type(event_type, self._start),
            keys.record_by_type(event_type),
        )
        found = self._txn.keys_forward(_BY_TYPE, start, prefix)
        if self._end is None:
            return found
        return takewhile(keys.record_by_type(event_type, self._end).__gt__, found)

    def _advance(self, event_type: str) -> bytes | None:
        found = self._next[event_type] = next(self._rest[event_type], None)
        return found


class BlockIndex:
    """``blocks_by_customer``: for each customer and type exactly the blocks with counted events.

    And ``blocks_by_hour``, where ``is_by_hour``: the same, of events of that hour from another.
    """

    def __init__(self, txn: Transaction, parts: int, *, is_by_hour: bool) -> None:
        self._txn = txn
        self._parts = parts
        self._is_by_hour = is_by_hour
        self._table = _BY_HOUR if is_by_hour else _BY_CUSTOMER
        self.found = 0

    def expect(
        self, hour: Period | None, customer_id: str, event_type: str, blocks: Sequence[bytes]
    ) -> Iterator[Difference]:
        """Blocks that follow each other in the log, with counted events of both; ``hour`` where it
        is by hour.
        """
        part = keys.part_of(customer_id, self._parts)
        prefix = keys.blocks_prefix(part, customer_id, event_type)
        if hour is not None:
            prefix = keys.dated_blocks_prefix(hour, part, customer_id, event_type)
        should = b"".join(blocks)
        # Most often a record of the index begins there, and has just that.
        if self._txn.get(self._table, prefix + blocks[0]) == should:
            self.found += len(blocks)
            return
        stands = self._ids_from(prefix, blocks[0], len(blocks))
        if stands == should:
            self.found += len(blocks)
            return
        last = blocks[-1]
        there = {one for one in records.split_block_ids(stands) if one <= last}
        self.found += len(there.intersection(blocks))
        for block_id in sorted(there.symmetric_difference(blocks)):
            if block_id in there:
                yield self._extra(prefix, block_id)
            else:
                yield at_key(self._table, prefix + block_id, "block", NOTHING, "there")

    def finish(self, checking: Checking, pruned: Pruned, found: int) -> Iterator[Difference]:
        """What stands in it beyond the entries that were found, or is not in its order. It may name
        what is pruned, and was not swept.
        """
        total, last, last_prefix = 0, b"", b""
        for key, payload in self._txn.forward(self._table, b"", b""):
            prefix, first = key[:-ID_BYTES], key[-ID_BYTES:]
            ids = records.split_block_ids(payload)
            in_order = all(map(lt, ids, ids[1:]))
            if not in_order or not ids or ids[0] != first or len(payload) % ID_BYTES:
                yield at_key(self._table, key, "ids", payload.hex(), "in order, the key's first")
            elif prefix == last_prefix and first <= last:
                yield at_key(self._table, key, "block", f"behind {last.hex()}", "in order")
            last_prefix, last = prefix, ids[-1] if ids else b""
            if first > pruned.through:
                total += len(ids)
                continue
            for block_id in ids:
                total += block_id > pruned.through
                if block_id <= pruned.swept:
                    yield self._extra(prefix, block_id)
        checking.counts["index entries"] += total
        if total != found:
            yield from self._unexpected(pruned.through)

    def _ids_from(self, prefix: bytes, first: bytes, count: int) -> bytes:
        """The ids from ``first`` on, as they stand, up to that many."""
        start = self._txn.last_key(self._table, prefix + first)
        if start is None or not start.startswith(prefix):
            start = prefix
        found = b""
        for _, payload in self._txn.forward(self._table, start, prefix):
            if not found and payload[:ID_BYTES] < first:
                # A record may begin with blocks that were expected before.
                ids = records.split_block_ids(payload)
                payload = b"".join([one for one in ids if one >= first])  # noqa: PLW2901
            found += payload
            if len(found) >= count * ID_BYTES:
                break
        return found[: count * ID_BYTES]

    def _unexpected(self, pruned: bytes) -> Iterator[Difference]:
        """Reads the log at each entry behind that: slow, and only where something is wrong."""
        block_at = lru_cache(maxsize=1024)(partial(log.block, self._txn))
        for key, payload in self._txn.forward(self._table, b"", b""):
            prefix = key[:-ID_BYTES]
            hour = None
            if self._is_by_hour:
                hour, key = keys.hour_of_blocks(key), key[_HOUR_BYTES:]  # noqa: PLW2901
            customer, event_type, _ = key[1:].split(keys.END, 2)
            for block_id in records.split_block_ids(payload):
                if block_id > pruned and not self._is_counted(
                    block_at(block_id), block_id, hour, customer.decode(), event_type.decode()
                ):
                    yield self._extra(prefix, block_id)

    def _is_counted(
        self,
        events: Sequence[UsageEvent],
        block_id: bytes,
        hour: Period | None,
        customer_id: str,
        event_type: str,
    ) -> bool:
        """Whether the block has such an event, and it is in its hour's totals."""
        if not events:
            return False
        receipt = receive(stamp_of(block_id), events)
        part = keys.part_of(customer_id, self._parts)
        for offset, event in enumerate(events):
            if (event.customer_id, event.event_type) != (customer_id, event_type):
                continue
            its_hour = period_at(PeriodType.HOURLY, receipt.happened_ms(offset))
            if hour is not None and (its_hour != hour or hour == receipt.hour):
                continue
            totals = journal.read_totals(self._txn, part, its_hour, customer_id)
            if totals is not None and receipt.stamp.id(offset) <= totals.through:
                return True
        return False

    def _extra(self, prefix: bytes, block_id: bytes) -> Difference:
        should = "nothing: no event of the block is counted there"
        return at_key(self._table, prefix + block_id, "block", "there", should)


def _extra(key: bytes) -> Difference:
    return at_key(_BY_TYPE, key, "record", "there", "nothing: it has no events of that type")
