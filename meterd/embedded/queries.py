"""What the contract reads: events and aggregations, newest first, from the store's key ranges.

Each query merges a few ranges that are already in its order, one for each event type (or period
type and part), so it touches what it returns and one key more in each range. Synchronous, inside
one short transaction; a long answer is many pages.
"""

from __future__ import annotations

from heapq import merge
from itertools import groupby, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from meterd.domain.config import EVENT_TYPE_NAME_MAX
from meterd.domain.deliveries import delivery_id
from meterd.domain.event_fields import CUSTOMER_ID_MAX_BYTES
from meterd.domain.periods import HOUR_MS, RANK, PeriodType
from meterd.embedded import keys, records
from meterd.ledger import (
    AggregationPlace,
    AggregationQuery,
    DeliveredAggregation,
    EventQuery,
    StoredEvent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.embedded.store import Transaction

_LATEST_STAMP: Final = b"\xff" * keys.STAMP_BYTES
_LATEST_HOUR_MS: Final = keys.HOURS_MAX * HOUR_MS


# Events


class _Block(NamedTuple):
    """Where a block of events is found, and how many are in it."""

    stamp: bytes
    part: int
    customer_id: str
    event_type: str
    events: int


def read_events(
    txn: Transaction, parts: int, query: EventQuery, limit: int, before: bytes | None
) -> list[StoredEvent]:
    """See ``Ledger.events``."""
    events: list[StoredEvent] = []
    for _, blocks in groupby(_blocks(txn, parts, query, before), key=lambda block: block.stamp):
        events += _newest_first(txn, blocks, before)
        if len(events) >= limit:
            break
    return events[:limit]


def page_end(
    txn: Transaction, parts: int, query: EventQuery, limit: int, before: bytes | None
) -> bytes | None:
    """See ``Ledger.page_end``: reads events only where a page cuts through a block."""
    seen = 0
    last: bytes | None = None
    for stamp, group in groupby(_blocks(txn, parts, query, before), key=lambda block: block.stamp):
        blocks = list(group)
        count = sum(block.events for block in blocks)
        # Only the newest block can be cut by ``before``.
        if seen + count > limit or (last is None and before is not None):
            events = _newest_first(txn, iter(blocks), before)
            count = len(events)
            if seen + count > limit:
                return last if seen == limit else events[limit - seen - 1].id
        seen += count
        last = stamp
    return None


def _newest_first(
    txn: Transaction, blocks: Iterator[_Block], before: bytes | None
) -> list[StoredEvent]:
    """The events of blocks that came with one append, those before the given id."""
    together: list[StoredEvent] = []
    for block in blocks:
        prefix = keys.events_prefix(block.part, block.customer_id, block.event_type)
        payload = txn.get("events", prefix + block.stamp)
        assert payload is not None, f"event_times names a block that is not there: {block}"
        together += records.decode_block(
            payload, block.stamp, block.part, block.customer_id, block.event_type
        )
    together.sort(key=lambda stored: stored.id, reverse=True)
    return [event for event in together if before is None or event.id < before]


def _blocks(
    txn: Transaction, parts: int, query: EventQuery, before: bytes | None
) -> Iterator[_Block]:
    """The blocks that may hold events of the query, newest first."""
    if not _may_find(query.customer_id, query.event_type):
        return iter(())
    end = _LATEST_STAMP if query.to_ms is None else _stamp_at(query.to_ms + 1)
    if before is not None:
        end = min(end, before)
    start = b"" if query.from_ms is None else _stamp_at(query.from_ms)
    if query.customer_id is not None:
        part = keys.part_of(query.customer_id, parts)
        prefix = keys.customer_prefix(part, query.customer_id)
        ranges = [
            _customer_range(txn, part, query.customer_id, event_type, start, end)
            for event_type in _types(txn, "events", prefix, query.event_type)
        ]
    else:
        ranges = [
            _time_range(txn, parts, event_type, start, end)
            for event_type in _types(txn, "event_times", b"", query.event_type)
        ]
    return merge(*ranges, key=lambda block: block.stamp, reverse=True)


def _may_find(customer_id: str | None, event_type: str | None = None) -> bool:
    """Whether there may be anything under these names; None names everything."""
    return (customer_id is None or keys.may_be_stored(customer_id, CUSTOMER_ID_MAX_BYTES)) and (
        event_type is None or keys.may_be_stored(event_type, EVENT_TYPE_NAME_MAX)
    )


def _types(txn: Transaction, table: str, prefix: bytes, only: str | None) -> Iterator[str]:
    """The event types that stand behind a prefix, found with one seek for each."""
    if only is not None:
        yield only
        return
    start = prefix
    while (key := txn.first_key(table, start)) is not None and key.startswith(prefix):
        event_type = key[len(prefix) : key.index(keys.END, len(prefix))]
        yield event_type.decode()
        start = prefix + event_type + keys.AFTER_END


def _customer_range(
    txn: Transaction, part: int, customer_id: str, event_type: str, start: bytes, end: bytes
) -> Iterator[_Block]:
    prefix = keys.events_prefix(part, customer_id, event_type)
    for key, payload in txn.backward("events", prefix + end, prefix):
        stamp = key[len(prefix) :]
        if stamp < start:
            return
        yield _Block(stamp, part, customer_id, event_type, records.read_count(payload))


def _time_range(
    txn: Transaction, parts: int, event_type: str, start: bytes, end: bytes
) -> Iterator[_Block]:
    prefix = keys.event_times_prefix(event_type)
    behind = len(prefix) + keys.STAMP_BYTES
    for key, payload in txn.backward("event_times", prefix + end, prefix):
        stamp = key[len(prefix) : behind]
        if stamp < start:
            return
        customer_id = key[behind:].decode()
        part = keys.part_of(customer_id, parts)
        yield _Block(stamp, part, customer_id, event_type, records.read_count(payload))


def _stamp_at(instant_ms: int) -> bytes:
    """Not greater than any stamp of that millisecond, greater than all of earlier ones."""
    return (max(instant_ms, 0) << 80).to_bytes(keys.STAMP_BYTES, "big")


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
    return [_with_deliveries(txn, key) for _, key in islice(places, limit)]


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


def _with_deliveries(txn: Transaction, key: bytes) -> DeliveredAggregation:
    payload = txn.get("aggregations", key)
    assert payload is not None, f"customer_periods names an aggregation that is not there: {key!r}"
    aggregation = records.decode_aggregation(payload)
    deliveries = []
    for endpoint_id in aggregation.endpoints:
        name = delivery_id(endpoint_id, aggregation.id, aggregation.revision)
        found = txn.get("deliveries", name.encode())
        assert found is not None, f"{aggregation.id} has no delivery to {endpoint_id}"
        deliveries.append(records.decode_delivery(found))
    return DeliveredAggregation(aggregation, tuple(deliveries))
