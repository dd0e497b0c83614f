"""Each field of an event by itself: what it takes, and what is wrong with it.

``test_events`` holds whole requests against the contract; here is what those tables cannot show.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from meterd.domain.event_fields import (
    ABSENT,
    METADATA_MAX_BYTES,
    MalformedJsonError,
    bounded_value,
    customer_id_fault,
    is_missing,
    metadata_text,
    read_json,
)


@pytest.mark.parametrize("value", [ABSENT, None, "", 0, False, Decimal("-0"), Decimal("0.0")])
def test_what_javascript_takes_for_nothing_is_missing(value: object) -> None:
    """The old system asked ``!customerId``."""
    assert is_missing(value)


@pytest.mark.parametrize("value", ["0", " ", 1, True, Decimal("1e-400"), [], {}])
def test_everything_else_is_there(value: object) -> None:
    """Arrays and objects are true in JavaScript, empty or not."""
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("customer_id", "fault"),
    [
        ("c", None),
        ("Zoë <b>/ 😀", None),
        ("é" * 128, None),
        ("é" * 129, "customerId must be at most 256 bytes of UTF-8"),
        ("a\tb", "customerId must not contain control characters"),
        ("a\x85b", "customerId must not contain control characters"),
        ("a\ud800", "customerId must not contain lone surrogates"),
    ],
)
def test_customer_ids(customer_id: str, fault: str | None) -> None:
    """They are part of keys and of ids: bounded in bytes, and printable."""
    assert customer_id_fault(customer_id) == fault


@pytest.mark.parametrize(
    ("value", "bounded"),
    [
        (7, Decimal(7)),
        (Decimal("-0.0"), Decimal(0)),
        (Decimal("1e-400"), Decimal("1e-400")),
        (Decimal("1e-401"), "value must be 0 or at least 1e-400 in size"),
        (Decimal("1e-463"), "value must be 0 or at least 1e-400 in size"),
        (10**64 - 1, Decimal(10**64 - 1)),
        (10**64 + 1, "value must have at most 64 significant digits"),
        (2**1024 - 2**971, "value must have at most 64 significant digits"),
        (Decimal("1.7976931348623157e308"), Decimal("1.7976931348623157e308")),
        (Decimal("1.7976931348623159e308"), "value must be a finite number"),
        (True, "value must be a finite number"),
        ("5", "value must be a finite number"),
        (None, "value is required"),
    ],
)
def test_values(value: object, bounded: Decimal | str) -> None:
    """An exact decimal, or why it is none."""
    assert bounded_value(value) == bounded


def test_metadata_keeps_the_text_of_its_numbers() -> None:
    """What was sent is stored, whatever else the request holds."""
    numbers = b"1e5,1.50,12345678901234567890,1e999999999999999999999," + b"-" + b"3" * 5000
    assert metadata_text(read_json(b'{"a": [%b]}' % numbers)) == b'{"a":[%b]}' % numbers


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("digits", [400, 401, 250_000])
def test_long_integers_are_no_doubles(sign: str, digits: int) -> None:
    """However many digits they have; from 401 on they are no longer looked at."""
    value = read_json(f"{sign}{'9' * digits}".encode())
    assert bounded_value(value) == "value must be a finite number"


def test_metadata_is_bounded() -> None:
    """At 16 KiB of JSON, to the byte."""
    around = len(b'{"a":""}')
    assert isinstance(metadata_text({"a": "x" * (METADATA_MAX_BYTES - around)}), bytes)
    fault = metadata_text({"a": "x" * (METADATA_MAX_BYTES - around + 1)})
    assert fault == "metadata must be at most 16384 bytes of JSON"


@pytest.mark.parametrize("body", [b"{", b"\xff", b"NaN", b"[1,]", b"\xef\xbb\xbf1", b"[" * 10_000])
def test_what_is_no_json(body: bytes) -> None:
    """One failure, whatever the reader tripped over."""
    with pytest.raises(MalformedJsonError):
        read_json(body)


def test_reading_agrees_with_another_reader() -> None:
    """Duplicate keys: the last wins."""
    body = b'{"a":1,"a":{"b":[true,null,"\\u00e9"]}}'
    assert read_json(body) == msgspec.json.decode(body)
    assert read_json(b"  \r\n\t ") is ABSENT
