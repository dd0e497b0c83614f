"""What the contract reads: events and aggregations, in order, from the store's key ranges.

Each query merges a few ranges that are already in its order, one for each event type (or period
type and part), so it touches what it returns, what stands beside it in the same records of the log,
and one key more in each range. Synchronous, inside
one short transaction; a long answer is many pages.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import merge
from itertools import dropwhile, groupby, islice, takewhile
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from meterd.domain.config import EVENT_TYPE_NAME_MAX
from meterd.domain.deliveries import delivery_id
from meterd.domain.errors import CorruptRecordError
from meterd.domain.event_fields import CUSTOMER_ID_MAX_BYTES
from meterd.domain.event_ids import ID_BYTES, PARTS_MAX, next_id, stamp_of
from meterd.domain.periods import HOUR_MS, RANK, PeriodType
from meterd.domain.stored_events import StoredEvent
from meterd.embedded import journal, keys, outbox, records, voids
from meterd.ledger import (
    AggregationPlace,
    AggregationQuery,
    DeliveredAggregation,
    EventQuery,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.event_ids import Stamp
    from meterd.embedded.records import LoggedBlock
    from meterd.embedded.transaction import Transaction

Named = TypeVar("Named", bound=records.Named)

LATEST_ID: Final = b"\xff" * ID_BYTES
_LATEST_HOUR_MS: Final = keys.HOURS_MAX * HOUR_MS


# Events


def read_events(
    txn: Transaction, parts: int, query: EventQuery, limit: int, before: bytes | None
) -> list[StoredEvent]:
    """See ``Ledger.events``; of one customer, what is posted."""
    found = islice(events(txn, parts, query, before), limit)
    if query.oldest_first:
        return list(voids.marked(txn, reversed(list(found))))[::-1]
    return list(voids.marked(txn, found))


def page_end(
    txn: Transaction, parts: int, query: EventQuery, limit: int, before: bytes | None
) -> bytes | None:
    """See ``Ledger.page_end``: counts blocks, and builds none of their events."""
    end, left = None, limit
    for first, block, offsets in _matches(txn, parts, query, before, records.decode_names):
        if not left:
            return end
        if len(offsets) < left:
            left -= len(offsets)
            continue
        offset = offsets[left - 1]
        end = block.stamp(first).id(offset, keys.part_of(block.events[offset].customer_id, parts))
        if len(offsets) > left:
            return end
        left = 0
    return None


def events(
    txn: Transaction, parts: int, query: EventQuery, before: bytes | None
) -> Iterator[StoredEvent]:
    """The query's events in its order; not looked up is which of them are void."""
    for first, block, offsets in _matches(txn, parts, query, before, records.decode_record):
        stamp = block.stamp(first)
        for offset in offsets:
            event = block.events[offset]
            event_id = stamp.id(offset, keys.part_of(event.customer_id, parts))
            yield StoredEvent(event_id, event, stamp.received_ms)


def _matches(
    txn: Transaction,
    parts: int,
    query: EventQuery,
    behind: bytes | None,
    decode: Callable[[bytes], list[LoggedBlock[Named]]],
) -> Iterator[tuple[Stamp, LoggedBlock[Named], Sequence[int]]]:
    """Blocks with events of the query, each with the stamp of its record, and at which offsets they
    are, which is never nowhere; all in the query's order.
    """
    customer_id, event_type = query.customer_id, query.event_type
    if not _may_find(customer_id, event_type):
        return
    start = b"" if query.from_ms is None else id_at(query.from_ms)
    end = LATEST_ID if query.to_ms is None else id_at(query.to_ms + 1)
    if query.oldest_first:
        start = start if behind is None else max(start, next_id(behind))
        found = _records_forward(txn, parts, query, start)
    else:
        end = end if behind is None else min(end, behind)
        found = _records(txn, parts, query, start, end)
    for record_id in takewhile(end.__gt__, found):
        first, blocks = stamp_of(record_id), decode(_record(txn, record_id))
        is_within = start <= record_id and _last_id(first, blocks[-1]) < end
        for block in blocks if query.oldest_first else reversed(blocks):
            offsets: Sequence[int] = range(len(block.events))
            if customer_id is not None or event_type is not None:
                offsets = [
                    offset
                    for offset, event in enumerate(block.events)
                    if (customer_id is None or event.customer_id == customer_id)
                    and (event_type is None or event.event_type == event_type)
                ]
            if not is_within:
                stamp = block.stamp(first)
                ids = (
                    stamp.id(offset, keys.part_of(block.events[offset].customer_id, parts))
                    for offset in offsets
                )
                offsets = [
                    offset
                    for offset, event_id in zip(offsets, ids, strict=True)
                    if start <= event_id < end
                ]
            if offsets:
                yield first, block, offsets if query.oldest_first else offsets[::-1]


def _last_id(record: Stamp, last: LoggedBlock[Named]) -> bytes:
    """Not less than any id of the record's last block, nor greater than any behind it."""
    return last.stamp(record).id(len(last.events) - 1, PARTS_MAX - 1)


def _record(txn: Transaction, record_id: bytes) -> bytes:
    payload = txn.get("events", record_id)
    if payload is None:
        raise CorruptRecordError(f"an index names a record that is not there: {record_id.hex()}")
    return payload


def _may_find(customer_id: str | None, event_type: str | None = None) -> bool:
    """Whether there may be anything under these names; None names everything."""
    return (customer_id is None or keys.may_be_stored(customer_id, CUSTOMER_ID_MAX_BYTES)) and (
        event_type is None or keys.may_be_stored(event_type, EVENT_TYPE_NAME_MAX)
    )


def _records(
    txn: Transaction, parts: int, query: EventQuery, start: bytes, end: bytes
) -> Iterator[bytes]:
    """The ids of records that may hold events of the query, newest first, each once."""
    if query.customer_id is not None:
        found = _records_of_customer(txn, parts, query.customer_id, query.event_type, end)
    elif query.event_type is not None:
        prefix = keys.record_by_type(query.event_type)
        behind = txn.keys_backward("records_by_type", prefix + end, prefix)
        found = (key[len(prefix) :] for key in behind)
    else:
        found = txn.keys_backward("events", end, b"")
    for record_id in found:
        yield record_id
        if record_id < start:  # which may lie within it, but not before it
            return


def _records_of_customer(
    txn: Transaction, parts: int, customer_id: str, event_type: str | None, end: bytes
) -> Iterator[bytes]:
    part = keys.part_of(customer_id, parts)
    ranges = [
        blocks_backward(txn, "blocks_by_customer", keys.blocks_prefix(part, customer_id, name), end)
        for name in types_behind(
            txn, "blocks_by_customer", keys.customer_prefix(part, customer_id), event_type
        )
    ]
    there = takewhile(_pruned_through(txn).__lt__, merge(*ranges, reverse=True))
    return _records_of_blocks(txn, there, customer_id)


def _pruned_through(txn: Transaction) -> bytes:
    """Up to there an index may name blocks that are not in the log any more."""
    return journal.read_pruned(txn).through


def _records_of_blocks(
    txn: Transaction, ordered: Iterable[bytes], customer_id: str
) -> Iterator[bytes]:
    block_ids = (block_id for block_id, _ in groupby(ordered))
    for record_id, _ in groupby(txn.last_key("events", block_id) for block_id in block_ids):
        assert record_id is not None, f"the log lacks events of {customer_id}"
        yield record_id


def _records_forward(
    txn: Transaction, parts: int, query: EventQuery, start: bytes
) -> Iterator[bytes]:
    """The ids of records that may hold events of the query, oldest first, each once."""
    if query.customer_id is not None:
        part = keys.part_of(query.customer_id, parts)
        customer = keys.customer_prefix(part, query.customer_id)
        pruned = _pruned_through(txn)
        start = max(start, pruned)
        ranges = [
            _blocks_forward(txn, keys.blocks_prefix(part, query.customer_id, name), start)
            for name in types_behind(txn, "blocks_by_customer", customer, query.event_type)
        ]
        there = dropwhile(pruned.__ge__, merge(*ranges))
        yield from _records_of_blocks(txn, there, query.customer_id)
        return
    table, prefix = "events", b""
    if query.event_type is not None:
        table, prefix = "records_by_type", keys.record_by_type(query.event_type)
    for key in txn.keys_forward(table, _around(txn, table, prefix, start), prefix):
        yield key[len(prefix) :]


def _blocks_forward(txn: Transaction, prefix: bytes, start: bytes) -> Iterator[bytes]:
    """The ids of a customer's blocks of a type that may hold what is not before ``start``."""
    table = "blocks_by_customer"
    for _, payload in txn.forward(table, _around(txn, table, prefix, start), prefix):
        block_ids = records.split_block_ids(payload)
        yield from block_ids[max(bisect_right(block_ids, start) - 1, 0) :]


def _around(txn: Transaction, table: str, prefix: bytes, start: bytes) -> bytes:
    """The key behind the prefix in which ``start`` lies: it may begin before that."""
    found = txn.last_key(table, prefix + start)
    return found if found is not None and found.startswith(prefix) else prefix


def types_behind(txn: Transaction, table: str, prefix: bytes, only: str | None) -> Iterator[str]:
    """The event types that stand behind a customer's prefix, found with one seek for each."""
    if only is not None:
        yield only
        return
    start = prefix
    while (key := txn.first_key(table, start)) is not None and key.startswith(prefix):
        event_type = key[len(prefix) : key.index(keys.END, len(prefix))]
        yield event_type.decode()
        start = prefix + event_type + keys.AFTER_END


def blocks_backward(txn: Transaction, table: str, prefix: bytes, end: bytes) -> Iterator[bytes]:
    """The ids behind a prefix of one type of blocks that begin before ``end``, newest first."""
    for _, payload in txn.backward(table, prefix + end, prefix):
        for block_id in reversed(records.split_block_ids(payload)):
            if block_id < end:
                yield block_id


def id_at(instant_ms: int) -> bytes:
    """Not greater than any id of that millisecond, greater than all of earlier ones."""
    return (max(instant_ms, 0) << 80).to_bytes(ID_BYTES, "big")


# Aggregations


class _Place(NamedTuple):
    """Compared, it gives the order of reading."""

    newest_first: bytes
    customer_id: bytes
    rank: int


def read_aggregations(
    txn: Transaction,
    parts: int,
    query: AggregationQuery,
    limit: int,
    after: AggregationPlace | None,
) -> list[DeliveredAggregation]:
    """See ``Ledger.aggregations``."""
    places = _places(txn, parts, query, after)
    return [
        _with_revisions(txn, key, None if query.revisions else 1)
        for _, key in islice(places, limit)
    ]


def aggregations_page_end(
    txn: Transaction,
    parts: int,
    query: AggregationQuery,
    limit: int,
    after: AggregationPlace | None,
) -> AggregationPlace | None:
    """See ``Ledger.aggregations_page_end``: walks keys only."""
    behind_page = list(islice(_places(txn, parts, query, after), limit - 1, limit + 1))
    if len(behind_page) < 2:
        return None
    place, _ = behind_page[0]
    return AggregationPlace(
        keys.start_of(place.newest_first),
        place.customer_id.decode(),
        tuple(PeriodType)[place.rank],
    )


def _places(
    txn: Transaction, parts: int, query: AggregationQuery, after: AggregationPlace | None
) -> Iterator[tuple[_Place, bytes]]:
    """Where the query's aggregations stand, and their keys, in the order of reading."""
    kinds = tuple(PeriodType) if query.period_type is None else (query.period_type,)
    newest = min(query.to_ms if query.to_ms is not None else _LATEST_HOUR_MS, _LATEST_HOUR_MS)
    if newest < 0 or not _may_find(query.customer_id):
        return
    if query.customer_id is not None:
        part = keys.part_of(query.customer_id, parts)
        ranges = [
            _periods_of_customer(txn, part, query.customer_id, kind, newest, after)
            for kind in kinds
        ]
    else:
        ranges = [
            _aggregations_in(txn, part, kind, newest, after)
            for part in range(parts)
            for kind in kinds
        ]
    behind = None if after is None else _place(after)
    oldest = None
    if query.from_ms is not None:
        oldest = keys.newest_first(max(query.from_ms, 0) + HOUR_MS - 1)  # periods start on the hour
    for place, key in merge(*ranges):
        if oldest is not None and place.newest_first > oldest:
            return
        if behind is None or place > behind:
            yield place, key


def _aggregations_in(
    txn: Transaction, part: int, kind: PeriodType, newest_ms: int, after: AggregationPlace | None
) -> Iterator[tuple[_Place, bytes]]:
    prefix = keys.period_type_prefix(part, kind)
    start = prefix + keys.newest_first(newest_ms)
    if after is not None:
        behind = keys.newest_first(after.start_ms) + after.customer_id.encode()
        start = max(start, prefix + behind)
    for key in txn.keys_forward("aggregations", start, prefix):
        rest = key[len(prefix) :]
        yield _Place(rest[:4], rest[4:], RANK[kind]), key


def _periods_of_customer(
    txn: Transaction,
    part: int,
    customer_id: str,
    kind: PeriodType,
    newest_ms: int,
    after: AggregationPlace | None,
) -> Iterator[tuple[_Place, bytes]]:
    prefix = keys.customer_periods_prefix(part, customer_id, kind)
    start = prefix + keys.newest_first(newest_ms)
    if after is not None:
        start = max(start, prefix + keys.newest_first(after.start_ms))
    customer = customer_id.encode()
    for key in txn.keys_forward("customer_periods", start, prefix):
        newest_first = key[len(prefix) :]
        found = keys.period_type_prefix(part, kind) + newest_first + customer
        yield _Place(newest_first, customer, RANK[kind]), found


def _place(place: AggregationPlace) -> _Place:
    return _Place(
        keys.newest_first(place.start_ms), place.customer_id.encode(), RANK[place.period_type]
    )


def _with_revisions(txn: Transaction, key: bytes, limit: int | None) -> DeliveredAggregation:
    revisions = islice(journal.read_revisions(txn, key), limit)
    newest, *superseded = [_with_deliveries(txn, one) for one in revisions]
    return msgspec.structs.replace(newest, superseded=tuple(superseded))


def _with_deliveries(txn: Transaction, aggregation: Aggregation) -> DeliveredAggregation:
    deliveries = []
    for endpoint_id in aggregation.endpoints:
        name = delivery_id(endpoint_id, aggregation.id, aggregation.revision)
        delivery = outbox.find(txn, name)
        assert delivery is not None, f"{aggregation.id} has no delivery to {endpoint_id}"
        deliveries.append(delivery)
    return DeliveredAggregation(aggregation, tuple(deliveries))
