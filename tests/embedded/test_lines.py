"""Who of each customer's deliveries may be sent, alone and in a batch, and what waits for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.deliveries import BATCH, Delivery, DeliveryStatus, Member
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.embedded import keys, lines, records
from meterd.embedded.store import Store
from tests.ledger_bench import START_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction


class Lines:
    """Deliveries 1, 2, ... to one endpoint, and what may be sent of them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def join(self, sequence: int, customer_id: str, hour: int) -> Delivery:
        """The customer's delivery of that hour, pending from now on."""
        period = period_at(PeriodType.HOURLY, START_MS + hour * HOUR_MS)
        one = Delivery(
            f"d{sequence}", "e", sequence, customer_id, period.type, period.start_ms, 1, b"", 0, 0
        )
        self._write(one, lines.join)
        return one

    def join_as_batch(self, number: int, *members: Delivery) -> Delivery:
        """Of deliveries that are not pending."""
        places = [
            Member(one.sequence, keys.outbox_place(one.period, 1), one.customer_id)
            for one in members
        ]
        batch = msgspec.structs.replace(
            members[0], id=f"b{number}", sequence=BATCH + number, members=tuple(places)
        )
        for one in members:
            self._put("batched", one, batch.sequence.to_bytes(8, "big"))
        self._write(batch, lines.join)
        return batch

    def begin(self, one: Delivery) -> None:
        self._put("in_air", one, b"")
        assert self._store.write(lambda txn: txn.delete("outbox", lines.outbox_key(one)))

    def end(self, one: Delivery, status: DeliveryStatus = DeliveryStatus.DELIVERED) -> None:
        key = keys.delivery_key("e", one.sequence)
        self._store.write(lambda txn: txn.delete("in_air", key))
        self._write(msgspec.structs.replace(one, status=status), lines.go_on)

    def may_be_sent(self) -> list[int]:
        """The sequences; those of batches below 0."""
        with self._store.read() as txn:
            found = [keys.sequence_in(key) for key in txn.keys_forward("outbox", b"", b"")]
        return [BATCH - number if number >= BATCH else number for number in found]

    def waits_for(self, one: Delivery) -> int | None:
        with self._store.read() as txn:
            return lines.waits_for(txn, one)

    def _write(self, one: Delivery, work: Callable[[Transaction, Delivery], None]) -> None:
        self._put("deliveries", one, records.encode(one))
        self._store.write(lambda txn: work(txn, one))

    def _put(self, table: str, one: Delivery, payload: bytes) -> None:
        key = keys.delivery_key("e", one.sequence)
        self._store.write(lambda txn: txn.put(table, key, payload))


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Lines]:
    store = Store(tmp_path / "data")
    yield Lines(store)
    store.close()


def test_the_first_of_each_customer_may_be_sent(line: Lines) -> None:
    """In the order of hours, whatever came when; the next when it is settled."""
    second, other = line.join(1, "a", 2), line.join(2, "b", 2)
    first, last = line.join(3, "a", 1), line.join(4, "a", 3)
    assert line.may_be_sent() == [2, 3]
    assert [line.waits_for(one) for one in (first, second, other, last)] == [None, 3, None, 3]
    line.begin(first)
    line.end(first)
    assert line.may_be_sent() == [1, 2]


def test_none_goes_beside_one_in_the_air(line: Lines) -> None:
    """An earlier one is next, whether that was delivered or is tried again."""
    for customer, status in (("a", DeliveryStatus.DELIVERED), ("b", DeliveryStatus.PENDING)):
        place = ord(customer)
        later = line.join(place, customer, 5)
        line.begin(later)
        earlier, earliest = line.join(place + 100, customer, 3), line.join(place + 200, customer, 2)
        assert line.may_be_sent() == []
        assert line.waits_for(earliest) == later.sequence
        line.end(later, status)
        assert line.may_be_sent() == [earliest.sequence]
        for one in (earliest, earlier):
            line.begin(one)
            line.end(one)
        assert line.may_be_sent() == [later.sequence] * (status is DeliveryStatus.PENDING)
        if status is DeliveryStatus.PENDING:
            line.begin(later)


def test_a_batch_goes_when_it_is_first_of_each_of_its_customers(line: Lines) -> None:
    """And what is later gives way to it."""
    a, b = line.join(1, "a", 2), line.join(2, "b", 2)
    for one in (a, b):
        line.begin(one)
        line.end(one)
    earlier, later = line.join(3, "a", 1), line.join(4, "b", 3)
    batch = line.join_as_batch(1, a, b)
    assert line.may_be_sent() == [earlier.sequence]
    assert (line.waits_for(batch), line.waits_for(later)) == (3, 2)
    line.begin(earlier)
    line.end(earlier)
    assert line.may_be_sent() == [-1]
    line.begin(batch)
    again = line.join(5, "b", 1)
    assert line.may_be_sent() == []
    assert line.waits_for(again) == 2
    line.end(batch, DeliveryStatus.PENDING)
    assert line.may_be_sent() == [again.sequence]
    line.begin(again)
    line.end(again)
    line.begin(batch)
    line.end(batch)
    assert line.may_be_sent() == [later.sequence]


def test_a_batch_waits_for_what_is_in_the_air_of_any_of_its_customers(line: Lines) -> None:
    """Also where that is a batch of others as well."""
    a, b = line.join(1, "a", 2), line.join(2, "b", 2)
    for one in (a, b):
        line.begin(one)
        line.end(one)
    c, d = line.join(3, "b", 3), line.join(4, "c", 3)
    for one in (c, d):
        line.begin(one)
        line.end(one)
    later = line.join_as_batch(1, c, d)
    line.begin(later)
    earlier = line.join_as_batch(2, a, b)
    assert line.may_be_sent() == []
    assert line.waits_for(earlier) == 3
    line.end(later)
    assert line.may_be_sent() == [-2]


def test_only_what_was_never_begun_may_be_put_into_a_batch() -> None:
    """Its record says where it belongs, that of others nothing."""
    one = Delivery("d", "e", 7, "a", PeriodType.HOURLY, START_MS, 1, b"", 0, 5)
    key, where = lines.record_of(one)
    assert (key, where[keys.PLACE_BYTES :]) == (keys.outbox_key("e", 5, 7), b"a")
    begun = msgspec.structs.replace(one, attempts=1)
    assert lines.record_of(begun) == (key, b"")
