"""Aggregations follow from totals, deliveries from aggregations, the outbox from deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.deliveries import DeliveryStatus
from meterd.embedded import keys, records
from tests.embedded.sample_store import copied_sample, differences, spoil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.deliveries import Delivery
    from meterd.embedded.transaction import Transaction


def closed(txn: Transaction, *, closed: bool = True) -> tuple[bytes, Aggregation]:
    """The first closed or running aggregation."""
    for key, payload in txn.forward("aggregations", b"", b""):
        found = records.decode_aggregation(payload)
        if found.closed is closed:
            return key, found
    raise AssertionError("there is none")


def change(txn: Transaction, **changes: object) -> None:
    key, found = closed(txn)
    changed = msgspec.structs.replace(found, **changes)
    txn.put("aggregations", key, records.encode(changed))


def a_figure_is_wrong(txn: Transaction) -> None:
    _key, found = closed(txn)
    name, figure = next(iter(found.figures.items()))
    wrong = msgspec.structs.replace(figure, value=figure.value + 1)
    change(txn, figures={**found.figures, name: wrong})


def a_figure_of_no_events(txn: Transaction) -> None:
    _, found = closed(txn)
    figure = next(iter(found.figures.values()))
    change(txn, figures={**found.figures, "never": figure})


def closed_is_open_again(txn: Transaction) -> None:
    change(txn, closed=False)


def another_revision(txn: Transaction) -> None:
    change(txn, revision=2)


def running_is_closed(txn: Transaction) -> None:
    key, found = closed(txn, closed=False)
    txn.put("aggregations", key, records.encode(msgspec.structs.replace(found, closed=True)))


def running_is_delivered(txn: Transaction) -> None:
    key, found = closed(txn, closed=False)
    txn.put(
        "aggregations", key, records.encode(msgspec.structs.replace(found, endpoints=("billing",)))
    )


def an_aggregation_is_missing(txn: Transaction) -> None:
    txn.delete("aggregations", closed(txn)[0])


def an_aggregation_in_the_place_of_another(txn: Transaction) -> None:
    key, found = closed(txn)
    txn.put("aggregations", key[:-1] + b"~", records.encode(found))


def a_place_is_missing(txn: Transaction) -> None:
    txn.delete("customer_periods", next(txn.keys_forward("customer_periods", b"", b"")))


def a_place_too_many(txn: Transaction) -> None:
    key = next(txn.keys_forward("customer_periods", b"", b""))
    txn.put("customer_periods", key[:-4] + b"\0\0\0\1", b"")


def a_place_that_is_none(txn: Transaction) -> None:
    txn.put("customer_periods", b"\0acme\0\x09", b"")


# They name deliveries.
OF_THE_OUTBOX = (
    "outbox",
    "outbox_by_customer",
    "in_air",
    "parked",
    "endpoints",
    "attempts_by_time",
)


def delivery(txn: Transaction, status: DeliveryStatus) -> tuple[bytes, Delivery]:
    for key, payload in txn.forward("deliveries", b"", b""):
        found = records.decode_delivery(payload)
        if found.status is status:
            return key, found
    raise AssertionError("there is none")


def a_delivery_is_missing(txn: Transaction) -> None:
    txn.delete("deliveries", delivery(txn, DeliveryStatus.DELIVERED)[0])


def a_name_is_missing(txn: Transaction) -> None:
    txn.delete("delivery_ids", next(txn.keys_forward("delivery_ids", b"", b"")))


def a_name_of_another(txn: Transaction) -> None:
    names = [
        (name, key) for name, key in txn.forward("delivery_ids", b"", b"") if key.startswith(b"crm")
    ]
    txn.put("delivery_ids", names[0][0], names[1][1])


def a_name_too_many(txn: Transaction) -> None:
    (_, key), *_ = txn.forward("delivery_ids", b"", b"")
    txn.put("delivery_ids", b"\x0f" * 16, key)


def a_body_is_changed(txn: Transaction) -> None:
    key, found = delivery(txn, DeliveryStatus.PENDING)
    body = found.body.replace(b'"eventCount":', b'"eventCount":1')
    txn.put("deliveries", key, records.encode(msgspec.structs.replace(found, body=body)))


def a_delivery_before_its_close(txn: Transaction) -> None:
    key, found = delivery(txn, DeliveryStatus.PENDING)
    early = msgspec.structs.replace(found, created_ms=found.created_ms - 1)
    txn.put("deliveries", key, records.encode(early))


def a_delivery_of_nothing(txn: Transaction) -> None:
    _, found = delivery(txn, DeliveryStatus.DELIVERED)
    other = msgspec.structs.replace(found, id="msg_" + "0" * 32, sequence=1 << 40)
    key = keys.delivery_key(other.endpoint_id, other.sequence)
    txn.put("deliveries", key, records.encode(other))


@pytest.mark.parametrize(
    ("work", "tables"),
    [
        (a_figure_is_wrong, {"aggregations", "deliveries", "published"}),
        (a_figure_of_no_events, {"aggregations", "deliveries", "published"}),
        (closed_is_open_again, {"aggregations"}),
        (another_revision, {"aggregations", "superseded", "deliveries", "published"}),
        (running_is_closed, {"aggregations"}),
        (running_is_delivered, {"aggregations", "delivery_ids"}),
        (
            an_aggregation_is_missing,
            {"aggregations", "customer_periods", "deliveries", "published"},
        ),
        (an_aggregation_in_the_place_of_another, {"aggregations"}),
        (a_place_is_missing, {"customer_periods"}),
        (a_place_too_many, {"customer_periods"}),
        (a_place_that_is_none, {"customer_periods"}),
        (a_delivery_is_missing, {"deliveries"}),
        (a_name_is_missing, {"delivery_ids"}),
        (a_name_of_another, {"deliveries"}),
        (a_name_too_many, {"delivery_ids"}),
        (a_body_is_changed, {"deliveries"}),
        (a_delivery_before_its_close, {"deliveries"}),
        (a_delivery_of_nothing, {"deliveries"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_it_is_found(tmp_path: Path, work: Callable[[Transaction], None], tables: set[str]) -> None:
    """In these tables, and nothing else is said to be wrong."""
    data = copied_sample(tmp_path)
    spoil(data, work)
    assert {found.table for found in differences(data)} >= tables
    assert {found.table for found in differences(data)} <= tables | {"delivery_ids", *OF_THE_OUTBOX}
