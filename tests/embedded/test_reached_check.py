"""What was reached, and what is told of it, are held against each other."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.operations import Operation
from meterd.embedded import records
from tests.embedded.sample_store import copied_sample, differences, spoil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.domain.deliveries import Delivery
    from meterd.domain.thresholds import Reached
    from meterd.embedded.transaction import Transaction


def first(txn: Transaction) -> tuple[bytes, Reached]:
    key, payload = next(txn.forward("reached", b"", b""))
    return key, records.decode_reached(payload)


def change(txn: Transaction, **changes: object) -> None:
    key, found = first(txn)
    txn.put("reached", key, records.encode(msgspec.structs.replace(found, **changes)))


def one_is_missing(txn: Transaction) -> None:
    txn.delete("reached", first(txn)[0])


def one_in_the_place_of_another(txn: Transaction) -> None:
    key, found = first(txn)
    txn.put("reached", key + b"0", records.encode(found))


def a_figure_below_its_threshold(txn: Transaction) -> None:
    change(txn, value=Decimal(0))


def an_operation_that_is_none(txn: Transaction) -> None:
    change(txn, operation=Operation.AVG)


def another_endpoint(txn: Transaction) -> None:
    change(txn, endpoints=("billing", "crm"))


def one_endpoint_less(txn: Transaction) -> None:
    change(txn, endpoints=())


def another_body(txn: Transaction) -> None:
    key, told = delivery(txn)
    txn.put("deliveries", key, records.encode(msgspec.structs.replace(told, body=told.body + b" ")))


def a_delivery_is_missing(txn: Transaction) -> None:
    txn.delete("deliveries", delivery(txn)[0])


def delivery(txn: Transaction) -> tuple[bytes, Delivery]:
    for key, payload in txn.forward("deliveries", b"", b""):
        found = records.decode_delivery(payload)
        if found.threshold is not None:
            return key, found
    raise AssertionError("there is none")


@pytest.mark.parametrize(
    ("spoiling", "tables"),
    [
        (one_is_missing, {"deliveries"}),
        (one_in_the_place_of_another, {"reached"}),
        (a_figure_below_its_threshold, {"reached", "deliveries"}),
        (an_operation_that_is_none, {"reached"}),
        (another_endpoint, {"delivery_ids"}),
        (one_endpoint_less, {"deliveries"}),
        (another_body, {"deliveries"}),
    ],
)
def test_what_does_not_fit_is_found(
    tmp_path: Path, spoiling: Callable[[Transaction], None], tables: set[str]
) -> None:
    """Each with its customer, where it is known whose it is."""
    data = copied_sample(tmp_path)
    assert differences(data) == []
    spoil(data, spoiling)
    found = differences(data)
    assert {one.table for one in found} == tables
    assert all(one.customer_id for one in found if one.table == "reached")


def test_a_missing_delivery_is_found(tmp_path: Path) -> None:
    """By what was reached, and by its place in the outbox."""
    data = copied_sample(tmp_path)
    spoil(data, a_delivery_is_missing)
    assert "deliveries" in {one.table for one in differences(data)}
