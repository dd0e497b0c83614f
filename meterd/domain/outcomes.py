"""What came of one attempt to send a delivery, as its log keeps it.

Whoever sends makes an Outcome; what it means for the delivery is decided elsewhere. Everything in
it that a stranger chose has a limit, because logs of attempts are kept: see the constants.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

# What nearly all answers hold; of longer ones the beginning tells what they are.
FIELDS_MAX: Final = 64
FIELD_BYTES_MAX: Final = 8 * 1024
BODY_BYTES_MAX: Final = 16 * 1024
# To read an answer that goes on and on takes as much as several webhooks. Its slot rests for so
# long, and the receiver costs the others no more than some hundredths of what they have.
REST_AFTER_CUT_MS: Final = 100
# Who asks for more waits like everybody else: the schedule goes on daily at last.
RETRY_AFTER_MAX_MS: Final = 24 * 3600 * 1000

_REQUEST_TIMEOUT: Final = 408
_TOO_MANY_REQUESTS: Final = 429
_INTERNAL_ERROR: Final = 500
_UNAVAILABLE: Final = 503
_GONE: Final = 410

_RETRY_AFTER: Final = b"retry-after"
_RETRY_AFTER_BYTES_MAX: Final = 64  # the longest date has 33

_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_SECONDS: Final = re.compile(r"[0-9]+", re.ASCII)
# RFC 9110, section 5.6.7: the form to send, and two of old that recipients must read.
_DAY: Final = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY: Final = "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES: Final = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        f"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
        f"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        f"{_DAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)


class ErrorKind(StrEnum):
    """Why an attempt failed, for programs; the line for people is the outcome's ``error``."""

    URL = "url"  # it cannot be asked for at all
    DNS = "dns"
    REFUSED_ADDRESS = "refused-address"  # by the guard
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"  # the deadline of the attempt
    RESET = "reset"  # the connection ended before the answer did
    PROTOCOL = "protocol"  # what came is no HTTP/1
    ANSWER_TOO_LONG = "answer-too-long"
    STATUS = "status"  # answered, and not with 2xx


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What came of an attempt. ``error`` is one line for people, None for a 2xx or a dry run.

    ``status``, ``headers`` and ``body`` are of the answer, as far as one came: its header fields as
    Latin-1 text in their order, and its body as it was sent, without the framing, still compressed
    if it was. ``address`` is what was dialled, also for a connection that was kept. ``cut`` says
    that the answer went on beyond what is read. New fields go to the end: outcomes are stored.
    """

    error: str | None = None
    kind: ErrorKind | None = None
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    address: str | None = None
    dry_run: bool = False
    cut: bool = False

    @property
    def gone(self) -> bool:
        """The receiver wants no more: Standard Webhooks 1.0.0 has 410 disable the endpoint."""
        return self.status == _GONE

    @property
    def refuses(self) -> bool:
        """The receiver has answered, and it is about this message: 4xx that is not about time or
        load, and 500, which is that of an application and of no gateway before it.
        """
        if self.status in (_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS):
            return False
        return self.status is not None and 400 <= self.status <= _INTERNAL_ERROR

    def retry_after_ms(self, now_ms: int) -> int | None:
        """How long the receiver wants to be left alone; None where it does not say so.

        Only with 429 and 503 does it mean that: elsewhere it tells when a resource is there.
        """
        if self.status not in (_TOO_MANY_REQUESTS, _UNAVAILABLE):
            return None
        for name, value in self.headers:
            if name.lower() == "retry-after":
                return retry_after_ms(value, now_ms)
        return None


def retry_after_ms(value: str, now_ms: int) -> int | None:
    """What a Retry-After field asks for (RFC 9110, section 10.2.3), at most a day.

    Seconds or a date; one that has passed is 0. None for what is neither.
    """
    text = value.strip(" \t")
    if _SECONDS.fullmatch(text):
        digits = text.lstrip("0")
        # So long a number is over the limit whatever it is, and int() has one of its own.
        seconds = int(digits or "0") if len(digits) <= 9 else RETRY_AFTER_MAX_MS
        return min(seconds * 1000, RETRY_AFTER_MAX_MS)
    at_ms = _date_ms(text, now_ms)
    return None if at_ms is None else min(max(at_ms - now_ms, 0), RETRY_AFTER_MAX_MS)


def _date_ms(text: str, now_ms: int) -> int | None:
    found = next((match for form in _DATES if (match := form.fullmatch(text))), None)
    if found is None:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:  # more than fifty years ahead is the past
        this_year = datetime.fromtimestamp(now_ms / 1000, UTC).year
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
    try:
        at = datetime(
            year,
            _MONTHS.index(found["month"]) + 1,
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            59 if found["second"] == "60" else int(found["second"]),  # a leap second
            tzinfo=UTC,
        )
    except ValueError:  # the 31st of February
        return None
    return int(at.timestamp()) * 1000


def kept_fields(fields: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """The first header fields of an answer, within the limits, as text; and the first Retry-After
    wherever it stands, since it says what becomes of the delivery.
    """
    kept: list[tuple[str, str]] = []
    room = FIELD_BYTES_MAX
    is_full, is_asked = False, False
    for name, value in fields:
        asks = not is_asked and name.lower() == _RETRY_AFTER
        room -= len(name) + len(value)
        is_full = is_full or room < 0 or len(kept) == FIELDS_MAX
        if not is_full or (asks and len(value) <= _RETRY_AFTER_BYTES_MAX):
            kept.append((name.decode("latin-1"), value.decode("latin-1")))
        is_asked = is_asked or asks
    return tuple(kept)
