"""Decodes and bounds usage events from bytes; says every refusal of the contract (sections 2 and
3).

Two ways lead to the same result. The fast one decodes strictly with msgspec and looks at what its
types cannot say. Whatever it does not take, the slow one reads without types, as JavaScript would,
and names every fault; ``tests/domain/test_events.py`` holds the two against each other.

Checks are made in the contract's order and the first that fails answers. Nothing here knows HTTP:
``edge/problems.py`` gives each ``Reason`` its status.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal, InvalidOperation
from enum import Enum, auto
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.event_fields import (
    ABSENT,
    METADATA_MAX_BYTES,
    CustomerId,
    IdempotencyKey,
    MalformedJsonError,
    Metadata,
    Timestamp,
    Value,
    bounded_value,
    customer_id_fault,
    idempotency_key_fault,
    is_missing,
    metadata_text,
    read_json,
    timestamp,
)
from meterd.domain.instants import parse_instant

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

BATCH_MAX: Final = 1000  # events in a batch, the old system's limit


class UsageEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event that may be stored. ``metadata`` is the JSON text of an object.

    An event that repeats the ``idempotency_key`` of another of its customer is that event, sent
    again (``idempotency``); empty, it repeats none.
    """

    customer_id: str
    event_type: str
    value: Decimal
    metadata: bytes
    idempotency_key: str = ""
    timestamp_ms: int | None = None


class Reason(Enum):
    """Why a request was refused, in the order of precedence."""

    MALFORMED_JSON = auto()
    BODY_UNFIT = auto()
    TOO_MANY_EVENTS = auto()
    NO_EVENT_TYPES = auto()
    UNKNOWN_EVENT_TYPE = auto()
    INVALID = auto()


class Refusal(msgspec.Struct, frozen=True):
    """Nothing is stored: why, the answer's JSON, and what ``breaks`` a body that is no JSON."""

    reason: Reason
    answer: dict[str, Any]
    breaks: str = ""


class Batch(msgspec.Struct, frozen=True):
    """The valid items in the order of the array, and the faults of the others by index."""

    events: list[UsageEvent]
    failures: list[dict[str, Any]] = []


_MALFORMED: Final = {"error": "Malformed JSON"}
NO_EVENT_TYPES: Final = Refusal(
    Reason.NO_EVENT_TYPES, {"error": "Service misconfigured: no event types available"}
)


class NewEvent(msgspec.Struct, gc=False):
    """An event as it is sent. Fields of other names are passed over."""

    customerId: CustomerId  # noqa: N815 - the wire's name
    value: Value
    metadata: Metadata = msgspec.Raw(b"{}")
    idempotencyKey: IdempotencyKey | msgspec.UnsetType = msgspec.UNSET  # noqa: N815
    timestamp: Timestamp | msgspec.UnsetType = msgspec.UNSET


class NewItem(msgspec.Struct, gc=False):
    """An event of a batch. Fields of other names are passed over."""

    eventType: str  # noqa: N815 - the wire's name
    customerId: CustomerId  # noqa: N815 - the wire's name
    value: Value
    metadata: Metadata = msgspec.Raw(b"{}")
    idempotencyKey: IdempotencyKey | msgspec.UnsetType = msgspec.UNSET  # noqa: N815
    timestamp: Timestamp | msgspec.UnsetType = msgspec.UNSET


_SINGLE: Final = msgspec.json.Decoder(NewEvent, float_hook=Decimal)
_ITEMS: Final = msgspec.json.Decoder(list[NewItem], float_hook=Decimal)
# Gives the bytes of a Raw as they are, in a third of the time that bytes() takes.
_TEXT: Final = msgspec.json.Encoder()
_OBJECT: Final = ord("{")
# Between a batch's key and an item's place in it.
_PLACE: Final = "\x1f"
# Beside its own DecodeError msgspec lets bad UTF-8 and deep nesting pass, and Decimal what exceeds
# it.
_UNDECODABLE: Final = (
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
    InvalidOperation,
)


def decode_event(
    body: bytes, event_type: str, event_types: Collection[str], header_key: str = ""
) -> UsageEvent | Refusal:
    """The event of a ``POST /usage/{eventType}``, or why it is none.

    ``header_key`` is its idempotency key where the request's head has one.
    """
    if event_type in event_types:
        try:
            decoded = _SINGLE.decode(body)
        except _UNDECODABLE:
            return _decode_event_slowly(body, event_type, event_types, header_key)
        event = _accept(event_type, decoded, header_key)
        if event is not None and _is_utf8(body):
            return event
    return _decode_event_slowly(body, event_type, event_types, header_key)


def decode_batch(
    body: bytes, event_types: Collection[str], *, lenient: bool, header_key: str = ""
) -> Batch | Refusal:
    """The events of a ``POST /usagebatch``, or why there are none.

    One invalid item refuses the whole batch, unless it is lenient (RFC 7240, ``handling=lenient``)
    and another item is valid: then the faults come back beside the valid events. A ``header_key``
    is the whole batch's: items without a key of their own have theirs made of it.
    """
    try:
        decoded = _ITEMS.decode(body)
    except _UNDECODABLE:
        return _decode_batch_slowly(body, event_types, lenient=lenient, header_key=header_key)
    if 0 < len(decoded) <= BATCH_MAX and _is_utf8(body):
        events = _accept_all(decoded, event_types, header_key)
        if events is not None:
            return Batch(events)
    return _decode_batch_slowly(body, event_types, lenient=lenient, header_key=header_key)


def _accept(event_type: str, decoded: NewEvent, header_key: str) -> UsageEvent | None:
    """The event if all is well at first sight; None asks for the slow way."""
    customer_id = decoded.customerId
    if not customer_id or customer_id_fault(customer_id) is not None:
        return None
    number = bounded_value(decoded.value)
    if type(number) is not Decimal:
        return None
    metadata = _TEXT.encode(decoded.metadata)
    if metadata[0] != _OBJECT or len(metadata) > METADATA_MAX_BYTES:
        return None
    key = decoded.idempotencyKey
    if key is msgspec.UNSET:
        key = header_key
    elif idempotency_key_fault(key) is not None or header_key not in ("", key):
        return None
    timestamp_ms = None
    if decoded.timestamp is not msgspec.UNSET:
        timestamp_ms = parse_instant(decoded.timestamp)
        if timestamp_ms is None:
            return None
    return UsageEvent(customer_id, event_type, number, metadata, key, timestamp_ms)


def _accept_all(
    items: list[NewItem], event_types: Collection[str], header_key: str
) -> list[UsageEvent] | None:
    """As ``_accept``, for a whole batch, which repeats its names: each is looked at once."""
    for event_type in {item.eventType for item in items}:
        if event_type not in event_types:
            return None
    for customer_id in {item.customerId for item in items}:
        if not customer_id or customer_id_fault(customer_id) is not None:
            return None
    events = []
    places: defaultdict[str, Iterator[int]] = defaultdict(count)
    for item in items:
        place = next(places[item.customerId]) if header_key else 0
        number = bounded_value(item.value)
        metadata = _TEXT.encode(item.metadata)
        if (
            type(number) is not Decimal
            or metadata[0] != _OBJECT
            or len(metadata) > METADATA_MAX_BYTES
        ):
            return None
        key = item.idempotencyKey
        if key is msgspec.UNSET:
            key = item_key(header_key, place) if header_key else ""
        elif idempotency_key_fault(key) is not None:
            return None
        timestamp_ms = None
        if item.timestamp is not msgspec.UNSET:
            timestamp_ms = parse_instant(item.timestamp)
            if timestamp_ms is None:
                return None
        events.append(
            UsageEvent(item.customerId, item.eventType, number, metadata, key, timestamp_ms)
        )
    return events


def item_key(header_key: str, place: int) -> str:
    """The key of a batch's item that has none of its own; ``place`` is that among its customer's.

    So a batch whose customers stand in another order is the same, and one of whose customer's items
    stand in another order conflicts. No client's own key is the same, whatever it is: those contain
    no control characters.
    """
    return f"{header_key}{_PLACE}{place}"


def sent_key(key: str) -> tuple[str, int | None]:
    """The key as it was sent, and the item's place where it is one that ``item_key`` made."""
    sent, made, place = key.partition(_PLACE)
    return sent, int(place) if made else None


def _is_utf8(body: bytes) -> bool:
    """Msgspec does not look inside what it passes over: unknown fields and raw metadata."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


# The slow way


def _decode_event_slowly(
    body: bytes, event_type: str, event_types: Collection[str], header_key: str = ""
) -> UsageEvent | Refusal:
    try:
        decoded = read_json(body)
    except MalformedJsonError as fault:
        return Refusal(Reason.MALFORMED_JSON, _MALFORMED, str(fault))
    if not event_types:
        return NO_EVENT_TYPES
    if event_type not in event_types:
        return Refusal(
            Reason.UNKNOWN_EVENT_TYPE, {"error": _unknown_event_type(event_type, event_types)}
        )
    if not isinstance(decoded, dict | list):
        return Refusal(Reason.BODY_UNFIT, {"error": "Request body must be a JSON object"})
    fields = decoded if isinstance(decoded, dict) else {}
    judged = _judge(event_type, fields, header_key)
    if isinstance(judged, UsageEvent) and header_key not in ("", judged.idempotency_key):
        judged = ["idempotencyKey must be that of the header Idempotency-Key, or left out"]
    if isinstance(judged, UsageEvent):
        return judged
    return invalid(judged)


def invalid(details: list[str]) -> Refusal:
    """An event of which nothing is stored: this is wrong with it."""
    return Refusal(Reason.INVALID, {"error": "Validation failed", "details": details})


def _decode_batch_slowly(
    body: bytes, event_types: Collection[str], *, lenient: bool, header_key: str = ""
) -> Batch | Refusal:
    try:
        items = read_json(body)
    except MalformedJsonError as fault:
        return Refusal(Reason.MALFORMED_JSON, _MALFORMED, str(fault))
    if items is ABSENT or items is None:
        return Refusal(Reason.BODY_UNFIT, {"error": "Request body is required"})
    if not isinstance(items, list):
        return Refusal(Reason.BODY_UNFIT, {"error": "Request body must be an array of events"})
    if not items:
        return Refusal(Reason.BODY_UNFIT, {"error": "Events array cannot be empty"})
    if len(items) > BATCH_MAX:
        return Refusal(
            Reason.TOO_MANY_EVENTS,
            {
                "error": f"Batch size exceeds maximum limit of {BATCH_MAX} events",
                "received": len(items),
                "maxAllowed": BATCH_MAX,
            },
        )
    if not event_types:
        return NO_EVENT_TYPES
    events: list[UsageEvent] = []
    failures: list[dict[str, Any]] = []
    places: defaultdict[str, Iterator[int]] = defaultdict(count)
    for index, item in enumerate(items):
        customer_id = item.get("customerId") if isinstance(item, dict) else None
        place = next(places[customer_id]) if isinstance(customer_id, str) else 0
        default_key = item_key(header_key, place) if header_key else ""
        judged = _judge_item(item, event_types, default_key)
        if isinstance(judged, UsageEvent):
            events.append(judged)
        else:
            failures.append({"index": index, "errors": judged})
    if failures and not (lenient and events):
        return some_invalid(len(events), failures)
    return Batch(events, failures)


def some_invalid(valid: int, failures: list[dict[str, Any]]) -> Refusal:
    """A batch of which nothing is stored: these items are why."""
    return Refusal(
        Reason.INVALID,
        {
            "error": "Validation failed for some events",
            "validationErrors": failures,
            "validCount": valid,
            "invalidCount": len(failures),
        },
    )


def _judge_item(
    item: Any, event_types: Collection[str], default_key: str
) -> UsageEvent | list[str]:
    if not isinstance(item, dict | list):
        return ["Event must be an object"]
    fields = item if isinstance(item, dict) else {}
    event_type = fields.get("eventType", ABSENT)
    if is_missing(event_type):
        fault: str | None = "eventType is required"
    elif not isinstance(event_type, str):
        fault = "eventType must be a string"
    elif event_type not in event_types:
        fault = _unknown_event_type(event_type, event_types)
    else:
        fault = None
    judged = _judge("" if fault else event_type, fields, default_key)
    if fault is None:
        return judged
    return [fault] if isinstance(judged, UsageEvent) else [fault, *judged]


def _judge(event_type: str, fields: dict[str, Any], default_key: str) -> UsageEvent | list[str]:
    """The event, or at most one string for each field, in the order of the contract's table."""
    key = fields.get("idempotencyKey", ABSENT)
    customer_id = fields.get("customerId", ABSENT)
    number = bounded_value(fields.get("value", ABSENT))
    metadata = metadata_text(fields.get("metadata", ABSENT))
    details = []
    if is_missing(customer_id):
        details.append("customerId is required")
    elif not isinstance(customer_id, str):
        details.append("customerId must be a string")
    elif fault := customer_id_fault(customer_id):
        details.append(fault)
    if not isinstance(number, Decimal):
        details.append(number)
    if not isinstance(metadata, bytes):
        details.append(metadata)
    if key is not ABSENT and (fault := idempotency_key_fault(key)):
        details.append(f"idempotencyKey {fault}")
    timestamp_ms = timestamp(fields.get("timestamp", ABSENT))
    if isinstance(timestamp_ms, str):
        details.append(timestamp_ms)
    if details:
        return details
    assert isinstance(customer_id, str)
    assert isinstance(number, Decimal)
    assert isinstance(metadata, bytes)
    assert not isinstance(timestamp_ms, str)
    own_key = default_key if key is ABSENT else key
    return UsageEvent(customer_id, event_type, number, metadata, own_key, timestamp_ms)


def _unknown_event_type(name: str, event_types: Collection[str]) -> str:
    shown = name.encode(errors="replace").decode()
    return f"Invalid event type: {shown}. Must be one of: {', '.join(event_types)}"
