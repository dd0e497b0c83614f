"""What is damaged is named; what is whole is still held against the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.errors import StoreError
from meterd.domain.periods import PeriodType, period_at
from meterd.embedded import keys, records
from meterd.embedded.differences import Checking
from meterd.embedded.store import PARTS
from meterd.embedded.transaction import TABLES
from meterd.embedded.verification import verify
from tests.embedded.sample_store import CUSTOMERS, checked, copied_sample, differences, spoil
from tests.ledger_bench import START_MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

# The keys of the others' records say all.
WITHOUT_PAYLOAD = {
    "late",
    "records_by_type",
    "customer_periods",
    "in_air",
    "parked",
    "attempts_by_time",
}
WITH_RECORDS = set(TABLES) - WITHOUT_PAYLOAD - {"meta"}
MARKS = {keys.EVENTS, keys.FLOOR, keys.POSTED, *map(keys.closed_key, PeriodType)}


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
    assert (found.table, found.stands) == (table, "does not match its checksum")


def test_a_damaged_delivery_is_somebodys(tmp_path: Path) -> None:
    """Its customer and period stand in the record, and its id says whether they are its own."""
    data = copied_sample(tmp_path)
    whose: list[tuple[str, str]] = []

    def flip(txn: Transaction, at: Callable[[bytes], int]) -> None:
        key, payload = next(txn.forward("deliveries", b"", b""))
        delivery = records.decode_delivery(payload)
        whose.append((delivery.customer_id, f"{delivery.period_type} {delivery.period.key}"))
        record = bytearray(8) + payload
        record[8 + at(payload)] ^= 1
        txn._txn.put(key, bytes(record), db=txn._tables["deliveries"])

    spoil(data, lambda txn: flip(txn, lambda payload: payload.index(b"eventCount")))
    (found,) = differences(data)
    assert (found.customer_id, found.period) == whose[0]
    customer, period = whose[0]
    assert found.line() == (
        f"deliveries: customer {customer}, {period}: delivery 1 to billing does not match its"
        " checksum"
    )
    for at in (b"msg_", customer.encode()):
        data = copied_sample(tmp_path / at.decode())
        spoil(data, lambda txn, at=at: flip(txn, lambda payload: payload.index(at)))  # type: ignore[misc]
        (found,) = differences(data)
        assert (found.customer_id, found.period) == ("", "")


def test_what_is_not_counted_is_told(tmp_path: Path) -> None:
    """By what users know: what is damaged, and all that is held against it."""
    for number, (table, left_out) in enumerate(
        {
            "deliveries": ["aggregations", "deliveries", "attempts"],
            "totals": ["events", "totals", "customers", "aggregations", "deliveries"],
            "attempts": ["attempts"],
            "meta": [],
        }.items()
    ):
        data = copied_sample(tmp_path / str(number))
        spoil(data, lambda txn, table=table: damage(txn, table))  # type: ignore[misc]
        checking = Checking()
        assert len(list(verify(data, checking))) == 1
        assert checking.left_out == left_out, table


def test_other_tables_are_checked_beside_a_damaged_one(tmp_path: Path) -> None:
    """A damaged delivery hides no wrong customer."""
    data = copied_sample(tmp_path)
    spoil(data, lambda txn: damage(txn, "deliveries"))
    spoil(data, lambda txn: txn.delete("customers", next(txn.keys_forward("customers", b"", b""))))
    assert {found.table for found in differences(data)} == {"deliveries", "customers"}


def edge(txn: Transaction, table: str, *, last: bool) -> bytes:
    keys_there = list(txn.keys_forward(table, b"", b""))
    return keys_there[-1 if last else 0]


@pytest.mark.parametrize("payload", [b"\xc1", b"\x90", b""], ids=["garbage", "a list", "nothing"])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("table", sorted(WITH_RECORDS))
def test_a_record_that_cannot_be_read_is_a_difference(
    tmp_path: Path, table: str, last: bool, payload: bytes
) -> None:
    """Sealed, and not what the table holds, wherever it stands in it."""
    data = copied_sample(tmp_path)
    spoil(data, lambda txn: txn.put(table, edge(txn, table, last=last), payload))
    assert table in ", ".join(found.table for found in differences(data))


@pytest.mark.parametrize("payload", [b"\xff" * 12, b"\xff" * 8, b"\1"], ids=bytes.hex)
@pytest.mark.parametrize("mark", sorted(MARKS))
def test_a_mark_that_cannot_be_read_is_a_difference(
    tmp_path: Path, mark: bytes, payload: bytes
) -> None:
    """And hides nothing else."""
    data = copied_sample(tmp_path)
    spoil(data, lambda txn: txn.put("meta", mark, payload))
    spoil(data, lambda txn: txn.delete("customers", edge(txn, "customers", last=True)))
    assert {found.table for found in differences(data)} >= {"meta", "customers"}


def the_last_record_is_garbage(txn: Transaction) -> None:
    txn.put("events", edge(txn, "events", last=True), b"\xc1")


def a_record_stands_behind_all(txn: Transaction) -> None:
    txn.put("events", b"\xf0", b"\x90")


def an_event_has_a_customer_of_600_bytes(txn: Transaction) -> None:
    key = edge(txn, "events", last=False)
    blocks = records.decode_record(txn.get("events", key) or b"")
    first, *rest = blocks[0].events
    blocks[0].events = [msgspec.structs.replace(first, customer_id="c" * 600), *rest]
    txn.put("events", key, records.encode(blocks))


@pytest.mark.parametrize(
    ("work", "table"),
    [
        (the_last_record_is_garbage, "events"),
        (a_record_stands_behind_all, "events"),
        (an_event_has_a_customer_of_600_bytes, "totals"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_what_cannot_be_read_hides_nothing(
    tmp_path: Path, work: Callable[[Transaction], None], table: str
) -> None:
    """Everything else is looked at all the same: customers, totals, deliveries."""
    data = copied_sample(tmp_path)
    spoil(data, work)
    spoil(data, lambda txn: txn.delete("customers", edge(txn, "customers", last=True)))
    spoil(data, lambda txn: txn.delete("deliveries", edge(txn, "deliveries", last=False)))
    day = period_at(PeriodType.DAILY, START_MS)
    spoil(data, lambda txn: txn.delete("totals", keys.totals_key(part(), day, CUSTOMERS[0])))
    found = differences(data)
    named = ", ".join(each.table for each in found)
    assert table in named
    assert {each.table for each in found} >= {"customers", "deliveries"}
    assert (CUSTOMERS[0], f"daily {day.key}") in {(each.customer_id, each.period) for each in found}


def part() -> int:
    return keys.part_of(CUSTOMERS[0], PARTS)


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
