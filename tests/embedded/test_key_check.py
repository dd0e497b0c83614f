"""Of each key that must be in the index it is said where it is not there, or is another event's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.event_ids import Stamp
from meterd.domain.idempotency import fingerprint
from meterd.embedded import journal, keys, records
from meterd.embedded.differences import NOTHING, Checking
from meterd.embedded.key_check import KeyCheck
from meterd.embedded.marks import read_marks
from meterd.embedded.store import PARTS, Store
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.domain.events import UsageEvent
    from meterd.embedded.transaction import Transaction

STAMP = Stamp(START_MS, 0, 7)
PART = keys.part_of("acme", PARTS)


def keyed(number: int) -> UsageEvent:
    return msgspec.structs.replace(event(value=number), idempotency_key=f"key-{number}")


EVENTS = [keyed(0), event(), keyed(2), keyed(3)]


def put(txn: Transaction, offset: int, its: UsageEvent) -> None:
    key = keys.idempotency_key(PART, "acme", f"key-{offset}")
    txn.put("idempotency_keys", key, records.used_key(STAMP.id(offset, PART), fingerprint(its)))


def test_what_is_missing_and_what_is_another_s(tmp_path: Path) -> None:
    """What is not posted yet may be missing, and is only counted; asked again there is no more."""
    store = Store(tmp_path / "data")

    def write(txn: Transaction) -> None:
        journal.write_posted(txn, STAMP.id(2))
        put(txn, 0, EVENTS[0])

    store.write(write)
    checking = Checking()
    with store.read() as txn:
        check = KeyCheck(txn, PARTS, read_marks(txn), checking)
        check.use(STAMP, EVENTS)
        (missing,) = check.compare()
        should = records.used_key(STAMP.id(2, PART), fingerprint(EVENTS[2])).hex()
        assert (missing.what, missing.stands, missing.should) == ("event key-2", NOTHING, should)
        assert (check.found, checking.counts["keys not yet indexed"]) == (1, 1)
        assert list(check.compare()) == []
    store.write(lambda txn: put(txn, 2, EVENTS[0]))
    store.write(lambda txn: put(txn, 3, EVENTS[3]))
    with store.read() as txn:
        check = KeyCheck(txn, PARTS, read_marks(txn), checking)
        check.use(STAMP, EVENTS)
        assert [one.what for one in check.compare()] == ["event key-2"]
        assert check.found == 2
    store.close()
