"""A real ext4 on a disk that is recorded."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tests.system.torture.disks import mounts
from tests.system.torture.disks.mounts import looped, mounted
from tests.system.torture.disks.recorder import Recorder, recording

if TYPE_CHECKING:
    from collections.abc import Iterator

MKFS: Final = "mkfs.ext4"
# Everything is written now, not by the kernel in its own time.
_EAGER: Final = ("-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard")


class RecordedExt4(msgspec.Struct, frozen=True):
    """Mounted at ``place`` while ``mounted``."""

    place: Path
    device: str
    recorder: Recorder
    options: str

    @contextmanager
    def mounted(self) -> Iterator[None]:
        with mounted(self.device, self.place, "ext4", self.options):
            mounts.sync(self.place)
            yield


def make_ext4(device: str | Path, *options: str) -> None:
    """On a block device or a file."""
    made = mounts.program(MKFS)
    assert made is not None
    subprocess.run([made, "-q", "-F", *options, device], check=True)


@contextmanager
def recorded_ext4(
    folder: Path, size: int, *, block: int = 4096, options: str = ""
) -> Iterator[RecordedExt4]:
    """A new one; it needs a mount namespace of its own."""
    place = folder / "mounted"
    place.mkdir(exist_ok=True)
    with recording(folder / "disk", size) as recorder, looped(recorder.path) as device:
        make_ext4(device, *_EAGER, "-b", str(block))
        yield RecordedExt4(place, device, recorder, options)
