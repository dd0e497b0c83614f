"""Places for a data folder that have little room, until they are given more. Each fails in its own
way: a tmpfs and ext4 at different calls, and a limit on the size of files with another error.
"""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from tests.system.torture.disks import mounts
from tests.system.torture.disks.ext4 import make_ext4
from tests.system.torture.disks.mounts import looped, mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_MEBIBYTE: Final = 1 << 20
# An empty store has 0.2 MiB.
_LITTLE: Final = 3 * _MEBIBYTE
_ENOUGH: Final = 96 * _MEBIBYTE


class Place(Protocol):
    """Where there is room for ``_LITTLE`` more; ``is_full_for_all`` processes, or for some."""

    folder: Path
    is_full_for_all: bool

    def hold(self, pid: int) -> None:
        """That process meets the limit too, if it is one of processes."""

    def give_room(self) -> None: ...


class Disk:
    """One that is as large as it is for all processes."""

    is_full_for_all = True

    def __init__(self, folder: Path, give_room: Callable[[], None]) -> None:
        self.folder = folder
        self.give_room = give_room

    def hold(self, pid: int) -> None:
        """It does."""


class Limit:
    """Processes that may not write files larger than that."""

    is_full_for_all = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bytes = _LITTLE
        self._pids: list[int] = []

    def hold(self, pid: int) -> None:
        self._pids.append(pid)
        _limit(pid, self._bytes)

    def give_room(self) -> None:
        self._bytes = resource.RLIM_INFINITY
        for pid in self._pids:
            _limit(pid, self._bytes)


def _limit(pid: int, size_bytes: int) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))
    except ProcessLookupError:
        pass  # it has ended meanwhile


@contextmanager
def tmpfs(folder: Path) -> Iterator[Place]:
    place = _made(folder / "tmpfs")
    with mounted("none", place, "tmpfs", f"size={_LITTLE}"):
        yield Disk(place, lambda: mounts.remount(place, f"size={_ENOUGH}"))


@contextmanager
def ext4(folder: Path) -> Iterator[Place]:
    place, image = _made(folder / "ext4"), folder / "image"
    with image.open("wb") as file:
        file.truncate(_ENOUGH)
    make_ext4(image, "-m", "0")
    with looped(image) as device, mounted(device, place, "ext4"):
        ballast = place / "ballast"
        found = os.statvfs(place)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - _LITTLE)
        yield Disk(place, ballast.unlink)


@contextmanager
def limit(folder: Path) -> Iterator[Place]:
    yield Limit(_made(folder / "limited"))


PLACES: Final = (tmpfs, ext4, limit)


def fill(path: Path) -> None:
    """With a file that leaves no block to others."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
