"""What stands in the store's records: the bytes behind the keys, without their checksums."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.aggregations import Aggregation
from meterd.domain.deliveries import Delivery
from meterd.domain.event_ids import stamp_of
from meterd.domain.events import UsageEvent
from meterd.domain.totals import PeriodTotals
from meterd.ledger import StoredEvent

if TYPE_CHECKING:
    from meterd.domain.account import EventBlock

_COUNT_BYTES: Final = 2  # a block is at most one batch
_NUMBER_BYTES: Final = 8


class _Row(msgspec.Struct, array_like=True, gc=False):
    """An event in its block; customer, type and time stand in the block's key."""

    offset: int
    value: Decimal
    metadata: bytes


_ENCODER: Final = msgspec.msgpack.Encoder()
_ROWS: Final = msgspec.msgpack.Decoder(list[_Row])

encode: Final = _ENCODER.encode
decode_totals: Final = msgspec.msgpack.Decoder(PeriodTotals).decode
decode_aggregation: Final = msgspec.msgpack.Decoder(Aggregation).decode
decode_delivery: Final = msgspec.msgpack.Decoder(Delivery).decode


def encode_block(block: EventBlock) -> bytes:
    """The block's events; how many there are comes first, for those who only count."""
    rows: list[Any] = [
        (placed.offset, placed.event.value, placed.event.metadata) for placed in block.events
    ]
    return count(len(rows)) + _ENCODER.encode(rows)


def decode_block(
    payload: bytes, stamp_id: bytes, part: int, customer_id: str, event_type: str
) -> list[StoredEvent]:
    """The events of a block, in the order in which they were sent."""
    stamp = stamp_of(stamp_id)
    return [
        StoredEvent(
            stamp.id(row.offset, part),
            UsageEvent(customer_id, event_type, row.value, row.metadata),
            stamp.received_ms,
        )
        for row in _ROWS.decode(payload[_COUNT_BYTES:])
    ]


def count(events: int) -> bytes:
    return events.to_bytes(_COUNT_BYTES, "big")


def read_count(payload: bytes) -> int:
    return int.from_bytes(payload[:_COUNT_BYTES], "big")


def number(value: int) -> bytes:
    return value.to_bytes(_NUMBER_BYTES, "big")


def read_number(payload: bytes | None) -> int:
    """The number, 0 where none was ever written."""
    return int.from_bytes(payload or b"", "big")
