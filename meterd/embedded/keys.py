"""The layout of keys, whose byte order is the order of reading.

The log stands in the order of receipt, and so does its index by type: what is new comes to one
place. Every key of a customer's data begins with the part: ``crc32(customer) mod parts``, one byte,
fixed when a store is created. Strings end with a zero byte (``event_fields`` and ``config`` keep
control characters out of them), times are big-endian, and what is read newest first is stored as
its complement.

    events              record id(16)                                  -> blocks of events (``log``)
    records_by_type     event-type 0 record id(16)                     -> nothing
    blocks_by_customer  part customer 0 event-type 0 first block(16)   -> the ids of blocks
    blocks_by_hour      hour(4) part customer 0 event-type 0 first block(16)  -> ids of blocks
    totals              part period-type(1) start-hour(4) customer     -> PeriodTotals
    aggregations        part period-type(1) ~start-hour(4) customer    -> Aggregation
    late                since-ms(8) part period-type(1) start-hour(4) customer -> nothing
    superseded          part period-type(1) ~start-hour(4) customer 0 revision(4) -> Aggregation
    voids               event id(16)                                   -> Void
    customer_periods    part customer 0 period-type(1) ~start-hour(4)  -> nothing
    published           part customer 0 period-type(1)                 -> digest of the last one
    reached             part customer 0 period-type(1) start-hour(4) event-type 0 number -> Reached
    customers           part customer                                  -> when it was first seen
    idempotency_keys    part customer 0 key                            -> event id, fingerprint
    deliveries          endpoint 0 sequence(8)                         -> Delivery
    delivery_ids        delivery id(16)                                -> its key in deliveries
    outbox              endpoint 0 due-ms(8) sequence(8)               -> place(9) customer
    outbox_by_customer  endpoint 0 customer 0 place(9)                 -> sequence
                        endpoint 0 1 customer 0 sequence(8)            -> sequence, of thresholds
    in_air              endpoint 0 sequence(8)                         -> nothing
    parked              endpoint 0 sequence(8)                         -> nothing
    batched             endpoint 0 sequence(8)                         -> sequence of its batch
    attempts            endpoint 0 sequence(8) attempt(4)              -> Attempt
    attempts_by_time    begun-ms(8) endpoint 0 sequence(8) attempt(4)  -> nothing
    endpoints           endpoint                                       -> EndpointState
    meta                name                                           -> format, floor, posted, ...
"""

from __future__ import annotations

import hashlib
import re
import zlib
from typing import Final

from meterd.domain.periods import HOUR_MS, RANK, Period, PeriodType, period_at

END: Final = b"\x00"
AFTER_END: Final = b"\x01"  # the first byte string greater than any key continuing behind END
HOURS_MAX: Final = 0xFFFFFFFF  # four bytes of hours reach beyond the year 490,000
EVENTS: Final = b"events"
FLOOR: Final = b"floor"
POSTED: Final = b"posted"
FORGOTTEN: Final = b"forgotten"
PRUNED: Final = b"pruned"
UNSEEN: Final = b"unseen"
# What an outbox place begins with, and all of it.
PERIOD_BYTES: Final = 5
PLACE_BYTES: Final = 9
_TYPES: Final = tuple(PeriodType)
_KEY_BYTES_MAX: Final = 200  # of the 511 that LMDB takes, a customer may have 258
_HASHED: Final = b"\xff"  # begins no UTF-8
_DELIVERY_ID: Final = re.compile("msg_[0-9a-f]{32}")


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


def dated_blocks_prefix(hour_of: Period, part: int, customer_id: str, event_type: str) -> bytes:
    """Of blocks with events of an hour in which they were not received."""
    return hour(hour_of.start_ms) + blocks_prefix(part, customer_id, event_type)


def hour_of_blocks(key: bytes) -> Period:
    """The hour in a key of ``blocks_by_hour``."""
    return period_at(PeriodType.HOURLY, int.from_bytes(key[:4], "big") * HOUR_MS)


def late_key(since_ms: int, part: int, period: Period, customer_id: str) -> bytes:
    return late_start(since_ms) + totals_key(part, period, customer_id)


def late_start(since_ms: int) -> bytes:
    return since_ms.to_bytes(8, "big")


def late_since_ms(late_key: bytes) -> int:
    return int.from_bytes(late_key[:8], "big")


def late_totals_key(late_key: bytes) -> bytes:
    """The key in ``totals`` of what is late."""
    return late_key[8:]


LAST_REVISION: Final = b"\xff" * 4


def superseded_key(aggregation_key: bytes, revision: int) -> bytes:
    """Of a revision that another took the place of."""
    return aggregation_key + END + revision.to_bytes(4, "big")


def superseded_by(superseded_key: bytes) -> bytes:
    """The key of the aggregation that has the newest revision."""
    return superseded_key[:-5]


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


def published_key(part: int, customer_id: str, kind: PeriodType) -> bytes:
    return customer_prefix(part, customer_id) + bytes((RANK[kind],))


def reached_prefix(part: int, customer_id: str, kind: PeriodType) -> bytes:
    return customer_prefix(part, customer_id) + bytes((RANK[kind],))


def reached_period_prefix(part: int, customer_id: str, period: Period) -> bytes:
    return reached_prefix(part, customer_id, period.type) + hour(period.start_ms)


def reached_key(
    part: int, customer_id: str, period: Period, event_type: str, threshold: str
) -> bytes:
    """Of a threshold, as the text of its number."""
    prefix = reached_period_prefix(part, customer_id, period)
    return prefix + event_type.encode() + END + threshold.encode()


def newest_first(start_ms: int) -> bytes:
    return (HOURS_MAX - start_ms // HOUR_MS).to_bytes(4, "big")


def start_of(complement: bytes) -> int:
    """Milliseconds, from what ``newest_first`` made."""
    return (HOURS_MAX - int.from_bytes(complement, "big")) * HOUR_MS


def endpoint_prefix(endpoint_id: str) -> bytes:
    return endpoint_id.encode() + END


def delivery_key(endpoint_id: str, sequence: int) -> bytes:
    return endpoint_prefix(endpoint_id) + sequence.to_bytes(8, "big")


def sequence_in(key: bytes) -> int:
    """Of any key that ends with a sequence."""
    return int.from_bytes(key[-8:], "big")


def delivery_name(delivery_id: str) -> bytes | None:
    """The key of ``delivery_ids``; None for what is no delivery's id."""
    if not _DELIVERY_ID.fullmatch(delivery_id):
        return None
    return bytes.fromhex(delivery_id[4:])


# In front of the time of those that failed before: they stand behind all others.
_REPEAT: Final = 1 << 63


def outbox_key(endpoint_id: str, due_ms: int, sequence: int, *, is_repeat: bool = False) -> bytes:
    """By endpoint, then whether it failed before, then by when it is due."""
    due_ms |= _REPEAT * is_repeat
    return endpoint_prefix(endpoint_id) + due_ms.to_bytes(8, "big") + sequence.to_bytes(8, "big")


def due_ms_in(outbox_key: bytes) -> int:
    return int.from_bytes(outbox_key[-16:-8], "big") & ~_REPEAT


def outbox_customer_prefix(endpoint_id: str, customer_id: str) -> bytes:
    return endpoint_prefix(endpoint_id) + customer_id.encode() + END


# Begins no customer's id: what stands behind it is in a line of its own.
_THRESHOLDS: Final = b"\x01"


def outbox_thresholds_prefix(endpoint_id: str, customer_id: str) -> bytes:
    """Of deliveries of thresholds, which wait for no aggregation, nor keep one waiting."""
    return endpoint_prefix(endpoint_id) + _THRESHOLDS + customer_id.encode() + END


def outbox_customer(name: bytes) -> str:
    """The customer in a key of ``outbox_by_customer``, of either line."""
    return name.removeprefix(_THRESHOLDS).decode()


def outbox_place(period: Period, revision: int) -> bytes:
    """In the order in which periods close, then of revisions."""
    return hour(period.end_ms) + bytes((RANK[period.type],)) + revision.to_bytes(4, "big")


def period_in_place(place: bytes) -> tuple[int, PeriodType]:
    """When the period of an outbox place ends, and its type."""
    return int.from_bytes(place[:4], "big") * HOUR_MS, _TYPES[place[4]]


def place_in_outbox(period: Period, revision: int, customer_id: str) -> bytes:
    """What an outbox record holds: all that is needed to send it with others of its period."""
    return outbox_place(period, revision) + customer_id.encode()


def attempt_key(endpoint_id: str, sequence: int, attempt: int) -> bytes:
    return delivery_key(endpoint_id, sequence) + attempt.to_bytes(4, "big")


def closed_key(kind: PeriodType) -> bytes:
    return b"closed:" + kind.encode()


def hour(instant_ms: int) -> bytes:
    return (instant_ms // HOUR_MS).to_bytes(4, "big")


def hour_in(text: bytes) -> int:
    """Milliseconds, from what ``hour`` made."""
    return int.from_bytes(text, "big") * HOUR_MS
