"""What happened, in order and with its time: two runs of one seed are the same, to the byte."""

from __future__ import annotations

import hashlib
from collections import Counter, deque

import trio

_TAIL = 60


class Trace:
    """``lines`` are kept where somebody wants to compare them, else only their sum and the last."""

    def __init__(self, *, keep: bool = False) -> None:
        self.lines: list[str] = []
        self.seen: Counter[str] = Counter()
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._keep = keep
        self._sum = hashlib.blake2b(digest_size=16)

    def add(self, what: str) -> None:
        line = f"{trio.current_time():.6f} {what}"
        self._sum.update(line.encode() + b"\n")
        self._tail.append(line)
        if self._keep:
            self.lines.append(line)

    def count(self, what: str) -> None:
        """Something worth knowing how often it happened."""
        self.add(what)
        self.seen[what] += 1

    def sum(self) -> str:
        return self._sum.hexdigest()

    def tail(self) -> str:
        return "\n".join(self._tail)
