"""What is kept of an attempt, and what Retry-After means."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from meterd.domain.outcomes import (
    FIELD_BYTES_MAX,
    FIELDS_MAX,
    RETRY_AFTER_MAX_MS,
    ErrorKind,
    Outcome,
    kept_fields,
    retry_after_ms,
)

NOW = 1784678400 * 1000  # Wed, 22 Jul 2026 00:00:00 GMT
HOUR = 3600 * 1000
DAY = 24 * HOUR

RETRY_AFTER = [
    # Seconds, as RFC 9110 has them: digits, and nothing else.
    ("0", 0),
    ("1", 1000),
    ("120", 120_000),
    ("  120\t", 120_000),
    ("0000000000000120", 120_000),
    ("86400", DAY),
    ("86401", DAY),
    ("999999999", DAY),
    ("9" * 5000, DAY),
    ("0" * 5000, 0),
    # Dates, in the form of today and the two of old that must be read.
    ("Wed, 22 Jul 2026 00:02:00 GMT", 120_000),
    ("Wednesday, 22-Jul-26 00:02:00 GMT", 120_000),
    ("Wed Jul 22 00:02:00 2026", 120_000),
    ("Sat Aug  1 00:00:00 2026", DAY),
    ("Wed, 22 Jul 2026 23:59:59 GMT", DAY - 1000),
    ("Wed, 22 Jul 2026 00:00:60 GMT", 59_000),  # a leap second
    ("Thu, 01 Jan 2099 00:00:00 GMT", DAY),
    ("Fri, 31 Dec 9999 23:59:59 GMT", DAY),
    # What has passed is now.
    ("Wed, 22 Jul 2026 00:00:00 GMT", 0),
    ("Tue, 21 Jul 2026 23:59:59 GMT", 0),
    ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
    ("Sunday, 06-Nov-94 08:49:37 GMT", 0),  # and not 2094
    ("Tuesday, 21-Jul-76 00:00:00 GMT", DAY),  # fifty years ahead, no more
    # Neither.
    ("", None),
    (" ", None),
    ("-1", None),
    ("+1", None),
    ("1.5", None),
    ("1e3", None),
    ("1_000", None),
    ("0x10", None),
    ("120, 60", None),
    ("120s", None),
    ("1 2", None),
    ("120\n", None),
    ("\u0661", None),  # a digit, in Arabic
    ("\u00b2", None),
    ("soon", None),
    ("Wed, 22 Jul 2026 00:02:00 UTC", None),
    ("Wed, 22 Jul 2026 00:02:00", None),
    ("Wed, 22 Jul 2026 00:02:00 +0000", None),
    ("wed, 22 jul 2026 00:02:00 gmt", None),
    ("Wed, 22 Jul 26 00:02:00 GMT", None),
    ("Wed, 32 Jul 2026 00:02:00 GMT", None),
    ("Wed, 00 Jul 2026 00:02:00 GMT", None),
    ("Mon, 30 Feb 2026 00:02:00 GMT", None),
    ("Wed, 22 Jul 2026 24:00:00 GMT", None),
    ("Wed, 22 Jul 2026 00:60:00 GMT", None),
    ("Wed, 22 Jul 2026 00:00:61 GMT", None),
    ("Wed, 22 Jul 0000 00:00:00 GMT", None),
    ("2026-07-22T00:02:00Z", None),
]


@pytest.mark.parametrize(("value", "expected_ms"), RETRY_AFTER)
def test_retry_after(value: str, expected_ms: int | None) -> None:
    """Seconds or a date, at most a day, never negative; nonsense asks for nothing."""
    assert retry_after_ms(value, NOW) == expected_ms


def test_a_year_of_two_digits_is_never_far_ahead() -> None:
    """At the end of a century, too."""
    now = datetime(2099, 12, 31, tzinfo=UTC)
    now_ms = int(now.timestamp() * 1000)
    assert retry_after_ms("Thursday, 31-Dec-99 01:00:00 GMT", now_ms) == HOUR
    assert retry_after_ms("Monday, 31-Dec-50 01:00:00 GMT", now_ms) == 0


@pytest.mark.parametrize(
    ("status", "expected_ms"),
    [(429, 5000), (503, 5000), (500, None), (502, None), (301, None), (200, None), (None, None)],
)
def test_only_a_busy_receiver_is_left_alone(status: int | None, expected_ms: int | None) -> None:
    """With other answers the field means other things."""
    asked = Outcome("x", status=status, headers=(("server", "x"), ("rEtry-After", "5")))
    assert asked.retry_after_ms(NOW) == expected_ms
    assert Outcome("x", status=status).retry_after_ms(NOW) is None


def test_the_first_of_several_counts() -> None:
    """It is a field of which there is one; whoever sends two gets the one that proxies read."""
    headers = (("Retry-After", "soon"), ("Retry-After", "5"))
    assert Outcome("x", status=429, headers=headers).retry_after_ms(NOW) is None


@pytest.mark.parametrize(
    ("status", "refuses"),
    [
        (None, False),
        *((status, True) for status in (400, 401, 404, 413, 422, 499, 500)),
        *((status, False) for status in (200, 302, 399, 408, 429, 501, 502, 503, 504)),
    ],
)
def test_what_is_about_the_message(status: int | None, *, refuses: bool) -> None:
    """Not what a gateway says for a receiver that is away, nor what is about time or load."""
    assert Outcome("x", status=status).refuses is refuses


@pytest.mark.parametrize(
    ("status", "gone"), [(410, True), (404, False), (200, False), (None, False)]
)
def test_only_410_is_gone(status: int | None, *, gone: bool) -> None:
    """What is not found may come back."""
    assert Outcome(status=status).gone is gone


def test_an_outcome_is_stored_as_it_is() -> None:
    """In the order of its fields, which is the format on disk; bytes stay bytes."""
    outcome = Outcome(
        "HTTP 503: Service Unavailable",
        ErrorKind.STATUS,
        503,
        (("Retry-After", "5"), ("x", "\xe9")),
        b"\x00\xff",
        "[::1]:443",
    )
    stored = msgspec.msgpack.encode(outcome)
    assert msgspec.msgpack.decode(stored) == [
        "HTTP 503: Service Unavailable",
        "status",
        503,
        [["Retry-After", "5"], ["x", "\xe9"]],
        b"\x00\xff",
        "[::1]:443",
        False,
        False,
    ]
    assert msgspec.msgpack.decode(stored, type=Outcome) == outcome


def test_fields_become_text() -> None:
    """As Latin-1, which every byte is: RFC 9110 leaves the encoding open."""
    every = bytes(range(128, 256))
    assert kept_fields([(b"Date", b"x"), (b"a", every)]) == (
        ("Date", "x"),
        ("a", every.decode("latin-1")),
    )


def test_very_many_fields_are_cut() -> None:
    """The first stay."""
    kept = kept_fields((b"x-%d" % number, b"") for number in range(FIELDS_MAX + 10))
    assert kept == tuple((f"x-{number}", "") for number in range(FIELDS_MAX))


def test_very_long_fields_are_cut() -> None:
    """Names count as well; a field is kept whole or not at all, nor any after it."""
    filling = (b"filling", b"x" * (FIELD_BYTES_MAX - len(b"filling")))
    assert len(kept_fields([filling])) == 1
    assert kept_fields([filling, (b"a", b"b")]) == kept_fields([filling])
    assert kept_fields([(b"a", b"b"), filling, (b"c", b"d")]) == (("a", "b"),)


@pytest.mark.parametrize(
    "before",
    [[(b"x", b"")] * FIELDS_MAX, [(b"x", b"y" * FIELD_BYTES_MAX)]],
    ids=["many fields", "long fields"],
)
def test_retry_after_is_kept_wherever_it_stands(before: list[tuple[bytes, bytes]]) -> None:
    """Proxies and frameworks put theirs in front of it; it is short, the first, and there once."""
    asking = [(b"x", b""), (b"reTry-After", b"60"), (b"x", b""), (b"Retry-After", b"70")]
    kept = kept_fields([*before, *asking])
    assert kept[-1] == ("reTry-After", "60")
    assert kept[:-1] == kept_fields(before)
    assert Outcome("x", status=429, headers=kept).retry_after_ms(NOW) == 60_000
    assert kept_fields([*before, (b"retry-after", b"0" * FIELD_BYTES_MAX)]) == kept_fields(before)
    assert kept_fields(asking) == tuple((name.decode(), value.decode()) for name, value in asking)


def test_a_day_is_the_most() -> None:
    """No receiver stops its deliveries for longer than that."""
    assert RETRY_AFTER_MAX_MS == DAY
