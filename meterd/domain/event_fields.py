"""The fields of a usage event, each by itself: what it takes, and what is wrong with it.

Also reads JSON as JavaScript does, without types and with numbers exact, which is what lets every
field be judged when some are not what they should be. ``events`` puts the two together.

What a field takes is also said in JSON Schema, beside its type, for the document of the API.
"""

from __future__ import annotations

import json
import unicodedata
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow, Subnormal
from typing import Annotated, Any, Final

import msgspec

from meterd.domain.instants import EXPECTED, parse_instant
from meterd.domain.malformed import fault_in

CUSTOMER_ID_MAX_BYTES: Final = 256  # LMDB keys hold 511 bytes: customer, event type, time and id
METADATA_MAX_BYTES: Final = 16 * 1024
IDEMPOTENCY_KEY_MAX: Final = 255  # characters
DIGITS_MAX: Final = 64
_EXPONENT_MAX: Final = 400  # so that an exact sum over all doubles has a bounded length

# One call converts and bounds: more digits would be inexact, a smaller number too.
_VALUE: Final = Context(
    prec=DIGITS_MAX,
    Emin=-_EXPONENT_MAX,
    Emax=_EXPONENT_MAX,
    traps=[Inexact, InvalidOperation, Overflow, Subnormal],
)
_exact: Final = _VALUE.plus
# From here on a number rounds to infinity as an IEEE 754 double: the greatest double and half a
# unit.
_TOO_GREAT: Final = 2**1024 - 2**970
_CERTAINLY_FINITE_DIGITS: Final = 308


# Unicode's category Cc, which is complete: no version of it will add to it.
_NO_CONTROL_CHARACTERS: Final = r"^[^\u0000-\u001f\u007f-\u009f]*$"

CustomerId = Annotated[
    str,
    msgspec.Meta(
        description="Whose usage it is: a name of your choice, at most"
        f" {CUSTOMER_ID_MAX_BYTES} bytes of UTF-8.",
        extra_json_schema={
            "minLength": 1,
            "maxLength": CUSTOMER_ID_MAX_BYTES,
            "pattern": _NO_CONTROL_CHARACTERS,
        },
    ),
]
Value = Annotated[
    Any,
    msgspec.Meta(
        description="How much: kept exactly as it is written, with at most"
        f" {DIGITS_MAX} significant digits, and within the range of an IEEE 754 double.",
        extra_json_schema={"type": "number"},
    ),
]
Metadata = Annotated[
    msgspec.Raw,
    msgspec.Meta(
        description=f"Whatever is to be kept with it, at most {METADATA_MAX_BYTES} bytes of JSON:"
        " usage can be grouped by it, and filtered.",
        extra_json_schema={"type": "object"},
    ),
]
IdempotencyKey = Annotated[
    str,
    msgspec.Meta(
        description="Sent again under the same key, with the same content, an event counts once."
        " Unique for each customer.",
        extra_json_schema={
            "minLength": 1,
            "maxLength": IDEMPOTENCY_KEY_MAX,
            "pattern": _NO_CONTROL_CHARACTERS,
        },
    ),
]
Timestamp = Annotated[
    str,
    msgspec.Meta(
        description=f"When it happened: {EXPECTED}. It may lie as far back as `accept_past` and as"
        " far ahead as `accept_future`; without it, it happened when it was received.",
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"format": "date"}]},
    ),
]


class MalformedJsonError(Exception):
    """A body is not JSON; the text says what breaks, and where."""


ABSENT: Final = object()  # no such field, or no body at all


def is_missing(value: Any) -> bool:
    """What JavaScript's ``!value`` holds for, as far as JSON can say it; arrays and objects are
    there.
    """
    if value is ABSENT or value is None:
        return True
    return isinstance(value, str | bool | int | Decimal) and not value


def customer_id_fault(customer_id: str) -> str | None:
    if fault := _letters_fault(customer_id):
        return f"customerId must not contain {fault}"
    size = len(customer_id) if customer_id.isascii() else len(customer_id.encode())
    if size > CUSTOMER_ID_MAX_BYTES:
        return f"customerId must be at most {CUSTOMER_ID_MAX_BYTES} bytes of UTF-8"
    return None


def idempotency_key_fault(key: Any) -> str | None:
    """What is wrong with a key that was given; None is given too, and is no key."""
    if not isinstance(key, str) or not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX:
        return f"must be a string of 1 to {IDEMPOTENCY_KEY_MAX} characters"
    if fault := _letters_fault(key):
        return f"must not contain {fault}"
    return None


def _letters_fault(text: str) -> str | None:
    if text.isascii():
        return None if text.isprintable() else "control characters"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "lone surrogates"
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        return "control characters"
    return None


def bounded_value(value: Any) -> Decimal | str:
    """The value as an exact decimal, or what is wrong with it."""
    if type(value) is not int and not isinstance(value, Decimal):
        absent = value is ABSENT or value is None
        return "value is required" if absent else "value must be a finite number"
    try:
        number = _exact(value)
    except Overflow:
        return "value must be a finite number"
    except (Inexact, Subnormal):
        if Decimal(value).copy_abs() >= _TOO_GREAT:
            return "value must be a finite number"
        if isinstance(value, Decimal) and _VALUE.is_subnormal(value):
            return f"value must be 0 or at least 1e-{_EXPONENT_MAX} in size"
        return f"value must have at most {DIGITS_MAX} significant digits"
    if number.adjusted() >= _CERTAINLY_FINITE_DIGITS and number.copy_abs() >= _TOO_GREAT:
        return "value must be a finite number"
    return number


def metadata_text(metadata: Any) -> bytes | str:
    if metadata is ABSENT:
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


def timestamp(value: Any) -> int | str | None:
    """When the event happened, in milliseconds, None where that was not said; or what is wrong."""
    if value is ABSENT:
        return None
    instant_ms = parse_instant(value) if isinstance(value, str) else None
    return f"timestamp must be {EXPECTED}" if instant_ms is None else instant_ms


class _Written(Decimal):
    """A number that is no short integer, and its text: metadata is stored as it was sent."""

    text: str


_METADATA: Final = msgspec.json.Encoder(
    decimal_format="number", enc_hook=lambda number: msgspec.Raw(number.text.encode())
)


def read_json(body: bytes) -> Any:
    """The JSON value of a body as ``JSON.parse`` reads it, numbers exact; ``ABSENT`` for none at
    all.

    The standard library's reader, because unlike msgspec's it takes lone surrogates, which
    JavaScript's takes too, and a fault in one field must not hide the others.
    """
    try:
        text = body.decode()
        if not text.strip(" \t\r\n"):
            return ABSENT
        return json.loads(
            text, parse_float=_read_float, parse_int=_read_int, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as fault:
        raise MalformedJsonError(fault_in(body)) from fault


def _read_int(digits: str) -> int | Decimal:
    if len(digits) <= _EXPONENT_MAX:
        return int(digits)
    # No finite double, whatever its digits are: reading 250,000 of them would take milliseconds.
    return _written("-1E+99999" if digits.startswith("-") else "1E+99999", digits)


def _read_float(text: str) -> Decimal:
    try:
        return _written(text, text)
    except InvalidOperation:  # an exponent of over 18 digits
        mantissa, exponent = text.lower().split("e")
        far = "1E-99999" if exponent.startswith("-") else "1E+99999"
        return _written(far if Decimal(mantissa) else "0", text)


def _written(number: str, text: str) -> Decimal:
    written = _Written(number)
    written.text = text
    return written


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
