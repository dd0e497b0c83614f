"""What is said of a body that is no JSON, and of which place in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.event_fields import MalformedJsonError, read_json
from meterd.domain.malformed import fault_in


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"a": 1,}', "trailing comma in object (byte 8)"),
        (b'{"a" 1}', "expected ':' (byte 5)"),
        (b"[NaN]", "invalid character (byte 1)"),
        (b"{} x", "trailing characters (byte 4)"),
        (b'{"a": "x\ny"}', "invalid character (byte 8)"),
        (b'{"a": "\xff"}', "not UTF-8 (byte 7)"),
        (b"\xef\xbb\xbf{}", "invalid character (byte 0)"),
        (b'{"a":', "ends before it is whole (byte 5)"),
        (b'{\n  "a": 1\n  "b": 2\n}', "expected ',' or '}' (line 3, column 3, byte 13)"),
        ('[\n"é計", x]'.encode(), "invalid character (line 2, column 7, byte 11)"),
        (b'[\n"\xff"]', "not UTF-8 (line 2, column 2, byte 3)"),
        (b"[" * 100_000, "nested too deep"),
        (b"[]", "not JSON"),
    ],
)
def test_what_breaks_is_said_with_its_place(body: bytes, fault: str) -> None:
    """In one line, of one line the byte alone."""
    assert fault_in(body) == fault


@given(st.binary() | st.text().map(str.encode) | st.text('[]{}",:\n1e.').map(str.encode))
def test_whatever_is_malformed_has_a_fault_that_fits_a_header(body: bytes) -> None:
    """Printable ASCII; what the one reader refuses, the other knows a place of."""
    try:
        read_json(body)
    except MalformedJsonError as malformed:
        fault = str(malformed)
        assert fault == fault_in(body) != "not JSON"
        assert fault.isascii()
        assert fault.isprintable()
