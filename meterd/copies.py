"""Data folders as copies of others: backups, what is restored from one, what was made compact.

A copy is made beside its place, or in a folder of its own within it, synced, checked as a whole,
and only then renamed: a store that stands in its place is whole, whenever the machine goes off.
Nobody but the owner may read it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.errors import StoreError
from meterd.embedded.data_folder import (
    COMPACTING,
    RESTORING,
    give_to_owner,
    held,
    make,
    no_store,
    said_of,
    sync,
    sync_entries,
)
from meterd.embedded.differences import Checking
from meterd.embedded.pages import DamagedError
from meterd.embedded.snapshot import open_snapshot
from meterd.embedded.verification import verify
from meterd.keyfile import KEY_FILE, read_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# For the key file and the folders.
_ROOM_BYTES: Final = 1 << 20
_SHOWN_MAX: Final = 5
_NEW: Final = ".new"
_BACKING_UP: Final = "backup.new"
_LOST_AND_FOUND: Final = "lost+found"  # is in every new ext4
_STOP_IT: Final = "stop it and move the folder away, or name another with --to"
_DAMAGED_SOURCE: Final = "the store that was copied is damaged, restore an earlier backup"


class Copied(msgspec.Struct, frozen=True):
    """A copy that was checked: its size, that of what it was made from, and what is in it.

    ``format`` is that of the store: of an earlier one only pages and checksums were checked.
    ``left`` are folders beside the copy that other, killed backups have left.
    """

    folder: str
    bytes: int
    bytes_before: int
    checked: dict[str, int]
    format: int
    left: tuple[str, ...] = ()


def backup(data: Path, to: Path, progress: Callable[[str, int, int], None]) -> Copied:
    """Copies the store and the key file as they are now, also while a daemon has them open.

    Raises StoreError, with nothing left in ``to``.
    """
    # Where a link leads; and "." has a name then.
    place = Path(os.path.realpath(to))
    _require_store(data)
    _require_place(place, data, to)
    _require_empty(place, _unfinished(place, _BACKING_UP), to)
    try:
        if place.is_dir():
            # It may be a mount point, or of somebody whose folder above it is not: filled from
            # within, which needs no right to put another one there.
            with _filled(place / _BACKING_UP) as part:
                copied = _copy(data, part, progress, _DAMAGED_SOURCE)
                _move(part, place)
        else:
            with _filled(place.with_name(place.name + _NEW)) as part:
                copied = _copy(data, part, progress, _DAMAGED_SOURCE)
                part.rename(place)
        sync_entries(place)
    except OSError as fault:
        raise StoreError(f"{to}: cannot be written: {said_of(fault)}") from fault
    left = tuple(map(str, _left_beside(place)))
    return msgspec.structs.replace(copied, folder=str(to), left=left)


def restore(saved: Path, data: Path, progress: Callable[[str, int, int], None]) -> Copied:
    """Puts what a backup holds into the data folder, which is empty or not there.

    Raises StoreError: where a daemon runs on it, something is in it, or the backup is damaged; then
    nothing was made.
    """
    part = data / RESTORING
    with ExitStack() as holding:
        try:
            was_there = (data / "lock").exists()
            if was_there:  # else one would be made, which a refusal must not leave
                holding.enter_context(held(data, _STOP_IT))
            _require_restorable(data)
            _require_clean(saved, Checking(progress), f"{saved} is damaged")
            read_keys(saved)  # raises where the file is damaged
            if not was_there:
                make(data)
                holding.enter_context(held(data, _STOP_IT))
                _require_restorable(data)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=0o700)
            holding.callback(shutil.rmtree, part, ignore_errors=True)
            copied = _copy(saved, part, progress, f"what was copied from {saved} is damaged")
            for path in part.rglob("*"):
                give_to_owner(data, path)
            _move(part, data)
            sync_entries(data)
        except OSError as fault:
            raise StoreError(f"{data}: cannot be restored: {said_of(fault)}") from fault
    return msgspec.structs.replace(copied, folder=str(data))


def compact(data: Path, progress: Callable[[str, int, int], None]) -> Copied:
    """Writes the store anew without its free pages, while no daemon has it open.

    Raises StoreError, with the store as it was.
    """
    place = data / "store"
    _require_store(data)
    try:
        with held(data):
            part = data / COMPACTING
            shutil.rmtree(part, ignore_errors=True)
            with _filled(part):
                damaged = f"the store in {data} is damaged, restore a backup"
                copied = _copy(data, part, progress, damaged)
                give_to_owner(data, part / "store" / "data.mdb")
                # The lock file says which transaction was the last, and the copy counts from 1.
                # Whoever still reads the old file has the old lock file too.
                (place / "lock.mdb").unlink(missing_ok=True)
                (part / "store" / "data.mdb").rename(place / "data.mdb")
                sync(place)
                (place / "lock.mdb").unlink(missing_ok=True)
    except OSError as fault:
        raise StoreError(f"{data}: cannot be made compact: {said_of(fault)}") from fault
    return msgspec.structs.replace(copied, folder=str(data))


@contextmanager
def _filled(part: Path) -> Iterator[Path]:
    """An empty folder that nobody else fills; gone if it is left there."""
    part.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _is_taken(descriptor):
            raise StoreError(f"another meterd is making {part}")
        for path in part.iterdir():  # what a killed one left
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            yield part
        finally:
            # Not if it was renamed.
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(descriptor)


def _is_taken(descriptor: int) -> bool:
    """Whether nobody else had it: it is this process's until the descriptor is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _left_beside(place: Path) -> Iterator[Path]:
    """Folders that look like those of killed backups; only people know whether they are."""
    for path in sorted(place.parent.glob(f"*{_NEW}")):
        with suppress(OSError):  # another's, or gone meanwhile: the copy is made all the same
            if _looks_left(path):
                yield path


def _looks_left(path: Path) -> bool:
    names = {each.name for each in path.iterdir()} if path.is_dir() else set()
    if "store" not in names or not names <= {"store", KEY_FILE}:
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _is_taken(descriptor)
    finally:
        os.close(descriptor)


def _move(part: Path, to: Path) -> None:
    """The store comes last: with it, the folder is whole. Until then, a failure leaves nothing."""
    try:
        for name in (KEY_FILE, "store"):
            if (part / name).exists():
                (part / name).rename(to / name)
                sync(to)
        part.rmdir()
        sync(to)
    except BaseException:
        if (part / "store").exists() and (to / KEY_FILE).exists():
            (to / KEY_FILE).rename(part / KEY_FILE)
        raise


def _copy(
    data: Path, part: Path, progress: Callable[[str, int, int], None], damaged: str
) -> Copied:
    """Fills the folder, which is on disk and was checked when this returns."""
    place = part / "store"
    place.mkdir(mode=0o700)
    _copy_keys(data, part)
    try:
        with open_snapshot(data) as snapshot:
            wanted = snapshot.check_pages()
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
    before = (data / "store" / "data.mdb").stat().st_size
    sync(part)
    checking = Checking(progress)
    _require_clean(part, checking, damaged)
    size = (place / "data.mdb").stat().st_size
    return Copied("", size, before, dict(checking.counts), checking.store_format)


def _copy_keys(data: Path, part: Path) -> None:
    path, to = data / KEY_FILE, part / KEY_FILE
    if not path.exists():
        return
    read_keys(data)  # raises where it is damaged
    content = path.read_bytes()
    descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    if to.read_bytes() != content:
        raise StoreError(f"{to} is not what was written to it")


def _require_clean(folder: Path, checking: Checking, what: str) -> None:
    found = verify(folder, checking)
    shown = [difference.line() for difference in islice(found, _SHOWN_MAX)]
    if shown:
        more = any(True for _ in found)
        lines = [f"{what}:", *shown, *(["and more: meterd verify lists them"] if more else [])]
        raise StoreError("\n".join(lines))


def _require_store(data: Path) -> None:
    """Before anything is made for its copy."""
    if not (data / "store" / "data.mdb").exists():
        raise no_store(data)


def _require_place(place: Path, data: Path, name: Path) -> None:
    """Folders above it are not made: in place of a disk that is not mounted they would fill what it
    is to be mounted on.
    """
    if place.is_relative_to(os.path.realpath(data)):
        raise StoreError(
            f"{name} is within the data folder {data}: name another folder, best on another disk"
        )
    missing = [folder for folder in place.parents if not folder.exists()]
    if missing:
        raise StoreError(
            f"there is no folder {missing[-1]}, and a backup makes only its own: mount what belongs"
            f" there, or mkdir -p {place.parent}"
        )


def _require_restorable(data: Path) -> None:
    for above in Path(os.path.realpath(data)).parents:
        if (above / "store" / "data.mdb").exists():
            raise StoreError(
                f"{data} is within {above}, which is a data folder or a backup: name another folder"
            )
    _require_empty(data, ("lock", "keys.lock", *_unfinished(data, RESTORING)), data)


def _unfinished(folder: Path, part: str) -> tuple[str, ...]:
    """What a killed command may have left of its copy."""
    return (KEY_FILE, part) if (folder / part).is_dir() else ()


def _require_empty(folder: Path, but: tuple[str, ...], name: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{name} is not a folder")
    try:
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    except OSError as fault:
        raise StoreError(f"{name}: cannot be read: {said_of(fault)}") from fault
    own = {*but, _LOST_AND_FOUND} if os.path.ismount(folder) else {*but}
    if others := [each for each in found if each not in own]:
        raise StoreError(
            f"{name} is not empty, it has {', '.join(others[:_SHOWN_MAX])}:"
            " move that away, or name another folder"
        )
