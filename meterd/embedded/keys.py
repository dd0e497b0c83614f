"""The layout of keys, whose byte order is the order of reading.

The log stands in the order of receipt, and so does its index by type: what is new comes to one
place. Every key of a customer's data begins with the part: ``crc32(customer) mod parts``, one byte,
fixed when a store is created. Strings end with a zero byte (``event_fields`` and ``config`` keep
control characters out of them), times are big-endian, and what is read newest first is stored as
its complement.

    events              record id(16)                                  -> blocks of events (``log``)
    records_by_type     event-type 0 record id(16)                     -> nothing
    blocks_by_customer  part customer 0 event-type 0 first block(16)   -> the ids of blocks
    totals              part period-type(1) start-hour(4) customer     -> PeriodTotals
    aggregations        part period-type(1) ~start-hour(4) customer    -> Aggregation
    customer_periods    part customer 0 period-type(1) ~start-hour(4)  -> nothing
    customers           part customer                                  -> when it was first seen
    idempotency_keys    part customer 0 key                            -> event id, fingerprint
    deliveries          delivery id                                    -> Delivery
    outbox              endpoint 0 due-ms(8) delivery id               -> nothing
    meta                name                                           -> format, floor, posted, ...
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Final

from meterd.domain.periods import HOUR_MS, RANK, Period, PeriodType, period_at

END: Final = b"\x00"
AFTER_END: Final = b"\x01"  # the first byte string greater than any key continuing behind END
HOURS_MAX: Final = 0xFFFFFFFF  # four bytes of hours reach beyond the year 490,000
EVENTS: Final = b"events"
FLOOR: Final = b"floor"
POSTED: Final = b"posted"
_TYPES: Final = tuple(PeriodType)
_KEY_BYTES_MAX: Final = 200  # of the 511 that LMDB takes, a customer may have 258
_HASHED: Final = b"\xff"  # begins no UTF-8


def part_of(customer_id: str, parts: int) -> int:
    """Which part a customer lies in: the same on every machine and in every version."""
    return zlib.crc32(customer_id.encode()) % parts


def may_be_stored(name: str, bytes_max: int) -> bool:
    """Whether a name that a reader asks for can stand in a key at all."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return False
    return 0 < len(encoded) <= bytes_max and END not in encoded


def customer_prefix(part: int, customer_id: str) -> bytes:
    return bytes((part,)) + customer_id.encode() + END


def idempotency_key(part: int, customer_id: str, key: str) -> bytes:
    """Keys that count up are neighbours; of one that is too long for LMDB stands a hash."""
    text = key.encode()
    if len(text) > _KEY_BYTES_MAX:
        text = _HASHED + hashlib.blake2b(text, digest_size=16).digest()
    return customer_prefix(part, customer_id) + text


def blocks_prefix(part: int, customer_id: str, event_type: str) -> bytes:
    return customer_prefix(part, customer_id) + event_type.encode() + END


def record_by_type(event_type: str, record_id: bytes = b"") -> bytes:
    return event_type.encode() + END + record_id


def customer_key(part: int, customer_id: str) -> bytes:
    return bytes((part,)) + customer_id.encode()


def period_type_prefix(part: int, kind: PeriodType) -> bytes:
    return bytes((part, RANK[kind]))


def totals_prefix(part: int, period: Period) -> bytes:
    return period_type_prefix(part, period.type) + hour(period.start_ms)


def totals_key(part: int, period: Period, customer_id: str) -> bytes:
    return totals_prefix(part, period) + customer_id.encode()


def totals_period(key: bytes) -> Period:
    """The period in a key of ``totals``."""
    return period_at(_TYPES[key[1]], int.from_bytes(key[2:6], "big") * HOUR_MS)


def totals_customer(key: bytes) -> str:
    return key[6:].decode()


def aggregation_key(part: int, kind: PeriodType, start_ms: int, customer_id: str) -> bytes:
    return period_type_prefix(part, kind) + newest_first(start_ms) + customer_id.encode()


def aggregation_key_of(totals_key: bytes) -> bytes:
    """Of the aggregation of that customer and period."""
    start_ms = int.from_bytes(totals_key[2:6], "big") * HOUR_MS
    return totals_key[:2] + newest_first(start_ms) + totals_key[6:]


def customer_periods_prefix(part: int, customer_id: str, kind: PeriodType) -> bytes:
    return customer_prefix(part, customer_id) + bytes((RANK[kind],))


def newest_first(start_ms: int) -> bytes:
    return (HOURS_MAX - start_ms // HOUR_MS).to_bytes(4, "big")


def start_of(complement: bytes) -> int:
    """Milliseconds, from what ``newest_first`` made."""
    return (HOURS_MAX - int.from_bytes(complement, "big")) * HOUR_MS


def outbox_prefix(endpoint_id: str) -> bytes:
    return endpoint_id.encode() + END


def outbox_key(endpoint_id: str, due_ms: int, delivery_id: str) -> bytes:
    return outbox_prefix(endpoint_id) + due_ms.to_bytes(8, "big") + delivery_id.encode()


def outbox_due(endpoint_id: str, key: bytes) -> tuple[int, str]:
    """When the delivery of that outbox key is due, and its id."""
    rest = key[len(outbox_prefix(endpoint_id)) :]
    return int.from_bytes(rest[:8], "big"), rest[8:].decode()


def closed_key(kind: PeriodType) -> bytes:
    return b"closed:" + kind.encode()


def hour(instant_ms: int) -> bytes:
    return (instant_ms // HOUR_MS).to_bytes(4, "big")
