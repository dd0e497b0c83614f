"""Decodes and bounds usage events from bytes; says every refusal of the contract (sections 2 and
3).

Two ways lead to the same result. The fast one decodes strictly with msgspec and looks at what its
types cannot say. Whatever it does not take, the slow one reads without types, as JavaScript would,
and names every fault; ``tests/domain/test_events.py`` holds the two against each other.

Checks are made in the contract's order and the first that fails answers. Nothing here knows HTTP:
``edge/problems.py`` gives each ``Reason`` its status.
"""

from __future__ import annotations

import json
import unicodedata
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

BATCH_MAX: Final = 1000  # events in a batch, the old system's limit
CUSTOMER_ID_MAX_BYTES: Final = 256  # LMDB keys hold 511 bytes: customer, event type, time and id
METADATA_MAX_BYTES: Final = 16 * 1024
DIGITS_MAX: Final = 64
_EXPONENT_MAX: Final = 400  # so that an exact sum over all doubles has a bounded length

# One call converts and bounds: more digits would be inexact, a smaller number too.
_VALUE: Final = Context(
    prec=DIGITS_MAX,
    Emin=-_EXPONENT_MAX,
    Emax=_EXPONENT_MAX,
    traps=[Inexact, InvalidOperation, Overflow],
)
# From here on a number rounds to infinity as an IEEE 754 double: the greatest double and half a
# unit.
_TOO_GREAT: Final = 2**1024 - 2**970
_CERTAINLY_FINITE_DIGITS: Final = 308


class UsageEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that may be stored. ``metadata`` is the JSON text of an object."""

    customer_id: str
    event_type: str
    value: Decimal
    metadata: bytes


class Reason(Enum):
    """Why a request was refused, in the order of precedence."""

    MALFORMED_JSON = auto()
    BODY_UNFIT = auto()
    TOO_MANY_EVENTS = auto()
    NO_EVENT_TYPES = auto()
    UNKNOWN_EVENT_TYPE = auto()
    INVALID = auto()


class Refusal(msgspec.Struct, frozen=True):
    """The answer to a request that stores nothing: the reason and the JSON body."""

    reason: Reason
    answer: dict[str, Any]


class Batch(msgspec.Struct, frozen=True):
    """The valid items in the order of the array, and the faults of the others by index."""

    events: list[UsageEvent]
    failures: list[dict[str, Any]] = []


MALFORMED: Final = Refusal(Reason.MALFORMED_JSON, {"error": "Malformed JSON"})
NO_EVENT_TYPES: Final = Refusal(
    Reason.NO_EVENT_TYPES, {"error": "Service misconfigured: no event types available"}
)


class _Single(msgspec.Struct, gc=False):
    customerId: str  # noqa: N815 - the wire's name
    value: Any
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class _Item(msgspec.Struct, gc=False):
    eventType: str  # noqa: N815 - the wire's name
    customerId: str  # noqa: N815 - the wire's name
    value: Any
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


_SINGLE: Final = msgspec.json.Decoder(_Single, float_hook=Decimal)
_ITEMS: Final = msgspec.json.Decoder(list[_Item], float_hook=Decimal)
# Beside its own DecodeError msgspec lets bad UTF-8 and deep nesting pass, and Decimal what exceeds
# it.
_UNDECODABLE: Final = (
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
    InvalidOperation,
)


def decode_event(
    body: bytes, event_type: str, event_types: Collection[str]
) -> UsageEvent | Refusal:
    """The event of a ``POST /usage/{eventType}``, or why it is none."""
    if event_type in event_types:
        try:
            decoded = _SINGLE.decode(body)
        except _UNDECODABLE:
            return _decode_event_slowly(body, event_type, event_types)
        event = _accept(event_type, decoded.customerId, decoded.value, decoded.metadata)
        if event is not None and _is_utf8(body):
            return event
    return _decode_event_slowly(body, event_type, event_types)


def decode_batch(body: bytes, event_types: Collection[str], *, lenient: bool) -> Batch | Refusal:
    """The events of a ``POST /usagebatch``, or why there are none.

    One invalid item refuses the whole batch, unless it is lenient (RFC 7240, ``handling=lenient``)
    and another item is valid: then the faults come back beside the valid events.
    """
    try:
        decoded = _ITEMS.decode(body)
    except _UNDECODABLE:
        return _decode_batch_slowly(body, event_types, lenient=lenient)
    events = []
    for item in decoded:
        event = None
        if item.eventType in event_types:
            event = _accept(item.eventType, item.customerId, item.value, item.metadata)
        if event is None:
            return _decode_batch_slowly(body, event_types, lenient=lenient)
        events.append(event)
    if not 0 < len(events) <= BATCH_MAX or not _is_utf8(body):
        return _decode_batch_slowly(body, event_types, lenient=lenient)
    return Batch(events)


def _accept(event_type: str, customer_id: str, value: Any, metadata: Any) -> UsageEvent | None:
    """The event if all is well at first sight; None asks for the slow way."""
    if not customer_id or _customer_id_fault(customer_id) is not None:
        return None
    number = _bounded(value)
    if not isinstance(number, Decimal):
        return None
    text = bytes(metadata)
    if not text.startswith(b"{") or len(text) > METADATA_MAX_BYTES:
        return None
    return UsageEvent(customer_id, event_type, number, text)


def _is_utf8(body: bytes) -> bool:
    """Msgspec does not look inside what it passes over: unknown fields and raw metadata."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


# The slow way


class _MalformedJsonError(Exception):
    pass


_ABSENT: Final = object()


def _decode_event_slowly(
    body: bytes, event_type: str, event_types: Collection[str]
) -> UsageEvent | Refusal:
    try:
        decoded = _read(body)
    except _MalformedJsonError:
        return MALFORMED
    if not event_types:
        return NO_EVENT_TYPES
    if event_type not in event_types:
        return Refusal(
            Reason.UNKNOWN_EVENT_TYPE, {"error": _unknown_event_type(event_type, event_types)}
        )
    if not isinstance(decoded, dict | list):
        return Refusal(Reason.BODY_UNFIT, {"error": "Request body must be a JSON object"})
    fields = decoded if isinstance(decoded, dict) else {}
    judged = _judge(event_type, fields)
    if isinstance(judged, UsageEvent):
        return judged
    return Refusal(Reason.INVALID, {"error": "Validation failed", "details": judged})


def _decode_batch_slowly(
    body: bytes, event_types: Collection[str], *, lenient: bool
) -> Batch | Refusal:
    try:
        items = _read(body)
    except _MalformedJsonError:
        return MALFORMED
    if items is _ABSENT or items is None:
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
    for index, item in enumerate(items):
        judged = _judge_item(item, event_types)
        if isinstance(judged, UsageEvent):
            events.append(judged)
        else:
            failures.append({"index": index, "errors": judged})
    if failures and not (lenient and events):
        return Refusal(
            Reason.INVALID,
            {
                "error": "Validation failed for some events",
                "validationErrors": failures,
                "validCount": len(events),
                "invalidCount": len(failures),
            },
        )
    return Batch(events, failures)


def _judge_item(item: Any, event_types: Collection[str]) -> UsageEvent | list[str]:
    if not isinstance(item, dict | list):
        return ["Event must be an object"]
    fields = item if isinstance(item, dict) else {}
    event_type = fields.get("eventType", _ABSENT)
    if _is_missing(event_type):
        fault: str | None = "eventType is required"
    elif not isinstance(event_type, str):
        fault = "eventType must be a string"
    elif event_type not in event_types:
        fault = _unknown_event_type(event_type, event_types)
    else:
        fault = None
    judged = _judge("" if fault else event_type, fields)
    if fault is None:
        return judged
    return [fault] if isinstance(judged, UsageEvent) else [fault, *judged]


def _judge(event_type: str, fields: dict[str, Any]) -> UsageEvent | list[str]:
    """The event, or at most one string for each field, in the order of the contract's table."""
    customer_id = fields.get("customerId", _ABSENT)
    number = _bounded(fields.get("value", _ABSENT))
    metadata = _metadata_text(fields.get("metadata", _ABSENT))
    details = []
    if _is_missing(customer_id):
        details.append("customerId is required")
    elif not isinstance(customer_id, str):
        details.append("customerId must be a string")
    elif fault := _customer_id_fault(customer_id):
        details.append(fault)
    if not isinstance(number, Decimal):
        details.append(number)
    if not isinstance(metadata, bytes):
        details.append(metadata)
    if details:
        return details
    assert isinstance(customer_id, str)
    assert isinstance(number, Decimal)
    assert isinstance(metadata, bytes)
    return UsageEvent(customer_id, event_type, number, metadata)


def _is_missing(value: Any) -> bool:
    """What JavaScript's ``!value`` holds for, as far as JSON can say it; arrays and objects are
    there.
    """
    if value is _ABSENT or value is None:
        return True
    return isinstance(value, str | bool | int | Decimal) and not value


def _customer_id_fault(customer_id: str) -> str | None:
    if customer_id.isascii():
        size, clean = len(customer_id), customer_id.isprintable()
    else:
        if any("\ud800" <= letter <= "\udfff" for letter in customer_id):
            return "customerId must not contain lone surrogates"
        size = len(customer_id.encode())
        clean = all(unicodedata.category(letter) != "Cc" for letter in customer_id)
    if not clean:
        return "customerId must not contain control characters"
    if size > CUSTOMER_ID_MAX_BYTES:
        return f"customerId must be at most {CUSTOMER_ID_MAX_BYTES} bytes of UTF-8"
    return None


def _bounded(value: Any) -> Decimal | str:
    """The value as an exact decimal, or what is wrong with it."""
    if value is _ABSENT or value is None:
        return "value is required"
    if type(value) is not int and type(value) is not Decimal:
        return "value must be a finite number"
    try:
        number = _VALUE.plus(value)
    except Overflow:
        return "value must be a finite number"
    except Inexact:
        if Decimal(value).copy_abs() >= _TOO_GREAT:
            return "value must be a finite number"
        if isinstance(value, Decimal) and _VALUE.is_subnormal(value):
            return f"value must be 0 or at least 1e-{_EXPONENT_MAX} in size"
        return f"value must have at most {DIGITS_MAX} significant digits"
    if number.adjusted() >= _CERTAINLY_FINITE_DIGITS and number.copy_abs() >= _TOO_GREAT:
        return "value must be a finite number"
    return number


def _metadata_text(metadata: Any) -> bytes | str:
    if metadata is _ABSENT:
        return b"{}"
    if not isinstance(metadata, dict):
        return "metadata must be an object if provided"
    try:
        text = _METADATA.encode(metadata)
    except UnicodeEncodeError:
        return "metadata must not contain lone surrogates"
    except RecursionError:
        return "metadata must not be nested that deep"
    if len(text) > METADATA_MAX_BYTES:
        return f"metadata must be at most {METADATA_MAX_BYTES} bytes of JSON"
    return text


_METADATA: Final = msgspec.json.Encoder(decimal_format="number")


def _unknown_event_type(name: str, event_types: Collection[str]) -> str:
    shown = name.encode(errors="replace").decode()
    return f"Invalid event type: {shown}. Must be one of: {', '.join(event_types)}"


def _read(body: bytes) -> Any:
    """The JSON value of a body as ``JSON.parse`` reads it, numbers exact; ``_ABSENT`` for none at
    all.

    The standard library's reader, because unlike msgspec's it takes lone surrogates, which
    JavaScript's takes too, and a fault in one field must not hide the others.
    """
    try:
        text = body.decode()
        if not text.strip(" \t\r\n"):
            return _ABSENT
        return json.loads(
            text, parse_float=_read_float, parse_int=_read_int, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as fault:
        raise _MalformedJsonError from fault


def _read_int(digits: str) -> int | Decimal:
    # int() takes quadratic time and refuses 4,300 digits; nothing of over 400 is a finite double.
    return int(digits) if len(digits) <= _EXPONENT_MAX else Decimal(digits)


def _read_float(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of over 18 digits
        mantissa, exponent = text.lower().split("e")
        if not Decimal(mantissa):
            return Decimal(0)
        return Decimal("1E-99999") if exponent.startswith("-") else Decimal("1E+99999")


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
