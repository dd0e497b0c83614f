"""``POST /usage/{eventType}``: every row of the contract's section 2, and the edges of JSON.

Each table is read by both ways of decoding.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from meterd.domain.events import (
    NO_EVENT_TYPES,
    Reason,
    Refusal,
    UsageEvent,
    _decode_event_slowly,
    decode_event,
)
from tests.domain.usage_bodies import (
    FAULTS,
    NOT_AN_OBJECT,
    TYPES,
    UNKNOWN,
    VALUES,
    body,
    event,
    single,
)

TRUNCATED = Refusal(
    Reason.MALFORMED_JSON, {"error": "Malformed JSON"}, "ends before it is whole (byte 1)"
)
both_ways = pytest.mark.parametrize("decode", [decode_event, _decode_event_slowly])


def invalid(*details: str) -> Refusal:
    return Refusal(Reason.INVALID, {"error": "Validation failed", "details": list(details)})


@both_ways
@pytest.mark.parametrize(
    ("sent", "event_type", "types", "refusal"),
    [
        # row 1, before everything but the body's being JSON
        ("{}", "api.calls", (), NO_EVENT_TYPES),
        ("null", "nope", (), NO_EVENT_TYPES),
        ("", "nope", (), NO_EVENT_TYPES),
        ("{", "api.calls", (), TRUNCATED),
        # row 2, before the body and its fields
        *[
            (
                sent,
                name,
                TYPES,
                Refusal(Reason.UNKNOWN_EVENT_TYPE, {"error": UNKNOWN.format(shown)}),
            )
            for sent, name, shown in [
                (single(), "nope", "nope"),
                ("", "nope", "nope"),
                ("5", "nope", "nope"),
                ("{}", "nope", "nope"),
                (single(), "API.CALLS", "API.CALLS"),
                (single(), "api", "api"),
                (single(), "api.calls ", "api.calls "),
                (single(), "", ""),
                (single(), "größe", "größe"),
                (single(), "a\udcffb", "a?b"),
            ]
        ],
        ("{", "nope", TYPES, TRUNCATED),
        # row 3: absent, null or a scalar
        *[
            (
                sent,
                "api.calls",
                TYPES,
                Refusal(Reason.BODY_UNFIT, {"error": "Request body must be a JSON object"}),
            )
            for sent in ("", " \r\n\t", "null", "5", "0", "-1e999", '"text"', '""', "true", "false")
        ],
        # row 4: an array passes and fails field by field
        ("[]", "api.calls", TYPES, invalid("customerId is required", "value is required")),
        (
            f"[{single()}]",
            "api.calls",
            TYPES,
            invalid("customerId is required", "value is required"),
        ),
        ("{}", "api.calls", TYPES, invalid("customerId is required", "value is required")),
    ],
)
def test_the_first_check_that_fails_answers(
    decode: Any, sent: str, event_type: str, types: tuple[str, ...], refusal: Refusal
) -> None:
    """Event types configured, event type known, body an object, fields valid: in this order."""
    assert decode(sent.encode(), event_type, types) == refusal


@both_ways
@pytest.mark.parametrize(("field", "text", "fault"), FAULTS)
def test_a_faulty_field_is_named(decode: Any, field: str, text: str | None, fault: str) -> None:
    """One string for the one field, as the contract writes it."""
    assert decode(single(**{field: text}).encode(), "api.calls", TYPES) == invalid(fault)


@both_ways
def test_faults_come_in_the_order_of_the_contract(decode: Any) -> None:
    """At most one string for each field: customerId, value, metadata, however they are sent."""
    sent = body(metadata="[]", value='"1"', customerId="7")
    assert decode(sent.encode(), "api.calls", TYPES) == invalid(
        "customerId must be a string", "value must be a finite number", NOT_AN_OBJECT
    )
    sent = body(metadata="null", value="null")
    assert decode(sent.encode(), "api.calls", TYPES) == invalid(
        "customerId is required", "value is required", NOT_AN_OBJECT
    )


@both_ways
@pytest.mark.parametrize(("text", "value"), VALUES)
def test_a_value_is_taken_exactly(decode: Any, text: str, value: str) -> None:
    """Every digit, over the whole range of doubles, and no minus on zero."""
    accepted = decode(single(value=text).encode(), "api.calls", TYPES)
    assert accepted == event(value)
    assert not accepted.value.is_zero() or not accepted.value.is_signed()


@both_ways
@pytest.mark.parametrize(
    ("text", "customer_id"),
    [
        (f'"{"a" * 256}"', "a" * 256),
        (f'"{"é" * 128}"', "é" * 128),
        (f'"{"😀" * 64}"', "😀" * 64),
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\u0041"', "A"),
        ('" "', " "),
        ('"0"', "0"),
        ('"a/b_daily?\\"\\\\"', 'a/b_daily?"\\'),
        ('"\N{NO-BREAK SPACE}\N{LINE SEPARATOR}"', "\N{NO-BREAK SPACE}\N{LINE SEPARATOR}"),
    ],
)
def test_any_other_text_names_a_customer(decode: Any, text: str, customer_id: str) -> None:
    """Up to 256 bytes of UTF-8, as JSON spells it, nothing trimmed or normalised."""
    accepted = decode(single(customerId=text).encode(), "api.calls", TYPES)
    assert accepted == UsageEvent(customer_id, "api.calls", Decimal(1), b"{}")


@both_ways
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"a":{"b":[1,2.5,null,true,"ü"]},"":""}',
        ' { "k" : [ 1 , 2 ] } ',
        '{"a":"\\ud83d\\ude00\\u0041\\/"}',
        '{"a":123456789012345678901234567890,"b":1e300,"c":-0.0}',
        '{"a":' + "[" * 100 + "]" * 100 + "}",
        f'{{"a":"{"x" * 16_376}"}}',  # 16,384 bytes
        f'{{"a":"{"é" * 8_188}"}}',
        f'{{"a":"{"x" * 16_000}"{" " * 1000}}}',  # without the spaces it fits
    ],
)
def test_metadata_is_kept_as_a_json_object(decode: Any, text: str) -> None:
    """What is stored says the same as what was sent, in at most 16 KiB of compact JSON."""
    accepted = decode(single(metadata=text).encode(), "api.calls", TYPES)
    assert isinstance(accepted, UsageEvent)
    assert json.loads(accepted.metadata) == json.loads(text)
    assert accepted.metadata.startswith(b"{")
    assert len(accepted.metadata) <= 16_384


@both_ways
@pytest.mark.parametrize(
    ("sent", "accepted"),
    [
        (f" \t\r\n{single()}\n", event()),
        ('{"value":2,"customerId":"acme"}', event("2")),
        ('{"customerId":"x","value":1,"customerId":"acme","value":2}', event("2")),
        ('{"customerId":7,"value":"x","customerId":"acme","value":2}', event("2")),
        ('{"customer\\u0049d":"acme","value":1}', event()),
        (single(metadata='{},"metadata":{"a":1}'), event(metadata=b'{"a":1}')),
        (single(metadata='5,"metadata":{"a":1}'), event(metadata=b'{"a":1}')),
        (single(colour='"red"', eventType="7", customerid="7", _id="{}"), event()),
        (single(other='"\\ud800"'), event()),
        (single(other="1e999999999999999999999"), event()),
        (single(other="9" * 5000), event()),
        (single(value='1,"value":null'), invalid("value is required")),
        (single(customerId='"acme","customerId":""'), invalid("customerId is required")),
        (single(metadata='{},"metadata":null'), invalid(NOT_AN_OBJECT)),
    ],
)
def test_the_last_of_duplicate_keys_wins_and_unknown_ones_are_ignored(
    decode: Any, sent: str, accepted: UsageEvent | Refusal
) -> None:
    """Contract, section 1: as ``JSON.parse`` reads it."""
    assert decode(sent.encode(), "api.calls", TYPES) == accepted


NOT_JSON = [
    *(b"{", b"}", b"[", b"nul", b"undefined", b"'a'", b"{a:1}", b"01", b"+1", b"1.", b".5", b"-"),
    *(b"1e", b"0x10", b"NaN", b"Infinity", b"-Infinity", b'"', b'"\\q"', b'"\\u12"', b'"\n"'),
    *(b'{"a":1,}', b"[1,]", b"[,]", b'{"a"}', b"{1:2}", b"1 2", b"{}{}", b"/**/{}", b"{}\x00"),
    *(b"\x00", b"\x0b{}", b"\x0c{}", b"\xc2\xa0{}", b"\xef\xbb\xbf{}", b"\xef\xbb\xbf"),
    *(b"{}".decode().encode("utf-16"), b"{}".decode().encode("utf-16-le"), b"[" * 100_000),
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
]


def is_malformed(refusal: Refusal) -> bool:
    """With the contract's answer, and the place that the one reader and the other know."""
    is_placed = refusal.breaks not in {"", "not JSON"}
    return is_placed and refusal == msgspec.structs.replace(TRUNCATED, breaks=refusal.breaks)


@both_ways
@pytest.mark.parametrize("sent", NOT_JSON, ids=lambda sent: repr(sent[:12]))
def test_what_is_not_json_is_malformed(decode: Any, sent: bytes) -> None:
    """As a whole body, and anywhere inside of one: in a field, in metadata, in what is ignored."""
    assert is_malformed(decode(sent, "api.calls", TYPES))
    for place in ("customerId", "value", "metadata", "ignored"):
        fields = single(**{place: "PLACE"}).encode().replace(b"PLACE", sent)
        assert is_malformed(decode(fields, "api.calls", TYPES))
    nested = single(metadata='{"a":[PLACE]}').encode().replace(b"PLACE", sent)
    assert is_malformed(decode(nested, "api.calls", TYPES))


# overlong, a surrogate, beyond Unicode, cut short, begun in the middle
BAD_UTF8 = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"]


@both_ways
@pytest.mark.parametrize("bad", BAD_UTF8)
def test_invalid_utf8_is_malformed_wherever_it_stands(decode: Any, bad: bytes) -> None:
    """Also where nobody looks: in unknown fields, in keys, deep in the metadata."""
    for sent in (
        single(customerId='"a%"'),
        single(metadata='{"a":["%"]}'),
        single(metadata='{"%":1}'),
        single(ignored='"%"'),
        single(ignored='1,"%":1'),
        f"{single()}%",
    ):
        assert is_malformed(decode(sent.encode().replace(b"%", bad), "api.calls", TYPES))
