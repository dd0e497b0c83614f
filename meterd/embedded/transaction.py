"""One transaction of the store: tables, keys, and records that carry a checksum of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import xxhash

from meterd.domain.errors import CorruptRecordError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import lmdb

TABLES: Final = (
    "meta",
    "customers",
    "idempotency_keys",
    "events",
    "records_by_type",
    "blocks_by_customer",
    "blocks_by_hour",
    "totals",
    "aggregations",
    "late",
    "superseded",
    "voids",
    "customer_periods",
    "published",
    "reached",
    "deliveries",
    "delivery_ids",
    "outbox",
    "outbox_by_customer",
    "in_air",
    "parked",
    "batched",
    "attempts",
    "attempts_by_time",
    "endpoints",
)
_HASH_BYTES: Final = 8


class Transaction:
    """One LMDB transaction: plain keys and checked records, by table."""

    def __init__(self, txn: lmdb.Transaction[bytes], tables: dict[str, Any]) -> None:
        self._txn = txn
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        """The record's payload, or None. Raises CorruptRecordError where it is not what was put."""
        record = self._txn.get(key, db=self._tables[table])
        return None if record is None else unseal(table, key, record)

    def put(self, table: str, key: bytes, payload: bytes) -> None:
        self._txn.put(key, seal(key, payload), db=self._tables[table])

    def put_new(self, table: str, key: bytes, payload: bytes) -> bool:
        """Puts the record unless there is one; whether it did."""
        return self._txn.put(key, seal(key, payload), db=self._tables[table], overwrite=False)

    def delete(self, table: str, key: bytes) -> bool:
        return self._txn.delete(key, db=self._tables[table])

    def get_all(self, table: str, keys: Sequence[bytes]) -> list[bytes]:
        """The payloads of those of the records that are there, in the order of the keys."""
        with self._txn.cursor(self._tables[table]) as cursor:
            found = cursor.getmulti(keys)
        return [unseal(table, key, record) for key, record in found]

    def put_all(self, table: str, found: Iterable[tuple[bytes, bytes]]) -> None:
        """Keys with their payloads."""
        with self._txn.cursor(self._tables[table]) as cursor:
            cursor.putmulti([(key, seal(key, payload)) for key, payload in found])

    def delete_all(self, table: str, keys: Iterable[bytes]) -> None:
        """Those of the records that are there."""
        with self._txn.cursor(self._tables[table]) as cursor:
            for key in keys:
                # Of neighbours the one behind that was deleted is there already.
                if cursor.key() == key or cursor.set_key(key):
                    cursor.delete()

    def pop_all(self, table: str, places: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """Deletes the records of these prefixes and what follows those, if they are there; gives
        the payload of the first that is left of each prefix that has any.
        """
        firsts: list[bytes] = []
        with self._txn.cursor(self._tables[table]) as cursor:
            for prefix, rest in places:
                key = prefix + rest
                if cursor.set_range(prefix) and cursor.key() == key:
                    cursor.delete()  # from there it goes to the next
                else:
                    if cursor.set_key(key):
                        cursor.delete()
                    cursor.set_range(prefix)
                first = cursor.key()
                if first.startswith(prefix):
                    firsts.append(unseal(table, first, cursor.value()))
        return firsts

    def count(self, table: str) -> int:
        return int(self._txn.stat(self._tables[table])["entries"])

    def pages(self, table: str) -> int:
        """How many pages of the file the table takes."""
        stat = self._txn.stat(self._tables[table])
        return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])

    def first_key(self, table: str, at_least: bytes) -> bytes | None:
        """The first key that is not less."""
        with self._txn.cursor(self._tables[table]) as cursor:
            return cursor.key() if cursor.set_range(at_least) else None

    def last_key(self, table: str, at_most: bytes) -> bytes | None:
        """The last key that is not greater."""
        with self._txn.cursor(self._tables[table]) as cursor:
            if cursor.set_range(at_most):
                found = cursor.key() == at_most or cursor.prev()
            else:
                found = cursor.last()
            return cursor.key() if found else None

    def forward(self, table: str, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys with the prefix from ``start`` on, with their payloads."""
        with self._txn.cursor(self._tables[table]) as cursor:
            found = cursor.set_range(start)
            while found and (key := cursor.key()).startswith(prefix):
                yield key, unseal(table, key, cursor.value())
                found = cursor.next()

    def keys_forward(self, table: str, start: bytes, prefix: bytes) -> Iterator[bytes]:
        """Keys with the prefix from ``start`` on."""
        with self._txn.cursor(self._tables[table]) as cursor:
            if not cursor.set_range(start):
                return
            for key in cursor.iternext(values=False):
                if not key.startswith(prefix):
                    return
                yield key

    def keys_backward(self, table: str, end: bytes, prefix: bytes) -> Iterator[bytes]:
        """Keys with the prefix that are less than ``end``, greatest first."""
        with self._txn.cursor(self._tables[table]) as cursor:
            found = cursor.prev() if cursor.set_range(end) else cursor.last()
            while found and (key := cursor.key()).startswith(prefix):
                yield key
                found = cursor.prev()

    def backward(self, table: str, end: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys with the prefix that are less than ``end``, greatest first, with their payloads."""
        with self._txn.cursor(self._tables[table]) as cursor:
            found = cursor.prev() if cursor.set_range(end) else cursor.last()
            while found and (key := cursor.key()).startswith(prefix):
                yield key, unseal(table, key, cursor.value())
                found = cursor.prev()


def seal(key: bytes, payload: bytes) -> bytes:
    return xxhash.xxh3_64_digest(key + payload) + payload


def is_sealed(key: bytes, record: bytes) -> bool:
    """Whether the record is one that was put under this key."""
    return xxhash.xxh3_64_digest(key + record[_HASH_BYTES:]) == record[:_HASH_BYTES]


def unchecked(record: bytes) -> bytes:
    """The payload, whether or not it is what was put."""
    return record[_HASH_BYTES:]


def unseal(table: str, key: bytes, record: bytes) -> bytes:
    payload = record[_HASH_BYTES:]
    if xxhash.xxh3_64_digest(key + payload) != record[:_HASH_BYTES]:
        raise CorruptRecordError(
            f"a record of {table} does not match its checksum (key {key.hex()}): "
            "restore the data folder from a backup"
        )
    return payload
