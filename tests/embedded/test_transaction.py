"""Ranges, and records that are what was put."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from meterd.domain.errors import CorruptRecordError
from meterd.embedded.store import Store
from meterd.embedded.transaction import seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def put(store: Store, key: bytes, payload: bytes, table: str = "meta") -> None:
    store.write(lambda txn: txn.put(table, key, payload))


def get(store: Store, key: bytes, table: str = "meta") -> bytes | None:
    with store.read() as txn:
        return txn.get(table, key)


def test_ranges_go_both_ways(store: Store) -> None:
    """Forward from a key that counts in, backward from one that does not, within a prefix."""
    for key in (b"a9", b"b1", b"b2", b"b3", b"c0"):
        put(store, key, key.upper(), "totals")
    with store.read() as txn:
        assert [*txn.forward("totals", b"b2", b"b")] == [(b"b2", b"B2"), (b"b3", b"B3")]
        assert [*txn.keys_forward("totals", b"b", b"b")] == [b"b1", b"b2", b"b3"]
        assert [*txn.backward("totals", b"b3", b"b")] == [(b"b2", b"B2"), (b"b1", b"B1")]
        assert [*txn.backward("totals", b"d", b"c")] == [(b"c0", b"C0")]
        assert txn.first_key("totals", b"b4") == b"c0"
        assert txn.first_key("totals", b"c1") is None
        assert txn.count("totals") == 5


def test_put_new_and_delete_say_what_they_did(store: Store) -> None:
    """The first value stays; a second deletion finds nothing."""

    def work(txn: Transaction) -> list[bool]:
        return [
            txn.put_new("meta", b"a", b"1"),
            txn.put_new("meta", b"a", b"2"),
            txn.delete("meta", b"b"),
        ]

    assert store.write(work) == [True, False, False]
    assert get(store, b"a") == b"1"
    assert store.write(lambda txn: txn.delete("meta", b"a"))
    assert get(store, b"a") is None


def overwrite(store: Store, key: bytes, record: bytes) -> None:
    store.write(lambda txn: txn._txn.put(key, record, db=txn._tables["totals"]))


def test_many_at_once(store: Store) -> None:
    """What is not there is passed over."""
    found = [(b"b", b"B"), (b"a", b"A"), (b"c", b"C")]
    store.write(lambda txn: txn.put_all("meta", found))
    store.write(lambda txn: txn.delete_all("meta", [b"c", b"x"]))
    with store.read() as txn:
        assert txn.get_all("meta", [b"b", b"a", b"c"]) == [b"B", b"A"]
    store.write(lambda txn: txn.put_all("totals", [(key, b"") for key in (b"a", b"b", b"c", b"d")]))
    store.write(lambda txn: txn.delete_all("totals", [b"d", b"a", b"b", b"bb", b"e"]))
    with store.read() as txn:
        assert list(txn.keys_forward("totals", b"", b"")) == [b"c"]


def test_what_stands_behind_popped_records(store: Store) -> None:
    """Or in front of them: the first that is left with the prefix."""
    there = [(b"b%d" % at, b"%d" % at) for at in (1, 2, 3)]
    store.write(lambda txn: txn.put_all("totals", [(b"a1", b"A"), *there, (b"d1", b"D")]))

    def pop(*places: tuple[bytes, bytes]) -> list[bytes]:
        return store.write(lambda txn: txn.pop_all("totals", places))

    assert [pop((b"b", b"%d" % at)) for at in (2, 2, 1, 3, 4)] == [[b"1"], [b"1"], [b"3"], [], []]
    store.write(lambda txn: txn.put_all("totals", there))
    assert pop((b"b", b"3"), (b"a", b"1"), (b"b", b"1"), (b"c", b"1"), (b"e", b"1")) == [b"1", b"2"]
    with store.read() as txn:
        assert list(txn.keys_forward("totals", b"", b"")) == [b"b2", b"d1"]


def test_a_flipped_bit_is_noticed(store: Store) -> None:
    """Whichever it is, and whichever way the record is read."""
    whole = seal(b"key", b"payload")
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        overwrite(store, b"key", bytes(damaged))
        with store.read() as txn:
            reads: list[Callable[[], Any]] = [
                partial(txn.get, "totals", b"key"),
                partial(list, txn.forward("totals", b"", b"")),
                partial(list, txn.backward("totals", b"z", b"")),
            ]
            for read in reads:
                with pytest.raises(CorruptRecordError, match="totals"):
                    read()


@pytest.mark.parametrize("record", [b"", b"short", seal(b"other", b"payload")])
def test_a_record_that_is_not_this_keys_is_noticed(store: Store, record: bytes) -> None:
    """Cut short, or put under another key."""
    overwrite(store, b"key", record)
    with pytest.raises(CorruptRecordError, match=b"key".hex()):
        get(store, b"key", "totals")


def test_the_last_key_that_is_not_greater(store: Store) -> None:
    """Itself, the one before, the last of all, or none."""
    for key in (b"b", b"d"):
        put(store, key, b"1", table="customers")
    with store.read() as txn:
        asked = (b"a", b"b", b"c", b"d", b"e")
        assert [txn.last_key("customers", key) for key in asked] == [None, b"b", b"b", b"d", b"d"]
