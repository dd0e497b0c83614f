"""How a Change is written, and how totals are read back: totals, aggregations, each customer's
index of the log.

Synchronous, inside a transaction of ``store``; knows nothing of actors. ``queries`` reads what the
contract asks for; ``records`` is what both have in common.
"""

from __future__ import annotations

from heapq import merge
from itertools import groupby, islice, takewhile
from typing import TYPE_CHECKING, Final

from meterd.domain.aggregations import FIRST_REVISION
from meterd.domain.errors import PrunedError
from meterd.domain.event_ids import ID_BYTES
from meterd.domain.hierarchy import closed_with
from meterd.domain.periods import Period, PeriodType
from meterd.embedded import keys, outbox, records
from meterd.embedded.records import Pruned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.changes import Change
    from meterd.domain.deliveries import Delivery
    from meterd.domain.totals import PeriodTotals
    from meterd.embedded.transaction import Transaction

# In one index record: 128 blocks, half of what a page holds.
_BLOCKS_BYTES_MAX: Final = 128 * ID_BYTES

_NOTHING_PRUNED: Final = Pruned()


def write_changes(txn: Transaction, changes: Iterable[Change], parts: int) -> None:
    """Writes the changes of several customers; the events counted are in the log already."""
    made: list[Delivery] = []
    for change in changes:
        part = keys.part_of(change.customer_id, parts)
        for event_type, blocks in change.blocks.items():
            prefix = keys.blocks_prefix(part, change.customer_id, event_type)
            _write_blocks(txn, "blocks_by_customer", prefix, blocks)
        for (hour, event_type), blocks in change.dated_blocks.items():
            prefix = keys.dated_blocks_prefix(hour, part, change.customer_id, event_type)
            _write_blocks(txn, "blocks_by_hour", prefix, blocks)
        if change.first_received_ms is not None:
            note_customer(txn, part, change.customer_id, change.first_received_ms)
        for period, totals in change.totals.items():
            key = keys.totals_key(part, period, change.customer_id)
            txn.put("totals", key, records.encode(totals))
        for period, since_ms in change.revised.items():
            txn.delete("late", keys.late_key(since_ms, part, period, change.customer_id))
        for period, since_ms in change.late.items():
            txn.put("late", keys.late_key(since_ms, part, period, change.customer_id), b"")
        for aggregation in change.superseded:
            kind, start_ms = aggregation.period_type, aggregation.start_ms
            newest = keys.aggregation_key(part, kind, start_ms, change.customer_id)
            name = keys.superseded_key(newest, aggregation.revision)
            txn.put("superseded", name, records.encode(aggregation))
        # First what was withdrawn, since there may be something to publish of it again.
        for period in change.withdrawn:
            _withdraw_aggregation(txn, part, period, change.customer_id)
        for aggregation in change.aggregations.values():
            _write_aggregation(txn, part, aggregation)
        for kind, digest in change.published.items():
            txn.put("published", keys.published_key(part, change.customer_id, kind), digest)
        for event_id, void in change.voids.items():
            txn.put("voids", event_id, records.encode(void))
        made += change.deliveries
    outbox.add_all(txn, made)


def note_customer(txn: Transaction, part: int, customer_id: str, received_ms: int) -> None:
    """An event of the customer was received then; what is known is when the first one was."""
    key = keys.customer_key(part, customer_id)
    txn.put_new("customers", key, records.number(received_ms))


def _write_blocks(txn: Transaction, table: str, prefix: bytes, blocks: bytearray) -> None:
    for start in range(0, len(blocks), _BLOCKS_BYTES_MAX):
        ids = bytes(blocks[start : start + _BLOCKS_BYTES_MAX])
        txn.put(table, prefix + ids[:ID_BYTES], ids)


def late_until(txn: Transaction, until_ms: int, limit: int) -> list[bytes]:
    """Keys of ``late`` of what waits to be revised since that moment or before, longest first."""
    end = keys.late_start(max(until_ms + 1, 0))
    return list(islice(takewhile(lambda key: key < end, txn.keys_forward("late", b"", b"")), limit))


def late_since_ms(txn: Transaction) -> int | None:
    """Since when the first of them waits."""
    first = txn.first_key("late", b"")
    return None if first is None else keys.late_since_ms(first)


def write_used_key(txn: Transaction, key: bytes, record: bytes) -> None:
    """The key is used for one event only; writing it again changes nothing.

    Its fingerprint is as it was first written: a start behind a crash, of a later meterd, may make
    another of the same event.
    """
    if not txn.put_new("idempotency_keys", key, record):
        stored = txn.get("idempotency_keys", key) or b""
        assert stored[:ID_BYTES] == record[:ID_BYTES], f"a key is used twice: {key!r}"


def _write_aggregation(txn: Transaction, part: int, aggregation: Aggregation) -> None:
    kind, start_ms = aggregation.period_type, aggregation.start_ms
    customer_id = aggregation.customer_id
    key = keys.aggregation_key(part, kind, start_ms, customer_id)
    txn.put("aggregations", key, records.encode(aggregation))
    by_customer = keys.customer_periods_prefix(part, customer_id, kind)
    txn.put_new("customer_periods", by_customer + keys.newest_first(start_ms), b"")


def _withdraw_aggregation(txn: Transaction, part: int, period: Period, customer_id: str) -> None:
    kind, start_ms = period.type, period.start_ms
    txn.delete("aggregations", keys.aggregation_key(part, kind, start_ms, customer_id))
    by_customer = keys.customer_periods_prefix(part, customer_id, kind)
    txn.delete("customer_periods", by_customer + keys.newest_first(start_ms))


def write_closed(txn: Transaction, period: Period) -> None:
    """Every customer's totals of that period are closed, and of all that close before it."""
    before = all_closed_until_ms(txn)
    for kind, until_ms in closed_with(period, before).items():
        if until_ms > before[kind]:
            txn.put("meta", keys.closed_key(kind), records.number(until_ms))


def write_floor(txn: Transaction, floor_ms: int) -> None:
    """No event is dated before this moment from now on: a period that ends then is being closed."""
    txn.put("meta", keys.FLOOR, records.number(floor_ms))


def floor_ms(txn: Transaction) -> int:
    """What was written last."""
    return records.read_number(txn.get("meta", keys.FLOOR))


def write_posted(txn: Transaction, through: bytes) -> None:
    """Every event up to that id is counted in the totals that are stored; it never goes back."""
    txn.put("meta", keys.POSTED, max(through, posted_through(txn)))


def posted_through(txn: Transaction) -> bytes:
    """What was written last; empty while nothing was."""
    return txn.get("meta", keys.POSTED) or b""


def write_forgotten(txn: Transaction, through: bytes) -> None:
    """No event up to that id has its idempotency key any more; it never goes back."""
    txn.put("meta", keys.FORGOTTEN, max(through, forgotten_through(txn)))


def forgotten_through(txn: Transaction) -> bytes:
    """What was written last; empty while nothing was."""
    return txn.get("meta", keys.FORGOTTEN) or b""


def read_pruned(txn: Transaction) -> Pruned:
    """How far the log was pruned."""
    found = txn.get("meta", keys.PRUNED)
    return _NOTHING_PRUNED if found is None else records.decode_pruned(found)


def require_events(txn: Transaction, period: Period) -> None:
    """Raises PrunedError where the log may lack events that happened in the period."""
    until_ms = read_pruned(txn).until_ms
    if period.start_ms < until_ms:
        raise PrunedError(until_ms)


def write_pruned(txn: Transaction, pruned: Pruned) -> None:
    """It never goes back."""
    txn.put("meta", keys.PRUNED, records.encode(pruned))


def write_unseen(txn: Transaction, since_ms: Mapping[PeriodType, int] | None) -> None:
    """Who watches usage, if anybody does, may not have looked at all periods of each type that
    ended at these moments or later.
    """
    if since_ms is None:
        txn.delete("meta", keys.UNSEEN)
    else:
        txn.put("meta", keys.UNSEEN, records.encode(dict(since_ms)))


def read_unseen(txn: Transaction) -> dict[PeriodType, int] | None:
    """What was written last."""
    found = txn.get("meta", keys.UNSEEN)
    return None if found is None else records.decode_instants(found)


def read_totals(
    txn: Transaction, part: int, period: Period, customer_id: str
) -> PeriodTotals | None:
    found = txn.get("totals", keys.totals_key(part, period, customer_id))
    return None if found is None else records.decode_totals(found)


def read_aggregation(
    txn: Transaction, part: int, period: Period, customer_id: str
) -> Aggregation | None:
    key = keys.aggregation_key(part, period.type, period.start_ms, customer_id)
    found = txn.get("aggregations", key)
    return None if found is None else records.decode_aggregation(found)


def read_chain(txn: Transaction, part: int, period: Period, customer_id: str) -> bytes | None:
    """The digest of a closed period (see ``digests``); None where nothing is in it."""
    found = txn.get("totals", keys.totals_key(part, period, customer_id))
    totals = None if found is None else records.decode_closed(found)
    return totals.chain if totals is not None and totals.closed else None


def read_published(txn: Transaction, part: int, kind: PeriodType, customer_id: str) -> bytes:
    """The digest of what was published last of that type; empty where nothing was."""
    return txn.get("published", keys.published_key(part, customer_id, kind)) or b""


def read_revisions(txn: Transaction, key: bytes) -> Iterator[Aggregation]:
    """Every revision of the aggregation of that key, which is there; the newest first."""
    newest = txn.get("aggregations", key)
    assert newest is not None, f"there is no aggregation of the key {key!r}"
    aggregation = records.decode_aggregation(newest)
    yield aggregation
    if aggregation.revision > FIRST_REVISION:
        prefix = key + keys.END
        for _, payload in txn.backward("superseded", prefix + keys.LAST_REVISION, prefix):
            yield records.decode_aggregation(payload)


def closed_until_ms(txn: Transaction, kind: PeriodType) -> int:
    """Before this moment every period of the type is closed."""
    return records.read_number(txn.get("meta", keys.closed_key(kind)))


def all_closed_until_ms(txn: Transaction) -> dict[PeriodType, int]:
    """The same of every type."""
    return {kind: closed_until_ms(txn, kind) for kind in PeriodType}


def next_to_close(txn: Transaction, parts: int) -> Period | None:
    """The first period to close among those that may have open totals."""
    return first_open(txn, parts, all_closed_until_ms(txn))


def first_open(txn: Transaction, parts: int, closed_ms: Mapping[PeriodType, int]) -> Period | None:
    """The same, of the types for which it is given until when they are closed."""
    found = []
    for kind, until_ms in closed_ms.items():
        closed_hour = keys.hour(until_ms)
        for part in range(parts):
            prefix = keys.period_type_prefix(part, kind)
            key = txn.first_key("totals", prefix + closed_hour)
            if key is not None and key.startswith(prefix):
                found.append(keys.totals_period(key))
    return min(found, default=None)


def open_parts(txn: Transaction, parts: int) -> tuple[Period, ...]:
    """The hours and days that may have totals not yet handed up, in the order of closing."""
    return tuple(sorted({one for part in range(parts) for one in open_parts_in(txn, part)}))


def open_parts_in(txn: Transaction, part: int) -> Iterator[Period]:
    """The same of customers in that part of the store: hours, then days, each in their order."""
    for kind in (PeriodType.HOURLY, PeriodType.DAILY):
        prefix = keys.period_type_prefix(part, kind)
        start = prefix + keys.hour(closed_until_ms(txn, kind))
        while (key := txn.first_key("totals", start)) is not None and key.startswith(prefix):
            period = keys.totals_period(key)
            yield period
            start = prefix + keys.hour(period.end_ms)


def customers_in(
    txn: Transaction, part: int, period: Period, after: str | None, limit: int
) -> list[str]:
    """Customers of the part with totals in the period, in the order of their ids."""
    prefix = keys.totals_prefix(part, period)
    start = prefix if after is None else prefix + after.encode() + keys.END
    return [
        keys.totals_customer(key)
        for key in islice(txn.keys_forward("totals", start, prefix), limit)
    ]


def customers_in_any(
    txn: Transaction, part: int, periods: Iterable[Period], after: str | None, limit: int
) -> list[str]:
    """The same, of those with totals in at least one of the periods."""
    found = [customers_in(txn, part, period, after, limit) for period in periods]
    in_order = merge(*found, key=str.encode)
    return [customer_id for customer_id, _ in groupby(in_order)][:limit]
