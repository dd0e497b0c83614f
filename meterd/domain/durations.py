"""Lengths of time in milliseconds, and as an operator writes them: ``30s``, ``1h30m``, ``35d``."""

from __future__ import annotations

import re
from typing import Final

# Largest first, which is also the order they are written in. A day is 24 hours: everything is UTC.
UNITS_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
# Nine digits of the smallest unit are eleven days, of the largest more than any bound allows.
_WRITTEN: Final = re.compile("".join(rf"(?:(\d{{1,9}}){unit})?" for unit in UNITS_MS), re.ASCII)
_EXAMPLES: Final = ("5s", "30s", "5m", "1h30m", "2d")


def parse_duration(text: str) -> int | None:
    """Milliseconds; None if the text is no duration. A bare number has no unit, so it is none."""
    matched = _WRITTEN.fullmatch(text)
    if matched is None or not text:
        return None
    counts = matched.groups(default="0")
    return sum(
        int(count) * unit_ms for count, unit_ms in zip(counts, UNITS_MS.values(), strict=True)
    )


def examples_within(at_least_ms: int, at_most_ms: int) -> str:
    """How a duration within the bounds may be written: ``"30s", "5m" or "2d"``."""
    fitting = [
        f'"{text}"'
        for text in _EXAMPLES
        if at_least_ms <= (parse_duration(text) or 0) <= at_most_ms
    ][-4:]
    assert fitting, "there is an example for each option"
    return " or ".join(", ".join(fitting).rsplit(", ", 1))


def format_duration(duration_ms: int) -> str:
    """The text that :func:`parse_duration` reads back, largest unit first: ``1m30s``."""
    assert duration_ms >= 0, "a duration has no sign"
    text = ""
    for unit, unit_ms in UNITS_MS.items():
        count, duration_ms = divmod(duration_ms, unit_ms)
        text += f"{count}{unit}" if count else ""
    return text or "0s"
