"""A delivery is held against what it must be made of, whatever that is."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.thresholds import reached_delivery
from meterd.embedded import keys, reached, records
from meterd.embedded.differences import Difference
from meterd.embedded.made_check import MadeCheck
from meterd.embedded.store import PARTS, Store
from tests.domain.test_thresholds import one

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

REACHED = one(endpoints=("billing",))
SHOULD = reached_delivery(REACHED, "billing", REACHED.reached_ms)
KEY = keys.delivery_key("billing", 1)
NAME = bytes.fromhex(SHOULD.id[4:])


def changed(**changes: object) -> Callable[[Transaction], None]:
    def change(txn: Transaction) -> None:
        stored = records.decode_delivery(txn.get("deliveries", KEY) or b"")
        txn.put("deliveries", KEY, records.encode(msgspec.structs.replace(stored, **changes)))

    return change


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda _: None, []),
        (lambda txn: txn.delete("delivery_ids", NAME), [("delivery_ids", "to")]),
        (lambda txn: txn.put("delivery_ids", NAME, b"x"), [("delivery_ids", "to")]),
        (lambda txn: txn.delete("deliveries", KEY), [("deliveries", "to")]),
        (changed(customer_id="b"), [("deliveries", "customer_id")]),
        (changed(threshold=None), [("deliveries", "threshold")]),
        (changed(created_ms=0), [("deliveries", "creation")]),
        (changed(body=b"{}"), [("deliveries", "body")]),
    ],
)
def test_what_is_not_as_it_was_made_is_found(
    tmp_path: Path, spoil: Callable[[Transaction], None], found: list[tuple[str, str]]
) -> None:
    """By table, and by what of it; as it was made nothing is."""

    def named(table: str, what: str, stands: str, should: str) -> Difference:
        return Difference(table, what, stands, should)

    with closing(Store(tmp_path)) as store:
        store.write(lambda txn: reached.write(txn, PARTS, [REACHED], 0))
        store.write(spoil)
        with store.read() as txn:
            differences = list(MadeCheck(txn).run(SHOULD, [SHOULD.body], named))
    assert [one.table for one in differences] == [table for table, _ in found]
    assert all(what in one.what for one, (_, what) in zip(differences, found, strict=True))
