"""Deliveries that go together: up to so many of one period in one POST, begun and settled as one.

A batch is a delivery of its own, with a number behind those of all sequences and an id of its own,
so it is begun, retried, parked and logged as any other; ``batched`` says which deliveries are in
one, and their state is its state. Only what was never begun is put into one. It stays as it was
formed, to be sent again byte for byte under the same id; its body is made of theirs and not stored.
Who is sent again by itself leaves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.deliveries import BATCH, Delivery, Member, batch_body, first_of_batch
from meterd.embedded import keys, records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.embedded.transaction import Transaction

_NUMBER_BYTES: Final = 8

# Records of ``outbox`` of one period.
Group = list[tuple[bytes, bytes]]


def form(txn: Transaction, endpoint_id: str, number: int, group: Group, now_ms: int) -> Delivery:
    """A batch of these, which are due and of one period, and no longer in the queue alone; neither
    is it.
    """
    members = [
        Member(keys.sequence_in(key), found[: keys.PLACE_BYTES], found[keys.PLACE_BYTES :].decode())
        for key, found in group
    ]
    first = _member(txn, endpoint_id, members[0].sequence)
    batch = first_of_batch(first, BATCH + number, members, now_ms)
    name = batch.sequence.to_bytes(_NUMBER_BYTES, "big")
    txn.put_all("batched", [(key, name) for key in _keys(endpoint_id, members)])
    return batch


def with_body(txn: Transaction, batch: Delivery) -> Delivery:
    """The batch as it is sent."""
    payloads = txn.get_all("deliveries", _keys(batch.endpoint_id, batch.members))
    assert len(payloads) == len(batch.members), f"{batch.id} holds a delivery that is not there"
    bodies = [records.decode_body(one).body for one in payloads]
    return msgspec.structs.replace(batch, body=batch_body(batch, bodies))


def batch_of(txn: Transaction, delivery: Delivery) -> Delivery | None:
    """The batch that the delivery is in."""
    number = txn.get("batched", keys.delivery_key(delivery.endpoint_id, delivery.sequence))
    if number is None:
        return None
    found = txn.get("deliveries", keys.endpoint_prefix(delivery.endpoint_id) + number)
    assert found is not None, f"{delivery.id} is in a batch that is not there"
    return records.decode_delivery(found)


def is_in(txn: Transaction, batch: Delivery, sequence: int) -> bool:
    """Whether that delivery has not left it."""
    number = txn.get("batched", keys.delivery_key(batch.endpoint_id, sequence))
    return number == batch.sequence.to_bytes(_NUMBER_BYTES, "big")


def still_in(txn: Transaction, batch: Delivery) -> list[int]:
    """The sequences of those that have not left it."""
    return [sequence for sequence in batch.sequences if is_in(txn, batch, sequence)]


def leave(txn: Transaction, delivery: Delivery) -> None:
    """The delivery has a state of its own from now on."""
    txn.delete("batched", keys.delivery_key(delivery.endpoint_id, delivery.sequence))


def _keys(endpoint_id: str, members: Sequence[Member]) -> list[bytes]:
    prefix = keys.endpoint_prefix(endpoint_id)
    return [prefix + one.sequence.to_bytes(_NUMBER_BYTES, "big") for one in members]


def _member(txn: Transaction, endpoint_id: str, sequence: int) -> Delivery:
    found = txn.get("deliveries", keys.delivery_key(endpoint_id, sequence))
    assert found is not None, f"a batch holds a delivery that is not there: {sequence}"
    return records.decode_delivery(found)
