"""Deliveries in the store, and in which order they are sent.

Of each customer's pending deliveries to an endpoint, the first in the order of closing is the only
one that may be sent: it stands in ``outbox``, by when it is due, or in ``in_air`` while an attempt
is made. The others stand behind it in ``outbox_by_customer``, so one that fails holds back its
customer's later ones and nobody else's.

Claiming begins an attempt on disk before anything is sent. What is in the air when a process ends
has an unknown outcome: the next one, which is the store's only user, puts it back (``recover``).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from meterd.domain.deliveries import (
    Delivery,
    DeliveryStatus,
    attempt_interrupted,
    begin_attempt,
    interrupted,
    numbered,
    once_more,
)
from meterd.domain.endpoint_states import EndpointState
from meterd.embedded import attempt_log, keys, records
from meterd.ledger import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meterd.domain.deliveries import Attempt
    from meterd.embedded.transaction import Transaction


def add(txn: Transaction, made: Delivery) -> None:
    """A new delivery, in the transaction of the aggregation that it carries.

    It is not made before the endpoint's last one, though a clock stepped back: so what was made
    when is found by halving.
    """
    sequence = take_sequence(txn, made.endpoint_id)
    created_ms = max(made.created_ms, _created_ms(txn, made.endpoint_id, sequence - 1))
    insert(txn, numbered(msgspec.structs.replace(made, created_ms=created_ms), sequence))


def _created_ms(txn: Transaction, endpoint_id: str, sequence: int) -> int:
    """When that delivery was made; 0 where there is none (any more)."""
    found = txn.get("deliveries", keys.delivery_key(endpoint_id, sequence))
    return 0 if found is None else records.decode_delivery(found).created_ms


def take_sequence(txn: Transaction, endpoint_id: str) -> int:
    """The endpoint's next: no other delivery has it."""
    state = endpoint_state(txn, endpoint_id)
    taken = state.next_sequence
    _put_state(txn, endpoint_id, msgspec.structs.replace(state, next_sequence=taken + 1))
    return taken


def insert(txn: Transaction, delivery: Delivery) -> None:
    """A delivery that has its sequence, and is not in the air."""
    name = keys.delivery_name(delivery.id)
    assert name is not None, delivery.id
    txn.put("delivery_ids", name, _key(delivery))
    _put(txn, delivery)
    match delivery.status:
        case DeliveryStatus.PENDING:
            _queue(txn, delivery)
        case DeliveryStatus.PARKED:
            txn.put("parked", _key(delivery), b"")


def next_due_ms(txn: Transaction, endpoint_id: str) -> int | None:
    """When the endpoint's first delivery comes due, if it has any."""
    prefix = keys.endpoint_prefix(endpoint_id)
    key = txn.first_key("outbox", prefix)
    if key is None or not key.startswith(prefix):
        return None
    return max(keys.due_ms_in(key), endpoint_state(txn, endpoint_id).paused_until_ms)


def claim(txn: Transaction, endpoint_id: str, limit: int, now_ms: int) -> Claim:
    """See ``Ledger.claim``."""
    due_ms = next_due_ms(txn, endpoint_id)
    if due_ms is None or due_ms > now_ms:
        return Claim([], due_ms)
    prefix = keys.endpoint_prefix(endpoint_id)
    first = list(islice(txn.keys_forward("outbox", prefix, prefix), limit))
    begun = []
    for key in first:
        if keys.due_ms_in(key) > now_ms:
            break
        delivery = begin_attempt(get(txn, endpoint_id, keys.sequence_in(key)), now_ms)
        txn.delete("outbox", key)
        txn.put("in_air", _key(delivery), b"")
        _put(txn, delivery)
        begun.append(delivery)
    return Claim(begun, next_due_ms(txn, endpoint_id))


def settle(
    txn: Transaction, deliveries: Iterable[Delivery], attempts: Iterable[Attempt] = ()
) -> None:
    """See ``Ledger.settle``."""
    for settled in deliveries:
        was_in_air = txn.delete("in_air", _key(settled))
        assert was_in_air, f"{settled.id} is settled, and was not begun"
        _put(txn, settled)
        if settled.status is not DeliveryStatus.PENDING:
            txn.delete("outbox_by_customer", _place(settled))
        if settled.status is DeliveryStatus.PARKED:
            txn.put("parked", _key(settled), b"")
        first = _first_of_customer(txn, settled)
        if first is not None:
            _enqueue(txn, first)
    for attempt in attempts:
        attempt_log.write(txn, attempt)


def send_again(txn: Transaction, delivery: Delivery, now_ms: int) -> Delivery:
    """The delivery as it is then; see ``Ledger.retry``."""
    again = once_more(delivery, now_ms)
    if again is delivery:
        return delivery
    txn.delete("parked", _key(delivery))
    txn.delete("outbox", _outbox_key(delivery))
    _put(txn, again)
    _queue(txn, again)
    return again


def recover(txn: Transaction, now_ms: int, limit: int) -> int:
    """Puts back so many that were in the air when the last process ended; how many it found."""
    found = list(islice(txn.keys_forward("in_air", b"", b""), limit))
    for key in found:
        payload = txn.get("deliveries", key)
        assert payload is not None, f"what is in the air is not there: {key!r}"
        begun = records.decode_delivery(payload)
        again = interrupted(begun, now_ms)
        settle(txn, [again], [attempt_interrupted(begun)])
    return len(found)


def get(txn: Transaction, endpoint_id: str, sequence: int) -> Delivery:
    found = txn.get("deliveries", keys.delivery_key(endpoint_id, sequence))
    assert found is not None, f"there is no delivery {sequence} to {endpoint_id}"
    return records.decode_delivery(found)


def find(txn: Transaction, delivery_id: str) -> Delivery | None:
    """The delivery of that id."""
    name = keys.delivery_name(delivery_id)
    key = None if name is None else txn.get("delivery_ids", name)
    if key is None:
        return None
    found = txn.get("deliveries", key)
    assert found is not None, f"delivery_ids names a delivery that is not there: {key!r}"
    return records.decode_delivery(found)


def endpoint_state(txn: Transaction, endpoint_id: str) -> EndpointState:
    found = txn.get("endpoints", endpoint_id.encode())
    return EndpointState() if found is None else records.decode_endpoint_state(found)


def change_endpoint(
    txn: Transaction, endpoint_id: str, change: Callable[[EndpointState], EndpointState]
) -> None:
    _put_state(txn, endpoint_id, change(endpoint_state(txn, endpoint_id)))


def _put_state(txn: Transaction, endpoint_id: str, state: EndpointState) -> None:
    txn.put("endpoints", endpoint_id.encode(), records.encode(state))


def _queue(txn: Transaction, delivery: Delivery) -> None:
    """Takes its place among its customer's; what was first gives way, unless one is in the air."""
    before = _first_of_customer(txn, delivery)
    place = _place(delivery)
    txn.put("outbox_by_customer", place, delivery.sequence.to_bytes(8, "big"))
    is_first = before is None or before.sequence == delivery.sequence
    if before is not None and place < _place(before):
        is_first = txn.delete("outbox", _outbox_key(before))
    if is_first:
        _enqueue(txn, delivery)


def _first_of_customer(txn: Transaction, delivery: Delivery) -> Delivery | None:
    """The first that its customer's endpoint is still to get."""
    prefix = keys.outbox_customer_prefix(delivery.endpoint_id, delivery.customer_id)
    for _, sequence in txn.forward("outbox_by_customer", prefix, prefix):
        return get(txn, delivery.endpoint_id, int.from_bytes(sequence, "big"))
    return None


def _put(txn: Transaction, delivery: Delivery) -> None:
    txn.put("deliveries", _key(delivery), records.encode(delivery))


def _enqueue(txn: Transaction, delivery: Delivery) -> None:
    txn.put("outbox", _outbox_key(delivery), b"")


def _key(delivery: Delivery) -> bytes:
    return keys.delivery_key(delivery.endpoint_id, delivery.sequence)


def _outbox_key(delivery: Delivery) -> bytes:
    return keys.outbox_key(delivery.endpoint_id, delivery.next_attempt_ms, delivery.sequence)


def _place(delivery: Delivery) -> bytes:
    prefix = keys.outbox_customer_prefix(delivery.endpoint_id, delivery.customer_id)
    return prefix + keys.outbox_place(delivery.period, delivery.revision)
