"""What was published of a customer and a type of period, one behind another (``digests``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.domain.digests import START
from meterd.embedded import keys, records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.periods import PeriodType
    from meterd.embedded.transaction import Transaction


def read_publications(
    txn: Transaction, part: int, customer_id: str, kind: PeriodType
) -> Iterator[Aggregation]:
    """Every revision that has a digest, the newest period first."""
    prefix = keys.customer_periods_prefix(part, customer_id, kind)
    for name in txn.keys_forward("customer_periods", prefix, prefix):
        start_ms = keys.start_of(name[len(prefix) :])
        key = keys.aggregation_key(part, kind, start_ms, customer_id)
        found = txn.get("aggregations", key)
        revisions = [] if found is None else [records.decode_aggregation(found)]
        earlier = key + keys.END
        for _, payload in txn.forward("superseded", earlier, earlier):
            revisions.append(records.decode_aggregation(payload))
        yield from (one for one in revisions if one.previous)


def in_order(
    txn: Transaction, part: int, customer_id: str, kind: PeriodType
) -> Iterator[Aggregation]:
    """The same in the order in which they were published, as far as each leads to one."""
    behind = {one.previous: one for one in read_publications(txn, part, customer_id, kind)}
    chain = START
    while (found := behind.pop(chain, None)) is not None:
        yield found
        chain = found.digest
