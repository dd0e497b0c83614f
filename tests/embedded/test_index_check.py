"""Both indexes of the log hold what it says, nothing less and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meterd.domain.event_ids import ID_BYTES
from meterd.embedded import keys, records
from tests.embedded.sample_store import copied_sample, differences, first_of, spoil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

BY_TYPE = "records_by_type"
BY_CUSTOMER = "blocks_by_customer"


def entry(txn: Transaction, least: int = 1) -> tuple[bytes, list[bytes]]:
    """The first index record with so many blocks."""
    for key, payload in txn.forward(BY_CUSTOMER, b"", b""):
        ids = records.split_block_ids(payload)
        if len(ids) >= least:
            return key, ids
    raise AssertionError("no index record is as long")


def a_record_is_missing(txn: Transaction) -> None:
    txn.delete(BY_TYPE, first_of(txn, BY_TYPE, 7))


def a_record_too_many(txn: Transaction) -> None:
    """Between two of the type that are there."""
    txn.put(BY_TYPE, first_of(txn, BY_TYPE, 7)[:-1] + b"\x01", b"")


def a_record_behind_all(txn: Transaction) -> None:
    name = first_of(txn, BY_TYPE).split(keys.END)[0].decode()
    txn.put(BY_TYPE, keys.record_by_type(name, b"\xff" * ID_BYTES), b"")


def a_type_that_never_was(txn: Transaction) -> None:
    txn.put(BY_TYPE, keys.record_by_type("never", b"\x01" * ID_BYTES), b"")


def a_block_is_missing(txn: Transaction) -> None:
    key, ids = entry(txn, 2)
    txn.put(BY_CUSTOMER, key, b"".join(ids[:-1]))


def all_blocks_are_missing(txn: Transaction) -> None:
    txn.delete(BY_CUSTOMER, entry(txn)[0])


def a_block_of_no_event(txn: Transaction) -> None:
    key, ids = entry(txn, 2)
    txn.put(BY_CUSTOMER, key, b"".join([ids[0], ids[0][:-1] + b"\x01", *ids[1:]]))


def a_block_of_somebody_else(txn: Transaction) -> None:
    """Behind all of the customer's own: nothing asks for it in passing."""
    *_, last = txn.keys_forward("events", b"", b"")
    key, _ = entry(txn)
    txn.put(BY_CUSTOMER, key[:-ID_BYTES] + last, last)


def a_block_twice(txn: Transaction) -> None:
    key, ids = entry(txn, 2)
    txn.put(BY_CUSTOMER, key[:-ID_BYTES] + ids[1], ids[1])


def blocks_out_of_order(txn: Transaction) -> None:
    key, ids = entry(txn, 3)
    txn.put(BY_CUSTOMER, key, b"".join([ids[0], *reversed(ids[1:])]))


@pytest.mark.parametrize(
    ("work", "table"),
    [
        (a_record_is_missing, BY_TYPE),
        (a_record_too_many, BY_TYPE),
        (a_record_behind_all, BY_TYPE),
        (a_type_that_never_was, BY_TYPE),
        (a_block_is_missing, BY_CUSTOMER),
        (all_blocks_are_missing, BY_CUSTOMER),
        (a_block_of_no_event, BY_CUSTOMER),
        (a_block_of_somebody_else, BY_CUSTOMER),
        (a_block_twice, BY_CUSTOMER),
        (blocks_out_of_order, BY_CUSTOMER),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_it_is_found(tmp_path: Path, work: Callable[[Transaction], None], table: str) -> None:
    """With the type, and the customer where it is one's."""
    data = copied_sample(tmp_path)
    spoil(data, work)
    found = differences(data)
    assert {one.table for one in found} == {table}
    assert all(one.event_type for one in found)
    assert all(one.customer_id for one in found) or table == BY_TYPE
