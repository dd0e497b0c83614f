"""Holds what is void against the log: each is an event that was stored.

Asked in the order of the log for what is void in it next, so nothing is held.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING

import msgspec

from meterd.domain.event_ids import stamp_of
from meterd.domain.voids import Void
from meterd.embedded import keys, records, voids
from meterd.embedded.differences import Difference, at_key

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from meterd.domain.event_ids import Stamp
    from meterd.domain.events import UsageEvent
    from meterd.embedded.transaction import Transaction


class VoidCheck:
    """See above; of the events from ``start`` on and before ``end``."""

    def __init__(
        self, txn: Transaction, parts: int, start: bytes = b"", end: bytes | None = None
    ) -> None:
        self._txn = txn
        self._parts = parts
        found = txn.forward("voids", start, b"")
        self._rest = takewhile(lambda one: end is None or one[0] < end, found)
        self._next = next(self._rest, None)

    def has_any(self, through: bytes) -> bool:
        """Whether one is void, or none and said to be, up to the event of that id."""
        # But for their last byte, which is of the customer's part.
        return self._next is not None and self._next[0][:-1] <= through[:-1]

    def of_block(
        self, stamp: Stamp, events: Sequence[UsageEvent]
    ) -> Generator[Difference, None, dict[int, Void]]:
        """Asked for each block, in order; returns those of it that are void, by their offsets."""
        void: dict[int, Void] = {}
        last = stamp.id(len(events) - 1, 0xFF)
        while self._next is not None and self._next[0] <= last:
            event_id, payload = self._next
            offset = stamp_of(event_id).counter - stamp.counter
            is_there = 0 <= offset < len(events) and event_id == stamp.id(
                offset, keys.part_of(events[offset].customer_id, self._parts)
            )
            if is_there:
                void[offset] = yield from _decoded(event_id, payload)
            else:
                yield _extra(event_id)
            self._next = next(self._rest, None)
        return void

    def among(self, stamp: Stamp, events: Sequence[tuple[int, UsageEvent]]) -> Mapping[int, Void]:
        """Those of these events of a block that are void, whatever was asked for before."""
        void: dict[int, Void] = {}
        for offset, event in events:
            event_id = stamp.id(offset, keys.part_of(event.customer_id, self._parts))
            with suppress(msgspec.MsgspecError):  # which is said of its block
                if (found := voids.read_void(self._txn, event_id)) is not None:
                    void[offset] = found
        return void

    def finish(self) -> Iterator[Difference]:
        """What stands behind all events."""
        while self._next is not None:
            yield _extra(self._next[0])
            self._next = next(self._rest, None)


def _decoded(event_id: bytes, payload: bytes) -> Generator[Difference, None, Void]:
    try:
        return records.decode_void(payload)
    except msgspec.MsgspecError:
        yield at_key("voids", event_id, "record", payload.hex(), "a reason and an instant")
        return Void("", 0)


def _extra(event_id: bytes) -> Difference:
    return at_key("voids", event_id, "record", "there", "nothing: there is no such event")
