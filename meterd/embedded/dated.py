"""Events of an hour that were received in another, by the index that a check of it reads."""

from __future__ import annotations

from collections import defaultdict
from heapq import merge
from typing import TYPE_CHECKING, Final

from meterd.domain.event_ids import stamp_of
from meterd.embedded import keys, log, queries, records

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meterd.domain.events import UsageEvent
    from meterd.domain.periods import Period
    from meterd.embedded.log import Block
    from meterd.embedded.transaction import Transaction

_TABLE: Final = "blocks_by_hour"
# Entries of an hour's index that are held at once, 400 bytes each at most.
_WANTED_MAX: Final = 200_000

Name = tuple[str, str]
Found = tuple["Block", list[tuple[int, "UsageEvent"]]]


def dated_events(txn: Transaction, hour: Period, *, are_early: bool) -> Iterator[Found]:
    """By blocks, those received before the hour, else those received behind it: each event with its
    offset in its block, each customer's in the order of the log.

    A block is read once for many customers. What an append has of a customer's comes together.
    """
    wanted: defaultdict[bytes, set[Name]] = defaultdict(set)
    entries, last = 0, ("", 0)
    within, behind = queries.id_at(hour.start_ms), queries.id_at(hour.end_ms)
    for block_id, name in _entries(txn, hour):
        if block_id < within if are_early else block_id >= behind:
            # An append is of one moment, so one of the customer's is not cut here.
            of = name[0], stamp_of(block_id).received_ms
            if entries >= _WANTED_MAX and of != last:
                yield from _events(txn, hour, wanted)
                wanted.clear()
                entries = 0
            wanted[block_id].add(name)
            entries, last = entries + 1, of
    yield from _events(txn, hour, wanted)


def _events(txn: Transaction, hour: Period, wanted: Mapping[bytes, set[Name]]) -> Iterator[Found]:
    start_ms, end_ms = hour.start_ms, hour.end_ms
    for block in log.blocks(txn, sorted(wanted)):
        names = wanted[block.id]
        yield (
            block,
            [
                (offset, event)
                for offset, event in enumerate(block.events)
                if event.timestamp_ms is not None
                and start_ms <= event.timestamp_ms < end_ms
                and (event.customer_id, event.event_type) in names
            ],
        )


def _entries(txn: Transaction, hour: Period) -> Iterator[tuple[bytes, Name]]:
    """Customer by customer, of each all blocks in their order, whatever their types."""
    start = prefix = keys.hour(hour.start_ms)
    while (key := txn.first_key(_TABLE, start)) is not None and key.startswith(prefix):
        of_customer = key[: key.index(keys.END, len(prefix) + 1) + 1]
        customer_id = of_customer[len(prefix) + 1 : -1].decode()
        names = queries.types_behind(txn, _TABLE, of_customer, None)
        yield from merge(
            *[_blocks(txn, of_customer, (customer_id, event_type)) for event_type in names]
        )
        start = of_customer[:-1] + keys.AFTER_END


def _blocks(txn: Transaction, of_customer: bytes, name: Name) -> Iterator[tuple[bytes, Name]]:
    prefix = of_customer + name[1].encode() + keys.END
    for _, payload in txn.forward(_TABLE, prefix, prefix):
        for block_id in records.split_block_ids(payload):
            yield block_id, name
