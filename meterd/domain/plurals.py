"""Counts with their nouns, as people write them: ``1 event``, ``2,000 events``."""

from __future__ import annotations

from typing import Final

_PLURALS: Final = {"delivery": "deliveries"}


def number_of(count: int, noun: str) -> str:
    """The noun is given as of one."""
    return f"{count:,} {noun if count == 1 else _PLURALS.get(noun, f'{noun}s')}"
