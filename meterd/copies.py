"""Data folders as copies of others: backups, what is restored from one, what was made compact.

A copy is made beside its place, synced, checked as a whole, and only then renamed into it: what
stands in a place is whole, whenever the machine goes off. Nobody but the owner may read it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.errors import StoreError
from meterd.embedded.data_folder import give_to_owner, held, sync
from meterd.embedded.differences import Checking
from meterd.embedded.pages import DamagedError
from meterd.embedded.snapshot import open_snapshot, size_bytes
from meterd.embedded.verification import verify
from meterd.keyfile import KEY_FILE, read_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# For the key file and the folders.
_ROOM_BYTES: Final = 1 << 20
_SHOWN_MAX: Final = 5
_RESTORING: Final = "restore.new"
_COMPACTING: Final = "compact.new"


class Copied(msgspec.Struct, frozen=True):
    """A copy that was checked: its size, that of what it was made from, and what is in it."""

    folder: str
    bytes: int
    bytes_before: int
    checked: dict[str, int]


def backup(data: Path, to: Path, progress: Callable[[str, int, int], None]) -> Copied:
    """Copies the store and the key file as they are now, also while a daemon has them open.

    Raises StoreError, with nothing left in ``to``.
    """
    _require_empty(to, ())
    try:
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _beside(to) as part:
            copied = _copy(data, part, progress, "the store that was copied is damaged")
            part.rename(to)
            sync(to.parent)
    except OSError as fault:
        raise StoreError(f"{to}: cannot be written: {fault.strerror}") from fault
    return msgspec.structs.replace(copied, folder=str(to))


def restore(saved: Path, data: Path, progress: Callable[[str, int, int], None]) -> Copied:
    """Puts what a backup holds into the data folder, which is empty or not there.

    Raises StoreError: where a daemon runs on it, something is in it, or the backup is damaged.
    """
    try:
        if not data.is_dir():
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync(data.parent)
        with held(data):
            part = data / _RESTORING
            unfinished = (KEY_FILE, _RESTORING) if part.is_dir() else ()
            _require_empty(data, ("lock", "keys.lock", *unfinished))
            _require_clean(saved, Checking(progress), f"{saved} is damaged")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=0o700)
            copied = _copy(saved, part, progress, f"what was copied from {saved} is damaged")
            # The store comes last: with it, the folder is restored.
            for name in (KEY_FILE, "store"):
                if (part / name).exists():
                    give_to_owner(data, part / name, *(part / name).glob("*"))
                    (part / name).rename(data / name)
                    sync(data)
            part.rmdir()
            sync(data)
    except OSError as fault:
        raise StoreError(f"{data}: cannot be restored: {fault.strerror}") from fault
    return msgspec.structs.replace(copied, folder=str(data))


def compact(data: Path, progress: Callable[[str, int, int], None]) -> Copied:
    """Writes the store anew without its free pages, while no daemon has it open.

    Raises StoreError, with the store as it was.
    """
    place = data / "store"
    if not (place / "data.mdb").exists():
        raise StoreError(f"there is no store in {data}")
    try:
        with held(data):
            part = data / _COMPACTING
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=0o700)
            try:
                copied = _copy(data, part, progress, f"the store in {data} is damaged")
                give_to_owner(data, part / "store" / "data.mdb")
                # The lock file says which transaction was the last, and the copy counts from 1.
                # Whoever still reads the old file has the old lock file too.
                (place / "lock.mdb").unlink(missing_ok=True)
                (part / "store" / "data.mdb").rename(place / "data.mdb")
                sync(place)
                (place / "lock.mdb").unlink(missing_ok=True)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as fault:
        raise StoreError(f"{data}: cannot be made compact: {fault.strerror}") from fault
    return msgspec.structs.replace(copied, folder=str(data))


@contextmanager
def _beside(to: Path) -> Iterator[Path]:
    """An empty folder beside the place, that nobody else fills; gone if it is left there."""
    part = to.with_name(f"{to.name}.new")
    part.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise StoreError(f"another backup to {to} is being made") from fault
        for path in part.iterdir():  # what a killed one left
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            yield part
        finally:
            # Not if it was renamed.
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(descriptor)


def _copy(
    data: Path, part: Path, progress: Callable[[str, int, int], None], damaged: str
) -> Copied:
    """Fills the folder, which is on disk and was checked when this returns."""
    place = part / "store"
    place.mkdir(mode=0o700)
    before = (data / "store" / "data.mdb").stat().st_size if data.is_dir() else 0
    try:
        with open_snapshot(data) as snapshot:
            snapshot.meta()
            wanted = size_bytes(snapshot.transaction())
            free = shutil.disk_usage(part).free
            if free < wanted + _ROOM_BYTES:
                raise StoreError(
                    f"{part.parent}: has {free >> 20} MB free, and the copy takes"
                    f" {(wanted >> 20) + 1} MB: make room, or name another folder"
                )
            snapshot.copy_to(
                place / "data.mdb", lambda done: progress("copy", min(done, wanted), wanted)
            )
    except DamagedError as fault:
        raise StoreError(f"{damaged}: {fault}") from fault
    _copy_keys(data, part)
    sync(part)
    checking = Checking(progress)
    _require_clean(part, checking, damaged)
    size = (place / "data.mdb").stat().st_size
    return Copied("", size, before, dict(checking.counts))


def _copy_keys(data: Path, part: Path) -> None:
    path = data / KEY_FILE
    if not path.exists():
        return
    read_keys(data)  # raises where it is damaged
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(part / KEY_FILE, flags, 0o600)
    try:
        os.write(descriptor, path.read_bytes())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_clean(folder: Path, checking: Checking, what: str) -> None:
    found = verify(folder, checking)
    shown = [difference.line() for difference in islice(found, _SHOWN_MAX)]
    if shown:
        more = any(True for _ in found)
        lines = [f"{what}:", *shown, *(["and more: meterd verify lists them"] if more else [])]
        raise StoreError("\n".join(lines))


def _require_empty(folder: Path, but: tuple[str, ...]) -> None:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is not a folder")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if others := [name for name in names if name not in but]:
        raise StoreError(
            f"{folder} is not empty, it has {', '.join(others[:_SHOWN_MAX])}:"
            " move that away, or name another folder"
        )
