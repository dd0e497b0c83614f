"""Holds the index of idempotency keys against the log: each event's key that is not forgotten yet
stands there, with the event's id and fingerprint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meterd.domain.idempotency import fingerprint
from meterd.embedded import keys, records
from meterd.embedded.differences import NOTHING, Difference, at_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd.domain.event_ids import Stamp
    from meterd.domain.events import UsageEvent
    from meterd.embedded.differences import Checking
    from meterd.embedded.marks import Marks
    from meterd.embedded.transaction import Transaction

# Keys that are looked up in one go.
_KEYS_AT_ONCE: Final = 500


class KeyCheck:
    """Told of blocks with keys, and asked now and then. ``found`` is how many stand as they
    should.
    """

    def __init__(self, txn: Transaction, parts: int, marks: Marks, checking: Checking) -> None:
        self._txn = txn
        self._parts = parts
        self._posted = marks.posted
        self._checking = checking
        # Key, record, whether its event is posted.
        self._used: list[tuple[bytes, bytes, bool]] = []
        self.found = 0

    def use(self, stamp: Stamp, events: Sequence[UsageEvent]) -> None:
        """Takes down what the index must have of a block's keys."""
        for offset, event in enumerate(events):
            if event.idempotency_key:
                part = keys.part_of(event.customer_id, self._parts)
                key = keys.idempotency_key(part, event.customer_id, event.idempotency_key)
                record = records.used_key(stamp.id(offset, part), fingerprint(event))
                self._used.append((key, record, stamp.id(offset) <= self._posted))

    def compare(self) -> Iterator[Difference]:
        """What was taken down with what stands there."""
        used, self._used = self._used, []
        # In the order of keys, or each would be looked for on a page of its own.
        used.sort()
        for start in range(0, len(used), _KEYS_AT_ONCE):
            yield from self._compare(used[start : start + _KEYS_AT_ONCE])

    def _compare(self, used: Sequence[tuple[bytes, bytes, bool]]) -> Iterator[Difference]:
        # Most often all of them are there, which is seen at once.
        stand = self._txn.get_all("idempotency_keys", [key for key, _, _ in used])
        if stand == [record for _, record, _ in used]:
            self.found += len(used)
            return
        for key, should, is_posted in used:
            stands = self._txn.get("idempotency_keys", key)
            if stands == should:
                self.found += 1
            elif stands is None and not is_posted:
                self._checking.counts["keys not yet indexed"] += 1
            else:
                shown = NOTHING if stands is None else stands.hex()
                yield at_key("idempotency_keys", key, "event", shown, should.hex())
