"""Usage events as JSON text, to test their decoding: builders, and what each field may not be."""

from __future__ import annotations

from decimal import Decimal

from meterd.domain.events import UsageEvent

TYPES = ("api.calls", "storage.bytes")
UNKNOWN = "Invalid event type: {}. Must be one of: api.calls, storage.bytes"


def body(**fields: str | None) -> str:
    """An object of these fields' JSON texts; None leaves a field out."""
    members = [f'"{name}":{text}' for name, text in fields.items() if text is not None]
    return f"{{{','.join(members)}}}"


def single(**fields: str | None) -> str:
    return body(**{"customerId": '"acme"', "value": "1", **fields})


def item(**fields: str | None) -> str:
    return single(**{"eventType": '"api.calls"', **fields})


def batch(*items: str) -> bytes:
    return f"[{','.join(items)}]".encode()


def event(value: str = "1", metadata: bytes = b"{}", event_type: str = "api.calls") -> UsageEvent:
    return UsageEvent("acme", event_type, Decimal(value), metadata)


NINES = "9" * 64
CUSTOMER_ID_LONG = "customerId must be at most 256 bytes of UTF-8"
CUSTOMER_ID_CONTROL = "customerId must not contain control characters"
NO_INSTANT = (
    "timestamp must be an ISO 8601 date (2026-01-14) or an instant with its offset"
    " (2026-01-14T00:00:00.000Z)"
)
NOT_FINITE = "value must be a finite number"
NOT_AN_OBJECT = "metadata must be an object if provided"
TOO_MANY_DIGITS = "value must have at most 64 significant digits"
TOO_SMALL = "value must be 0 or at least 1e-400 in size"

# field, its JSON text (None: missing), the string in details
FAULTS: list[tuple[str, str | None, str]] = [
    *[
        ("customerId", text, "customerId is required")
        for text in (None, "null", '""', "0", "-0", "0.0", "0e9", "false")
    ],
    *[
        ("customerId", text, "customerId must be a string")
        for text in (
            "7",
            "0.5",
            "1e999",
            "true",
            "[]",
            '["acme"]',
            "{}",
            '{"id":"acme"}',
            "9" * 5000,
        )
    ],
    ("customerId", f'"{"a" * 257}"', CUSTOMER_ID_LONG),
    ("customerId", f'"{"é" * 128}a"', CUSTOMER_ID_LONG),
    ("customerId", f'"{"😀" * 64}a"', CUSTOMER_ID_LONG),
    *[
        ("customerId", f'"a{letter}b"', CUSTOMER_ID_CONTROL)
        for letter in ("\\u0000", "\\n", "\\u001f", "\x7f", "\\u007f", "\x80", "\\u0085", "\x9f")
    ],
    ("customerId", '"é\\n"', CUSTOMER_ID_CONTROL),
    *[
        ("customerId", text, "customerId must not contain lone surrogates")
        for text in ('"\\ud800"', '"a\\udfffb"', '"\\ude00\\ud83d"')
    ],
    *[
        ("timestamp", text, NO_INSTANT)
        for text in (
            *("null", "1768390200000", '""', "{}", '"soon"', '"2026-01-14T11:20"'),
            *('"2026-13-14T11:20:00.000Z"', '"2026-01-14T24:00:00.000Z"', '"2026-02-30"'),
            *('"2026-01-14T11:20:60.000Z"', '"2026-W03-1T11:20:00.00Z"', '" 2026-01-14"'),
        )
    ],
    *[("value", text, "value is required") for text in (None, "null")],
    *[
        ("value", text, NOT_FINITE)
        for text in (
            *('"5"', '""', "true", "false", "[]", "[1]", "{}", '{"value":1}'),
            *("1e999", "-1e999", "1e309", "1e400", "1e401", "9" * 400, "9" * 401, "-" + "9" * 5000),
            *("1" + "0" * 309, "1e999999999999999999999", "-1e999999999999999999999"),
            # as a double it rounds to infinity: from half a unit above the greatest one
            *("1.7976931348623159e308", "-1.7976931348623159e308", "17976931348623159" + "0" * 292),
            "1.7976931348623158079372897141e308",
            str(2**1024 - 2**970),
            f"{2**1024 - 2**970}.5",
        )
    ],
    *[
        ("value", text, TOO_MANY_DIGITS)
        for text in (NINES + "9", "-0." + NINES + "9", "1." + "0" * 63 + "1", f"{NINES}9e-90")
    ],
    ("value", str(2**1024 - 2**970 - 1), TOO_MANY_DIGITS),
    *[
        ("value", text, TOO_SMALL)
        for text in ("1e-464", "-1e-999", "1e-999999999999999999999", f"{NINES}e-464")
    ],
    *[
        ("metadata", text, NOT_AN_OBJECT)
        for text in ("null", "[]", "[{}]", '"m"', '""', "1", "0", "true", "false")
    ],
    ("metadata", '{"a":"\\ud800"}', "metadata must not contain lone surrogates"),
    ("metadata", '{"\\udfff":1}', "metadata must not contain lone surrogates"),
    *[
        ("metadata", text, "metadata must be at most 16384 bytes of JSON")
        for text in (f'{{"a":"{"x" * 16_377}"}}', f'{{"a":"{"é" * 8_189}"}}')
    ],
    *[
        ("idempotencyKey", text, "idempotencyKey must be a string of 1 to 255 characters")
        for text in ("null", '""', "7", "false", "[]", '["k"]', "{}", f'"{"k" * 256}"')
    ],
    *[
        ("idempotencyKey", text, "idempotencyKey must not contain control characters")
        for text in ('"a\\u0000"', '"\\n"', '"\x7f"', '"é\x80"')
    ],
    ("idempotencyKey", '"k\\ud800"', "idempotencyKey must not contain lone surrogates"),
]
EVENT_TYPE_FAULTS: list[tuple[str, str | None, str]] = [
    *[
        ("eventType", text, "eventType is required")
        for text in (None, "null", '""', "0", "-0", "0.0", "false")
    ],
    *[
        ("eventType", text, "eventType must be a string")
        for text in ("7", "true", "[]", '["api.calls"]', "{}", "1e999")
    ],
    ("eventType", '"nope"', UNKNOWN.format("nope")),
    ("eventType", '"API.CALLS"', UNKNOWN.format("API.CALLS")),
    ("eventType", '"gr\\u00f6\\u00dfe"', UNKNOWN.format("größe")),
    ("eventType", '"a\\ud800b"', UNKNOWN.format("a?b")),
]

# value's JSON text, the exact decimal
VALUES = [
    ("0", "0"),
    ("-0", "0"),
    ("-0.0", "0"),
    ("0e999", "0"),
    ("0e-999999999999999999999", "0"),
    ("0e999999999999999999999", "0"),
    ("5", "5"),
    ("-7", "-7"),
    ("0.1", "0.1"),
    ("1.10", "1.1"),
    ("1E5", "100000"),
    ("1e+5", "100000"),
    ("9007199254740993", "9007199254740993"),
    ("18446744073709551616", "18446744073709551616"),
    ("-9223372036854775809", "-9223372036854775809"),
    ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
    (NINES, NINES),
    ("0." + NINES, "0." + NINES),
    ("1" + "0" * 308, "1e308"),
    ("1." + "0" * 80, "1"),
    ("0." + "0" * 300 + "1", "1e-301"),
    ("1e308", "1e308"),
    ("1.7976931348623157e308", "1.7976931348623157e308"),
    ("-1.7976931348623158e308", "-1.7976931348623158e308"),  # still rounds to the greatest double
    ("1.797693134862315807937289714e308", "1.797693134862315807937289714e308"),
    ("5e-324", "5e-324"),
    ("1e-400", "1e-400"),
]
