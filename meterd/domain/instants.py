"""Instants as text: written ``YYYY-MM-DDTHH:MM:SS.mmmZ``, read from ISO 8601.

An instant is whole milliseconds since 1970-01-01T00:00:00Z. What is finer is cut, as JavaScript's
``Date`` does, so an instant never moves into the future by being written down.
"""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache
from typing import Final

# A date alone, or a date and time that says its offset: a local time would mean another instant on
# every machine, so it is not accepted.
_ISO: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](\d\d:\d\d(?::\d\d)?)(?:(?<=:\d\d:\d\d)[.,](\d{1,9}))?([Zz]|[+-]\d\d:?[0-5]\d))?",
    re.ASCII,
)
# As JavaScript writes them, and as batches of events are full of them: a quarter of the time.
_USUAL: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DAY_MS: Final = 86_400_000
EXPECTED: Final = (
    "an ISO 8601 date (2026-01-14) or an instant with its offset (2026-01-14T00:00:00.000Z)"
)


def format_instant(instant_ms: int) -> str:
    """``2026-01-14T00:00:00.000Z``."""
    seconds, millis = divmod(instant_ms, 1000)
    return f"{_to_the_second(seconds)}.{millis:03d}Z"


@lru_cache(maxsize=1024)
def _to_the_second(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_instant(text: str) -> int | None:
    """Milliseconds of an ISO 8601 date (its midnight, UTC) or instant; None if it is neither."""
    try:
        if _USUAL.fullmatch(text):
            since = dt.datetime.fromisoformat(text) - _EPOCH
            return since.days * _DAY_MS + since.seconds * 1000 + since.microseconds // 1000
        matched = _ISO.fullmatch(text)
        if matched is None:
            return None
        date, time, fraction, offset = matched.groups()
        moment = dt.datetime.fromisoformat(
            f"{date}T{time}{offset.upper()}" if time else f"{date}T00:00:00+00:00"
        )
        millis = int((fraction or "0").ljust(3, "0")[:3])
        return int(moment.timestamp()) * 1000 + millis
    except (ValueError, OverflowError):
        return None
