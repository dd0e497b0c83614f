"""Which entries of the log are written, and which only counted: those that repeat others.

What goes wrong goes wrong a thousand times a second, and a log that says so each time fills the
disk that events need. So of each kind the first ones in a window are written, and the others are
told as a number when it is over. A kind that is not known yet is always written, unless there are
so many that somebody makes them up: then all others of a level are one kind.

Pure: the time is an argument, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

# Enough to see what varies from one to the next.
WRITTEN_MAX: Final = 20
WINDOW_S: Final = 60.0
# At once; some 300 bytes each.
KINDS_MAX: Final = 1000
OTHERS: Final = "entries of too many kinds"


class Kind(NamedTuple):
    """What makes an entry the repeat of another."""

    logger: str
    level: str
    event: str
    fields: tuple[tuple[str, str], ...] = ()


class LeftOut(NamedTuple):
    """How many of a kind were not written in its window."""

    kind: Kind
    entries: int


class _Window:
    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.entries = 0


class Repeats:
    """The kinds of the last window, each since its first entry."""

    def __init__(self) -> None:
        # The one that ends first is the first.
        self._windows: dict[Kind, _Window] = {}
        self._over: list[LeftOut] = []

    def admits(self, kind: Kind, now_s: float) -> bool:
        """Whether it is written; else it is counted."""
        self._end(now_s)
        window = self._windows.get(kind)
        if window is None and len(self._windows) >= KINDS_MAX:
            kind = Kind("meterd", kind.level, OTHERS)
            window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window(now_s + WINDOW_S)
        window.entries += 1
        return window.entries <= WRITTEN_MAX

    def over(self, now_s: float = math.inf) -> list[LeftOut]:
        """What was left out in windows that are over by then, each told once."""
        self._end(now_s)
        over, self._over = self._over, []
        return over

    def next_s(self) -> float | None:
        """When there will be something to tell."""
        if self._over:
            return -math.inf
        for window in self._windows.values():
            if window.entries > WRITTEN_MAX:
                return window.ends_at
        return None

    def _end(self, now_s: float) -> None:
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if now_s < window.ends_at:
                break
            del self._windows[kind]
            if window.entries > WRITTEN_MAX:
                self._over.append(LeftOut(kind, window.entries - WRITTEN_MAX))
