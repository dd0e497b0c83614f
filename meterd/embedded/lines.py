"""The line in which each customer's deliveries to an endpoint wait, and who of it may be sent.
What thresholds were reached waits in another, in the order of reaching: neither holds the other up.

All that is pending stands in ``outbox_by_customer``, in the order of closing. Only the first of a
customer's may be sent, and only while none of them is in the air; of a batch, only when it is the
first of each of its customers. What may be sent stands in ``outbox`` too, by when it is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.domain.deliveries import DeliveryStatus
from meterd.embedded import keys, records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meterd.domain.deliveries import Delivery
    from meterd.embedded.transaction import Transaction


def join(txn: Transaction, waiting: Delivery) -> None:
    """A delivery that is pending from now on, or a batch, takes its places. What was first there
    gives way, if it is not in the air.
    """
    is_behind, later = False, []
    for (customer, place), sequence in zip(_places(waiting), _sequences(waiting), strict=True):
        first = _first(txn, customer)
        txn.put("outbox_by_customer", customer + place, sequence)
        if first is None:
            continue
        if first[0] < customer + place:
            is_behind = True
        else:
            later.append(first[1])
    for other in _sent_as(txn, waiting.endpoint_id, later):
        txn.delete("outbox", outbox_key(other))
    if not is_behind and not (later and _in_air(txn, waiting) is not None):
        enqueue(txn, waiting)


def go_on(txn: Transaction, settled: Delivery) -> None:
    """What is no longer in the air leaves the line, unless it is still pending; who is next of each
    customer may be sent.
    """
    is_pending = settled.status is DeliveryStatus.PENDING
    places, own = _places(settled), set(_sequences(settled))
    if is_pending:
        firsts = [found[1] for customer, _ in places if (found := _first(txn, customer))]
    else:
        firsts = txn.pop_all("outbox_by_customer", places)
    others = [first for first in firsts if first not in own]
    if is_pending and not others:
        enqueue(txn, settled)
    for other in _sent_as(txn, settled.endpoint_id, others):
        if not other.is_batch or waits_for(txn, other) is None:
            enqueue(txn, other)


def enqueue(txn: Transaction, delivery: Delivery) -> None:
    """It may be sent."""
    txn.put("outbox", *record_of(delivery))


def waits_for(txn: Transaction, waiting: Delivery) -> int | None:
    """The sequence of one that goes before what is pending, or is in the air."""
    for (customer, _), sequence in zip(_places(waiting), _sequences(waiting), strict=True):
        found = _first(txn, customer)
        if found is not None and found[1] != sequence:
            return keys.sequence_in(found[1])
    return _in_air(txn, waiting)


def firsts(txn: Transaction, waiting: Delivery) -> Iterator[Delivery]:
    """What is to be sent first of each of its customers."""
    found = [_first(txn, customer) for customer, _ in _places(waiting)]
    return _sent_as(txn, waiting.endpoint_id, [one[1] for one in found if one is not None])


def record_of(delivery: Delivery) -> tuple[bytes, bytes]:
    """What stands in ``outbox`` of one that may be sent: where it belongs, of what may go with
    others of its period. What was begun goes on as it was, so that its id says that it is the same.
    """
    where = b""
    if not delivery.is_batch and not delivery.attempts and delivery.threshold is None:
        where = keys.place_in_outbox(delivery.period, delivery.revision, delivery.customer_id)
    return outbox_key(delivery), where


def outbox_key(delivery: Delivery) -> bytes:
    return keys.outbox_key(
        delivery.endpoint_id,
        delivery.next_attempt_ms,
        delivery.sequence,
        is_repeat=delivery.has_failed,
    )


def _in_air(txn: Transaction, waiting: Delivery) -> int | None:
    """The sequence of one of its customers' that is in the air."""
    prefix = keys.endpoint_prefix(waiting.endpoint_id)
    if not waiting.is_batch:  # few wait with it, and a batch in the air is long
        ((customer, _),) = _places(waiting)
        for _, sequence in txn.forward("outbox_by_customer", customer, customer):
            sent_as = txn.get("batched", prefix + sequence) or sequence
            if txn.get("in_air", prefix + sent_as) is not None:
                return keys.sequence_in(sequence)
        return None
    customers = {one.customer_id for one in waiting.members}
    for key in txn.keys_forward("in_air", prefix, prefix):
        begun = _read(txn, key)
        if begun.threshold is not None:
            continue
        names = [one.customer_id for one in begun.members] or [begun.customer_id]
        for name, number in zip(names, begun.sequences, strict=True):
            if name in customers:
                return number
    return None


def _sent_as(txn: Transaction, endpoint_id: str, sequences: Iterable[bytes]) -> Iterator[Delivery]:
    """These deliveries, or the batches that they are in; each once."""
    prefix = keys.endpoint_prefix(endpoint_id)
    seen = set()
    for sequence in sequences:
        number = txn.get("batched", prefix + sequence) or sequence
        if number not in seen:
            seen.add(number)
            yield _read(txn, prefix + number)


def _read(txn: Transaction, key: bytes) -> Delivery:
    found = txn.get("deliveries", key)
    assert found is not None, f"what waits is not there: {key!r}"
    return records.decode_delivery(found)


def _first(txn: Transaction, customer: bytes) -> tuple[bytes, bytes] | None:
    """The place of the first that its customer's endpoint is still to get, and its sequence."""
    return next(txn.forward("outbox_by_customer", customer, customer), None)


def _sequences(delivery: Delivery) -> list[bytes]:
    return [sequence.to_bytes(8, "big") for sequence in delivery.sequences]


def _places(delivery: Delivery) -> list[tuple[bytes, bytes]]:
    """Of all that are delivered with it: the customer's prefix, and the place behind it."""
    if not delivery.is_batch:
        return [place_in_line(delivery)]
    prefix = keys.endpoint_prefix(delivery.endpoint_id)
    return [(prefix + one.customer_id.encode() + keys.END, one.place) for one in delivery.members]


def place_in_line(delivery: Delivery) -> tuple[bytes, bytes]:
    """Of one that is no batch: the prefix of its line, and its place behind that."""
    end, customer_id = delivery.endpoint_id, delivery.customer_id
    if delivery.threshold is not None:
        line = keys.outbox_thresholds_prefix(end, customer_id)
        return line, delivery.sequence.to_bytes(8, "big")
    place = keys.outbox_place(delivery.period, delivery.revision)
    return keys.outbox_customer_prefix(end, customer_id), place
