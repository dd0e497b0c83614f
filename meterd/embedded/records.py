"""What stands in the store's records: the bytes behind the keys, without their checksums."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from struct import Struct
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from meterd.domain.aggregations import Aggregation
from meterd.domain.deliveries import Attempt, Delivery
from meterd.domain.endpoint_states import EndpointState
from meterd.domain.event_ids import ID_BYTES, Stamp
from meterd.domain.events import UsageEvent
from meterd.domain.periods import PeriodType
from meterd.domain.thresholds import Reached
from meterd.domain.totals import PeriodTotals
from meterd.domain.voids import Void

NUMBER_BYTES: Final = 8
# Ids that are split in one go: what a record of an index has at most.
_SPLIT_AT_ONCE: Final = 128


class Named(Protocol):
    """What is told of an event without building it."""

    @property
    def customer_id(self) -> str: ...

    @property
    def event_type(self) -> str: ...


class Names(msgspec.Struct, array_like=True, gc=False):
    """An event of which only that is of interest."""

    customer_id: str
    event_type: str


Event = TypeVar("Event", bound=Named)


class LoggedBlock(msgspec.Struct, Generic[Event], array_like=True, gc=False):
    """A block in its record: how much later it is stamped than the record, its events, and at which
    offset in its append it begins. Up to format 8 each block is as an append of its own.
    """

    later_ms: int
    later_counter: int
    events: Sequence[Event]
    begins_at: int = 0

    def stamp(self, record: Stamp) -> Stamp:
        """The block's, from that of its record."""
        return Stamp(
            record.received_ms + self.later_ms, record.counter + self.later_counter, record.nonce
        )


class Pruned(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How far the log was pruned: through that event, so many in all. ``until_ms`` is the end of
    the last hour that one of them was received in, or happened in.

    Customers' indexes name none of them up to ``swept``, when so many were deleted as
    ``swept_events``; those behind may still be named.
    """

    through: bytes = b""
    until_ms: int = 0
    events: int = 0
    swept: bytes = b""
    swept_events: int = 0


class ClosedTotals(msgspec.Struct, array_like=True, gc=False):
    """A record of totals of which only the closing is of interest."""

    closed: bool
    by_type: msgspec.Raw
    through: bytes = b""
    published: bytes = b""
    late_since_ms: int = 0
    chain: bytes = b""


class DeliveryBody(msgspec.Struct, array_like=True, gc=False):
    """A record of a delivery of which only the body is of interest: its fields so far."""

    id: msgspec.Raw
    endpoint_id: msgspec.Raw
    sequence: msgspec.Raw
    customer_id: msgspec.Raw
    period_type: msgspec.Raw
    start_ms: msgspec.Raw
    revision: msgspec.Raw
    body: bytes


_ENCODER: Final = msgspec.msgpack.Encoder()

encode: Final = _ENCODER.encode
decode_record: Final = msgspec.msgpack.Decoder(list[LoggedBlock[UsageEvent]]).decode
decode_names: Final = msgspec.msgpack.Decoder(list[LoggedBlock[Names]]).decode
decode_totals: Final = msgspec.msgpack.Decoder(PeriodTotals).decode
decode_closed: Final = msgspec.msgpack.Decoder(ClosedTotals).decode
decode_aggregation: Final = msgspec.msgpack.Decoder(Aggregation).decode
decode_pruned: Final = msgspec.msgpack.Decoder(Pruned).decode
decode_instants: Final = msgspec.msgpack.Decoder(dict[PeriodType, int]).decode
decode_void: Final = msgspec.msgpack.Decoder(Void).decode
decode_delivery: Final = msgspec.msgpack.Decoder(Delivery).decode
decode_reached: Final = msgspec.msgpack.Decoder(Reached).decode
decode_body: Final = msgspec.msgpack.Decoder(DeliveryBody).decode
decode_attempt: Final = msgspec.msgpack.Decoder(Attempt).decode
decode_endpoint_state: Final = msgspec.msgpack.Decoder(EndpointState).decode


def used_key(event_id: bytes, fingerprint: bytes) -> bytes:
    """What stands behind an idempotency key: its event, and how to know it again."""
    return event_id + fingerprint


def event_in(record: bytes) -> bytes:
    """The id of the event whose key was used."""
    return record[:ID_BYTES]


def fingerprint_in(record: bytes) -> bytes:
    """Of the event whose key was used."""
    return record[ID_BYTES:]


def split_block_ids(payload: bytes) -> list[bytes]:
    """The ids that stand one after another."""
    count, rest = divmod(len(payload), ID_BYTES)
    if rest or count > _SPLIT_AT_ONCE:
        starts = range(0, len(payload), ID_BYTES)
        return [payload[start : start + ID_BYTES] for start in starts]
    return list(_ids(count).unpack(payload))


@cache
def _ids(count: int) -> Struct:
    """Of so many ids; four times as fast as slices."""
    return Struct(f"{ID_BYTES}s" * count)


def number(value: int) -> bytes:
    return value.to_bytes(NUMBER_BYTES, "big")


def read_number(payload: bytes | None) -> int:
    """The number, 0 where none was ever written."""
    return int.from_bytes(payload or b"", "big")
