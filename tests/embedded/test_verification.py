"""What is damaged is named; what is whole is still held against the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meterd.domain.errors import StoreError
from meterd.embedded.differences import Checking
from meterd.embedded.transaction import TABLES
from meterd.embedded.verification import verify
from tests.embedded.sample_store import CUSTOMERS, checked, copied_sample, differences, spoil

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.embedded.transaction import Transaction


def damage(txn: Transaction, table: str) -> bytes:
    """Flips a bit of the first record's checksum."""
    raw = txn._txn
    with raw.cursor(txn._tables[table]) as cursor:
        cursor.first()
        key, record = bytes(cursor.key()), bytes(cursor.value())
    raw.put(key, bytes([record[0] ^ 1]) + record[1:], db=txn._tables[table])
    return key


@pytest.mark.parametrize("table", [table for table in TABLES if table != "meta"])
def test_a_damaged_record_is_named(tmp_path: Path, table: str) -> None:
    """Once, of its table; nothing is concluded from it about others."""
    data = copied_sample(tmp_path)
    spoil(data, lambda txn: damage(txn, table))
    (found,) = differences(data)
    assert (found.table, found.stands) == (table, "what does not match its checksum")


def test_other_tables_are_checked_beside_a_damaged_one(tmp_path: Path) -> None:
    """A damaged delivery hides no wrong customer."""
    data = copied_sample(tmp_path)
    spoil(data, lambda txn: damage(txn, "deliveries"))
    spoil(data, lambda txn: txn.delete("customers", next(txn.keys_forward("customers", b"", b""))))
    assert {found.table for found in differences(data)} == {"deliveries", "customers"}


@pytest.mark.parametrize("table", ["events", "totals", "aggregations", "deliveries"])
def test_a_record_that_cannot_be_read_is_a_difference(tmp_path: Path, table: str) -> None:
    """Sealed, and not what the table holds."""
    data = copied_sample(tmp_path)
    spoil(data, lambda txn: txn.put(table, next(txn.keys_forward(table, b"", b"")), b"\xc1"))
    assert table in ", ".join(found.table for found in differences(data))


def test_everything_is_looked_at(tmp_path: Path) -> None:
    """And how far it is, is told: every stage to its end."""
    ends: dict[str, tuple[int, int]] = {}
    checking = Checking(lambda stage, done, total: ends.update({stage: (done, total)}))
    assert list(verify(copied_sample(tmp_path), checking)) == []
    assert set(ends) == {"pages", "events", "totals", "aggregations", "deliveries"}
    assert all(done == total > 0 for done, total in ends.values())
    assert checking.counts["customers"] == len(CUSTOMERS)
    assert checking.counts["deliveries"] > checking.counts["deliveries pending"] > 0


def test_an_empty_store_is_sound(tmp_path: Path) -> None:
    """As a first start leaves it."""
    spoil(tmp_path / "data", lambda _: None)
    assert checked(tmp_path / "data")["events"] == 0


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    """And nothing is made there."""
    with pytest.raises(StoreError, match="there is no store in"):
        differences(tmp_path)
    assert list(tmp_path.iterdir()) == []
