"""Lets go of what customers' indexes still name of events that were deleted.

An index stands customer by customer, so deleting each event's entry with it would write a page
for each. Here the indexes are gone through in the order of their keys, and what a page has of
deleted events goes in one transaction. A round of that begins when enough was deleted since the
last, and ends with a mark: up to which event nothing is named any more (``records.Pruned``).
Behind a crash, a round begins anew.

As with ``pruning``, all that is read is read before, beside the writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.event_ids import ID_BYTES
from meterd.embedded import journal, records
from meterd.embedded.records import Pruned

if TYPE_CHECKING:
    from meterd.embedded.transaction import Transaction

TABLES: Final = ("blocks_by_customer", "blocks_by_hour")
# In one transaction: records that are neighbours, and pages that may be each one's own.
RECORDS_AT_ONCE: Final = 1_024
NAMES_AT_ONCE: Final = 256
# Some 20 ms of reading, where nothing is to go.
LOOKED_AT_ONCE: Final = 2_000
# A round looks at each customer and type, so it is to be worth it: when as many events were deleted
# as an eighth of the records in the indexes.
_WORTH: Final = 8
_BEHIND_ALL: Final = b"\xff" * ID_BYTES


class Round(msgspec.Struct, frozen=True):
    """What was deleted when it began, and where it goes on: a table's number, and a key."""

    began: Pruned
    table: int = 0
    start: bytes = b""

    @property
    def is_over(self) -> bool:
        """Whether it went through all tables."""
        return self.table == len(TABLES)


class Swept(msgspec.Struct):
    """Keys that go, and what stands there instead, of one table; ``names`` are customers and types
    whose entries these are, ``looked`` how many were looked at. ``next`` is how the round goes on.
    """

    table: str
    next: Round
    dropped: list[bytes] = []
    kept: list[tuple[bytes, bytes]] = []
    names: int = 0
    looked: int = 0

    @property
    def is_enough(self) -> bool:
        """Whether it is as much as a transaction should do."""
        return (
            len(self.dropped) >= RECORDS_AT_ONCE
            or self.names >= NAMES_AT_ONCE
            or self.looked >= LOOKED_AT_ONCE
        )


def next_round(txn: Transaction) -> Round | None:
    """One from the beginning, where it is worth it."""
    pruned = journal.read_pruned(txn)
    deleted = pruned.events - pruned.swept_events
    is_worth = deleted and deleted * _WORTH >= sum(map(txn.count, TABLES))
    return Round(pruned) if is_worth else None


def sweepable(txn: Transaction, going: Round) -> Swept:
    """What is next of a round that is not over."""
    table, through = TABLES[going.table], journal.read_pruned(txn).through
    found = Swept(table, going)
    start = going.start
    while (key := txn.first_key(table, start)) is not None:
        if found.is_enough:
            found.next = msgspec.structs.replace(going, start=key)
            return found
        start = _look(txn, found, key, through)
    found.next = Round(going.began, going.table + 1)
    return found


def _look(txn: Transaction, found: Swept, first: bytes, through: bytes) -> bytes:
    """Takes down what goes of a customer's type from that key on; returns from where on to look."""
    prefix = first[:-ID_BYTES]
    found.looked += 1
    before = len(found.dropped)
    for key, payload in txn.forward(found.table, first, prefix):
        if key[-ID_BYTES:] > through:
            break
        if len(found.dropped) >= RECORDS_AT_ONCE:
            return key
        found.dropped.append(key)
        rest = [one for one in records.split_block_ids(payload) if one > through]
        if rest:
            found.kept.append((prefix + rest[0], b"".join(rest)))
    found.names += len(found.dropped) > before
    return prefix + _BEHIND_ALL


def sweep(txn: Transaction, found: Swept) -> None:
    """They are gone from here on; what was found is still so but for what was added behind it."""
    txn.delete_all(found.table, found.dropped)
    txn.put_all(found.table, found.kept)
    if found.next.is_over:
        began = found.next.began
        pruned = msgspec.structs.replace(
            journal.read_pruned(txn), swept=began.through, swept_events=began.events
        )
        journal.write_pruned(txn, pruned)
