"""Where deliveries stand, against their states: whatever differs is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.deliveries import Delivery, DeliveryStatus
from meterd.embedded import keys, records
from tests.embedded.sample_store import copied_sample, differences, spoil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from meterd.embedded.transaction import Transaction


def some(txn: Transaction, status: DeliveryStatus, **state: Any) -> tuple[bytes, Delivery]:
    """The first delivery of that state that may be sent."""
    for key, payload in txn.forward("deliveries", b"", b""):
        found = records.decode_delivery(payload)
        is_it = all(getattr(found, name) == value for name, value in state.items())
        waits = found.status is DeliveryStatus.PENDING and found.begun_ms is None
        if (
            found.status is status
            and is_it
            and (not waits or txn.get("outbox", due(found)) is not None)
        ):
            return key, found
    raise AssertionError("there is none")


def pending(txn: Transaction) -> Delivery:
    return some(txn, DeliveryStatus.PENDING, begun_ms=None)[1]


def change(txn: Transaction, key: bytes, found: Delivery, **state: Any) -> None:
    txn.put("deliveries", key, records.encode(msgspec.structs.replace(found, **state)))


def due(found: Delivery, at_ms: int | None = None) -> bytes:
    at_ms = found.next_attempt_ms if at_ms is None else at_ms
    return keys.outbox_key(found.endpoint_id, at_ms, found.sequence, is_repeat=found.has_failed)


def it_stands_in_no_queue(txn: Transaction) -> None:
    txn.delete("outbox", due(pending(txn)))


def it_is_due_at_another_time(txn: Transaction) -> None:
    found = pending(txn)
    txn.delete("outbox", due(found))
    txn.put("outbox", due(found, 5), b"")


def it_stands_in_the_queue_twice(txn: Transaction) -> None:
    txn.put("outbox", due(pending(txn), 5), b"")


def it_is_delivered_and_waits(txn: Transaction) -> None:
    txn.put("outbox", due(some(txn, DeliveryStatus.DELIVERED)[1]), b"")


def nothing_waits(txn: Transaction) -> None:
    txn.put("outbox", keys.outbox_key("billing", 5, 1 << 40), b"")


def its_customer_does_not_know_it(txn: Transaction) -> None:
    found = pending(txn)
    prefix = keys.outbox_customer_prefix(found.endpoint_id, found.customer_id)
    txn.delete("outbox_by_customer", prefix + keys.outbox_place(found.period, found.revision))


def it_is_in_the_air_and_was_not_begun(txn: Transaction) -> None:
    found = pending(txn)
    txn.put("in_air", keys.delivery_key(found.endpoint_id, found.sequence), b"")


def begun_and_not_in_the_air(txn: Transaction) -> None:
    txn.delete("in_air", next(txn.keys_forward("in_air", b"", b"")))


def delivered_without_a_time(txn: Transaction) -> None:
    change(txn, *some(txn, DeliveryStatus.DELIVERED), delivered_ms=None)


def delivered_without_an_attempt(txn: Transaction) -> None:
    change(txn, *some(txn, DeliveryStatus.DELIVERED), attempts=0)


def it_is_called_delivered(txn: Transaction) -> None:
    key, found = some(txn, DeliveryStatus.PENDING, begun_ms=None)
    change(txn, key, found, status=DeliveryStatus.DELIVERED, delivered_ms=1, attempts=1)


def it_is_called_parked(txn: Transaction) -> None:
    key, found = some(txn, DeliveryStatus.PENDING, begun_ms=None)
    txn.delete("outbox", due(found))
    change(txn, key, found, status=DeliveryStatus.PARKED, attempts=1)


def a_sequence_is_given_twice(txn: Transaction) -> None:
    state = records.decode_endpoint_state(txn.get("endpoints", b"billing") or b"")
    earlier = msgspec.structs.replace(state, next_sequence=state.next_sequence - 1)
    txn.put("endpoints", b"billing", records.encode(earlier))


def an_endpoint_is_forgotten(txn: Transaction) -> None:
    txn.delete("endpoints", b"billing")


def an_attempt_without_its_time(txn: Transaction) -> None:
    txn.delete("attempts_by_time", next(txn.keys_forward("attempts_by_time", b"", b"")))


def a_time_without_its_attempt(txn: Transaction) -> None:
    txn.delete("attempts", next(txn.keys_forward("attempts", b"", b"")))


@pytest.mark.parametrize(
    ("work", "table"),
    [
        (it_stands_in_no_queue, "outbox"),
        (it_is_due_at_another_time, "outbox"),
        (it_stands_in_the_queue_twice, "outbox"),
        (it_is_delivered_and_waits, "outbox"),
        (nothing_waits, "outbox"),
        (its_customer_does_not_know_it, "outbox_by_customer"),
        (it_is_in_the_air_and_was_not_begun, "in_air"),
        (begun_and_not_in_the_air, "in_air"),
        (delivered_without_a_time, "deliveries"),
        (delivered_without_an_attempt, "deliveries"),
        (it_is_called_delivered, "outbox"),
        (it_is_called_parked, "parked"),
        (a_sequence_is_given_twice, "endpoints"),
        (an_endpoint_is_forgotten, "endpoints"),
        (an_attempt_without_its_time, "attempts_by_time"),
        (a_time_without_its_attempt, "attempts_by_time"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_it_is_found(tmp_path: Path, work: Callable[[Transaction], None], table: str) -> None:
    """By what is verified beside everything else."""
    data = copied_sample(tmp_path)
    spoil(data, work)
    assert table in {found.table for found in differences(data)}
