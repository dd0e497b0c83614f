"""Reads usage: who has any, totals that run, windows of totals, and events in groups.

Windows come from stored totals: a closed period's are its own, an open one's its own and those of
its parts that are not handed up yet (``account``). Only groups and filters need events, and read
those of one customer through its index. What was posted is there. Synchronous, inside one short
transaction; a long answer is many portions.
"""

from __future__ import annotations

from heapq import merge
from itertools import groupby, islice, takewhile
from math import inf
from typing import TYPE_CHECKING, Final

from meterd.domain.event_fields import CUSTOMER_ID_MAX_BYTES
from meterd.domain.event_ids import ID_BYTES, PARTS_MAX, position, stamp_of
from meterd.domain.hierarchy import parts_of
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.stored_events import StoredEvent
from meterd.domain.totals import NOTHING, Totals, merge_types, totals_of
from meterd.domain.usage import (
    Customer,
    CustomerUsage,
    UsagePortion,
    WindowTotals,
    group_events,
)
from meterd.embedded import journal, keys, log, queries, records, voids
from meterd.ledger import EventQuery

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from meterd.domain.periods import Period
    from meterd.domain.usage import UsageQuery
    from meterd.embedded.transaction import Transaction


_BEHIND_ALL: Final = b"\xff" * ID_BYTES


# Customers


def read_customers(txn: Transaction, parts: int, after: str | None, limit: int) -> list[Customer]:
    """See ``Ledger.customers``; those that are posted."""
    ranges = [_customers_in(txn, part, after) for part in range(parts)]
    return [
        Customer(customer_id.decode(), records.read_number(first_seen))
        for customer_id, first_seen in islice(merge(*ranges), limit)
    ]


def _customers_in(txn: Transaction, part: int, after: str | None) -> Iterator[tuple[bytes, bytes]]:
    prefix = bytes((part,))
    start = prefix if after is None else keys.customer_key(part, after) + keys.END
    for key, first_seen in txn.forward("customers", start, prefix):
        yield key[1:], first_seen


# Event types


def event_types_of_open(txn: Transaction, kinds: Iterable[PeriodType]) -> list[str]:
    """Those of which the last event was received since the first open period of these types began;
    two seeks for each that there ever was.
    """
    since_ms = min((journal.closed_until_ms(txn, kind) for kind in kinds), default=inf)
    found = []
    for event_type in queries.types_behind(txn, "records_by_type", b"", None):
        last = txn.last_key("records_by_type", keys.record_by_type(event_type, _BEHIND_ALL))
        if last is not None and stamp_of(last[-ID_BYTES:]).received_ms >= since_ms:
            found.append(event_type)
    return found


# Totals


def read_customer_usage(
    txn: Transaction, parts: int, customer_id: str, period: Period
) -> CustomerUsage:
    """See ``Ledger.customer_usage``."""
    first_seen = None
    window = None
    if keys.may_be_stored(customer_id, CUSTOMER_ID_MAX_BYTES):
        part = keys.part_of(customer_id, parts)
        first_seen = txn.get("customers", keys.customer_key(part, customer_id))
        window = _window(txn, part, customer_id, period, tuple(journal.open_parts_in(txn, part)))
    if window is None:
        closed = period.end_ms <= journal.closed_until_ms(txn, period.type)
        window = WindowTotals(period, closed, {})
    seen_ms = None if first_seen is None else records.read_number(first_seen)
    return CustomerUsage(customer_id, seen_ms, window)


def read_windows(
    txn: Transaction, parts: int, query: UsageQuery, after_ms: int | None, limit: int
) -> list[WindowTotals]:
    """See ``Ledger.usage_windows``."""
    return list(islice(_windows(txn, parts, query, after_ms), limit))


def _windows(
    txn: Transaction, parts: int, query: UsageQuery, after_ms: int | None
) -> Iterator[WindowTotals]:
    if not keys.may_be_stored(query.customer_id, CUSTOMER_ID_MAX_BYTES):
        return
    part = keys.part_of(query.customer_id, parts)
    open_parts = tuple(journal.open_parts_in(txn, part))
    handed_up_ms = min((one.start_ms for one in open_parts), default=None)
    for period in _periods(txn, part, query, after_ms, handed_up_ms):
        window = _window(txn, part, query.customer_id, period, open_parts)
        if window is None:
            continue
        if query.event_type is None:
            yield window
        elif (totals := window.by_type.get(query.event_type)) is not None:
            yield WindowTotals(period, window.closed, {query.event_type: totals})


def _periods(
    txn: Transaction,
    part: int,
    query: UsageQuery,
    after_ms: int | None,
    handed_up_ms: int | None,
) -> Iterator[Period]:
    """The periods of the query in which the customer may have totals, in their order.

    They begin where the first of its part's do and end where the last do, or a customer of
    yesterday would be looked for in every hour since 1970. Before ``handed_up_ms`` (None: anywhere)
    a day has totals if one of its hours has: of one that has none the hours are passed over.
    """
    from_ms, to_ms = _span(txn, part)
    from_ms = max(from_ms, query.from_ms or 0)
    if after_ms is not None:
        from_ms = max(from_ms, period_at(query.window, after_ms).end_ms)
    if query.to_ms is not None:
        to_ms = min(to_ms, query.to_ms)
    handed_up_ms = to_ms if handed_up_ms is None else handed_up_ms
    day = None
    while from_ms < to_ms:
        if query.window is PeriodType.HOURLY and (day is None or day.end_ms <= from_ms):
            day = period_at(PeriodType.DAILY, from_ms)
            key = keys.totals_key(part, day, query.customer_id)
            if day.end_ms <= handed_up_ms and txn.get("totals", key) is None:
                from_ms = day.end_ms
                continue
        period = period_at(query.window, from_ms)
        yield period
        from_ms = period.end_ms


def _span(txn: Transaction, part: int) -> tuple[int, int]:
    """From the first hour that anybody of the part has totals in to the end of the last one."""
    prefix = keys.period_type_prefix(part, PeriodType.HOURLY)
    first = txn.first_key("totals", prefix)
    last = txn.last_key("totals", keys.period_type_prefix(part, PeriodType.DAILY))
    if first is None or last is None or not first.startswith(prefix):
        return 0, 0
    return keys.totals_period(first).start_ms, keys.totals_period(last).end_ms


def _window(
    txn: Transaction, part: int, customer_id: str, period: Period, open_parts: Sequence[Period]
) -> WindowTotals | None:
    """The customer's totals of the period as they stand; None where there are none."""
    own = journal.read_totals(txn, part, period, customer_id) or NOTHING
    by_type = own.by_type
    if not own.closed:
        for each in parts_of(period, open_parts):
            found = journal.read_totals(txn, part, each, customer_id)
            if found is not None and not found.closed:
                by_type = merge_types(by_type, found.by_type)
    return WindowTotals(period, own.closed, by_type) if by_type else None


# Events


def read_groups(
    txn: Transaction,
    parts: int,
    query: UsageQuery,
    period: Period,
    before: bytes | None,
    limit: int,
) -> UsagePortion:
    """See ``Ledger.usage_groups``."""
    journal.require_events(txn, period)
    events = events_of_hours(
        txn, parts, query.customer_id, query.event_type, period.start_ms, period.end_ms, before
    )
    found = list(islice(events, limit))
    placed = [(stored.event, position(stored.happened_ms, stored.id)) for stored in found]
    end = found[-1].id if len(found) == limit else None
    return UsagePortion(group_events(placed, query), end)


def events_of_hours(
    txn: Transaction,
    parts: int,
    customer_id: str,
    event_type: str | None,
    start_ms: int,
    end_ms: int,
    before: bytes | None,
) -> Iterator[StoredEvent]:
    """The customer's events that count, in the hours from ``start_ms`` on that end by ``end_ms``,
    of that type or of all, last stored first, with ids less than ``before``.

    The one place that says which events those are.
    """
    assert start_ms % HOUR_MS == end_ms % HOUR_MS == 0, "events are counted in whole hours"
    query = EventQuery(customer_id, event_type, start_ms, end_ms - 1)
    received = (
        stored
        for stored in queries.events(txn, parts, query, before)
        if start_ms <= stored.happened_ms < end_ms
    )
    dated = _dated_events(txn, parts, query, before)
    in_order = merge(received, dated, key=lambda stored: stored.id, reverse=True)
    return voids.not_void(txn, in_order)


def behind(through: bytes) -> bytes:
    """Less than no id behind that one, which is without its part, and greater than it with any."""
    return (int.from_bytes(through, "big") + PARTS_MAX).to_bytes(ID_BYTES, "big")


def read_others(
    txn: Transaction, parts: int, one: StoredEvent, before: bytes, limit: int
) -> tuple[Totals | None, bytes | None]:
    """What up to ``limit`` events come to that count beside that one, in its hour and of its type,
    with ids less than ``before``; and where to go on, None at the end.
    """
    event, hour = one.event, one.hour
    events = events_of_hours(
        txn, parts, event.customer_id, event.event_type, hour.start_ms, hour.end_ms, before
    )
    found = list(islice(events, limit))
    placed = sorted(
        (position(stored.happened_ms, stamp_of(stored.id).id()), stored.event.value)
        for stored in found
        if stored.id != one.id
    )
    end = found[-1].id if len(found) == limit else None
    if not placed:
        return None, end
    return totals_of([value for _, value in placed], placed[0][0], placed[-1][0]), end


def _dated_events(
    txn: Transaction, parts: int, query: EventQuery, before: bytes | None
) -> Iterator[StoredEvent]:
    """Of the events of ``events_of_hours`` those that were not received within these hours."""
    customer_id, start_ms, end_ms = query.customer_id, query.from_ms, query.to_ms
    assert customer_id is not None
    assert start_ms is not None
    assert end_ms is not None
    if not keys.may_be_stored(customer_id, CUSTOMER_ID_MAX_BYTES):
        return
    part = keys.part_of(customer_id, parts)
    before = queries.LATEST_ID if before is None else before
    block_ids = _dated_blocks(txn, part, query, before)
    for _, stamp, events, _ in log.blocks(txn, block_ids):
        for offset in range(len(events) - 1, -1, -1):
            event = events[offset]
            happened_ms = event.timestamp_ms
            if (
                happened_ms is not None
                and start_ms <= happened_ms <= end_ms
                and event.customer_id == customer_id
                and query.event_type in {None, event.event_type}
                and (event_id := stamp.id(offset, part)) < before
            ):
                yield StoredEvent(event_id, event, stamp.received_ms)


def _dated_blocks(txn: Transaction, part: int, query: EventQuery, before: bytes) -> Iterator[bytes]:
    """In the index of these hours the ids of blocks that were not received within them and are
    less than ``before``, the greatest first.

    As far as they are asked for: what is behind them is read when its portion comes.
    """
    assert query.customer_id is not None
    assert query.from_ms is not None
    assert query.to_ms is not None
    # What was received within them is passed over by its ids, which say when it was.
    within, behind = queries.id_at(query.from_ms), queries.id_at(query.to_ms + 1)
    ranges: list[Iterator[bytes]] = []
    hour_ms = query.from_ms
    while (key := txn.first_key("blocks_by_hour", keys.hour(hour_ms))) is not None:
        hour = keys.hour_of_blocks(key)
        if hour.start_ms > query.to_ms:
            break
        prefix = keys.hour(hour.start_ms) + keys.customer_prefix(part, query.customer_id)
        for name in queries.types_behind(txn, "blocks_by_hour", prefix, query.event_type):
            of_type = keys.dated_blocks_prefix(hour, part, query.customer_id, name)
            if before > behind:
                later = queries.blocks_backward(txn, "blocks_by_hour", of_type, before)
                ranges.append(takewhile(behind.__le__, later))
            end = min(before, within)
            ranges.append(queries.blocks_backward(txn, "blocks_by_hour", of_type, end))
        hour_ms = hour.end_ms
    for block_id, _ in groupby(merge(*ranges, reverse=True)):
        yield block_id
