"""What a disk may hold after power loss, from what it was told before.

A disk keeps what it has flushed. Of what was written behind the last flush, any sectors may have
reached it, each with any of its contents in between.
"""

from __future__ import annotations

import os
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from tests.system.torture.disks.mounts import SECTOR
from tests.system.torture.disks.recorder import Kind

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.system.torture.disks.recorder import Operation

_CHUNK: Final = 1 << 16


class Luck(Enum):
    """What becomes of the sectors that were not flushed."""

    ALL = auto()
    NONE = auto()
    HALF = auto()
    FIRST = auto()  # up to some moment: a disk that writes in order
    ALL_BUT_FEW = auto()
    FEW = auto()


class Disk:
    """What is flushed, and what is not."""

    def __init__(self, size: int) -> None:
        self._flushed = bytearray(size)
        self._used: set[int] = set()
        self._written: list[tuple[int, bytes]] = []

    def take(self, operation: Operation) -> None:
        if operation.kind is Kind.WRITE:
            offset, data = operation.offset, operation.data
            assert offset % SECTOR == len(data) % SECTOR == 0, "not whole sectors"
            self._written += [
                (offset + start, data[start : start + SECTOR])
                for start in range(0, len(data), SECTOR)
            ]
        elif operation.kind is Kind.FLUSH:
            for offset, data in self._written:
                self._flushed[offset : offset + SECTOR] = data
                self._used.add(offset // _CHUNK)
            self._written = []

    def write_image(self, path: Path, luck: Luck, random: random.Random) -> None:
        """The disk as it is found when the power is back."""
        with path.open("wb", buffering=0) as file, memoryview(self._flushed) as flushed:
            file.truncate(len(flushed))
            for chunk in self._used:
                start = chunk * _CHUNK
                os.pwrite(file.fileno(), flushed[start : start + _CHUNK], start)
            for offset, data in _survivors(self._written, luck, random):
                os.pwrite(file.fileno(), data, offset)


def _survivors(
    sectors: list[tuple[int, bytes]], luck: Luck, random: random.Random
) -> list[tuple[int, bytes]]:
    """In the order of writing, so of a sector written twice the later one stays if both do."""
    if luck is Luck.ALL:
        return sectors
    if luck is Luck.NONE:
        return []
    if luck is Luck.HALF:
        return [sector for sector in sectors if random.random() < 0.5]
    if luck is Luck.FIRST:
        return sectors[: random.randrange(len(sectors) + 1)]
    few = set(random.sample(range(len(sectors)), min(len(sectors), random.randrange(1, 4))))
    return [sector for at, sector in enumerate(sectors) if (at in few) is (luck is Luck.FEW)]
