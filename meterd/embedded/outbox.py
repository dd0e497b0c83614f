"""Deliveries in the store: each with its state, and a queue for each endpoint by when they are due.

Claiming begins an attempt on disk before anything is sent, so a crash in between shows as an
attempt whose outcome is unknown, and the delivery comes due again when its lease ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.domain.deliveries import Delivery, DeliveryStatus, after_outcome, begin_attempt
from meterd.embedded import keys, records
from meterd.ledger import Claim

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd.embedded.store import Transaction


def add(txn: Transaction, delivery: Delivery) -> None:
    """A new delivery, in the transaction of the aggregation that it carries."""
    _put(txn, delivery)
    _enqueue(txn, delivery)


def next_due_ms(txn: Transaction, endpoint_id: str) -> int | None:
    """When the endpoint's first delivery comes due, if it has any."""
    prefix = keys.outbox_prefix(endpoint_id)
    key = txn.first_key("outbox", prefix)
    if key is None or not key.startswith(prefix):
        return None
    return keys.outbox_due(endpoint_id, key)[0]


def claim(txn: Transaction, endpoint_id: str, limit: int, now_ms: int) -> Claim:
    """See ``Ledger.claim``."""
    prefix = keys.outbox_prefix(endpoint_id)
    due: list[bytes] = []
    next_due_ms: int | None = None
    for key in txn.keys_forward("outbox", prefix, prefix):
        due_ms, _ = keys.outbox_due(endpoint_id, key)
        if due_ms > now_ms or len(due) == limit:
            next_due_ms = due_ms
            break
        due.append(key)
    begun = []
    for key in due:
        txn.delete("outbox", key)
        delivery = begin_attempt(_get(txn, keys.outbox_due(endpoint_id, key)[1]), now_ms)
        add(txn, delivery)
        begun.append(delivery)
    return Claim(begun, next_due_ms)


def settle(txn: Transaction, deliveries: Iterable[Delivery]) -> None:
    """See ``Ledger.settle``."""
    for delivery in deliveries:
        begun = _get(txn, delivery.id)
        settled = after_outcome(begun, delivery)
        if settled is None:
            continue
        key = keys.outbox_key(begun.endpoint_id, begun.next_attempt_ms, begun.id)
        txn.delete("outbox", key)
        _put(txn, settled)
        if settled.status is DeliveryStatus.PENDING:
            _enqueue(txn, settled)


def _get(txn: Transaction, name: str) -> Delivery:
    found = txn.get("deliveries", name.encode())
    assert found is not None, f"the outbox names a delivery that is not there: {name}"
    return records.decode_delivery(found)


def _put(txn: Transaction, delivery: Delivery) -> None:
    txn.put("deliveries", delivery.id.encode(), records.encode(delivery))


def _enqueue(txn: Transaction, delivery: Delivery) -> None:
    key = keys.outbox_key(delivery.endpoint_id, delivery.next_attempt_ms, delivery.id)
    txn.put("outbox", key, b"")
