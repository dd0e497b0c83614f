"""What names a client may give its requests, and who is told of them."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.edge.request_ids import NUMBERS, fit, is_told, made


@pytest.mark.parametrize(
    "name",
    [
        "a",
        str(uuid.UUID(int=1)),
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "Root=1-67891233-abcdef012345678912345678",
        "QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        "host/Rb3z@x~1+2",
        "x" * 128,
    ],
)
def test_usual_names_are_taken(name: str) -> None:
    """As they are."""
    assert fit(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a\r\nSet-Cookie: b", "a\n", "é", "x" * 129, '"', "a,b", "\x1b[2J"]
)
def test_others_are_not(name: str) -> None:
    """They are no fault of the request, which gets another name."""
    assert fit(name) is None


@given(st.integers(0, NUMBERS - 1), st.integers(0, NUMBERS - 1))
def test_ours_are_fit_and_tell_numbers_apart(one: int, other: int) -> None:
    """All of one length."""
    assert fit(made(one)) == made(one)
    assert len(made(one)) == 16
    assert (made(one) == made(other)) == (one == other)


@pytest.mark.parametrize(
    ("given_name", "status", "told"),
    [
        (None, 200, False),
        (None, 201, False),
        (None, 207, False),
        (None, 400, True),
        (None, 401, True),
        (None, 500, True),
        (None, 507, True),
        ("a", 201, True),
        ("a", 500, True),
    ],
)
def test_who_is_told(given_name: str | None, status: int, told: bool) -> None:
    """Who gave a name, and who may have to ask about a refusal."""
    assert is_told(given_name, status) is told
