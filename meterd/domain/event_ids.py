"""Event ids: UUID version 7, ordered by the time of receipt and then as events were stored.

RFC 9562, 5.7, with the counter of 6.2 (method 1): 48 bits of Unix milliseconds, 30 bits of a
counter that goes up by one for every event of a process, 36 bits of the process's nonce, and 8 bits
naming the part of the store that the customer lies in.

The events of one append share one ``Stamp`` and differ by their offset in it. Stamps only go up
(``next_stamp``): the order of ids is the order in which events were received, whatever the clock
does.
"""

from __future__ import annotations

import uuid
from typing import Final

import msgspec

ID_BYTES: Final = 16
COUNTER_LIMIT: Final = 1 << 30
NONCE_LIMIT: Final = 1 << 36
PARTS_MAX: Final = 256
_LOW_COUNTER_BITS: Final = 18
_LOW_COUNTER: Final = (1 << _LOW_COUNTER_BITS) - 1


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """When an append was received, and the counter of its first event."""

    received_ms: int
    counter: int
    nonce: int

    def later(self, events: int) -> Stamp:
        """The stamp of what stands so many events later in the same append."""
        return Stamp(self.received_ms, self.counter + events, self.nonce)

    def id(self, offset: int = 0, part: int = 0) -> bytes:
        """The 16 bytes of the id of the event at that offset."""
        counter = self.counter + offset
        number = (
            self.received_ms << 80
            | 0x7 << 76
            | (counter >> _LOW_COUNTER_BITS) << 64
            | 0b10 << 62
            | (counter & _LOW_COUNTER) << 44
            | self.nonce << 8
            | part
        )
        return number.to_bytes(ID_BYTES, "big")


def next_stamp(last: Stamp, events: int, now_ms: int, nonce: int) -> Stamp:
    """The stamp of an append of so many events, greater than all ids up to the ``last`` one.

    Its time is ``now_ms``, but never earlier than the last one's: while a clock that was set back
    catches up, time stands still. The counter goes on where it was; when it is used up it starts
    again in the next millisecond.
    """
    received_ms = max(now_ms, last.received_ms)
    counter = last.counter + 1
    if counter + events > COUNTER_LIMIT:
        return Stamp(max(received_ms, last.received_ms + 1), 0, nonce)
    return Stamp(received_ms, counter, nonce)


def stamp_of(event_id: bytes) -> Stamp:
    """The stamp whose first event would have that id: the time, counter and nonce in it."""
    number = int.from_bytes(event_id, "big")
    counter = (number >> 64 & 0xFFF) << _LOW_COUNTER_BITS | number >> 44 & _LOW_COUNTER
    return Stamp(number >> 80, counter, number >> 8 & NONCE_LIMIT - 1)


def next_id(event_id: bytes) -> bytes:
    """Less than no id that is greater, but the greatest, which no event has, is itself."""
    number = min(int.from_bytes(event_id, "big") + 1, (1 << 8 * ID_BYTES) - 1)
    return number.to_bytes(ID_BYTES, "big")


def position(time_ms: int, event_id: bytes) -> bytes:
    """Where an event stands among its customer's: by its own time, then in the order of storing."""
    return time_ms.to_bytes(8, "big") + event_id


def to_text(event_id: bytes) -> str:
    """``0197f3c0-...``: the id as the API writes it."""
    return str(uuid.UUID(bytes=event_id))


def from_text(text: str) -> bytes | None:
    """The id that the API writes so; None for what is none."""
    try:
        found = uuid.UUID(text).bytes
    except ValueError:
        return None
    return found if to_text(found) == text.lower() else None
