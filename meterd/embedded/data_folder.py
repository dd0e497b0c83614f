"""The data folder as the file system has it: made, held by one process, its entries on disk, closed
to others.

A file that is synced is still lost with the entry that names it: each folder on the way to the
store is synced too. All of them and at every start, because a process that was killed between
making an entry and syncing it leaves no sign of that. Nothing here knows LMDB.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import stat
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meterd.domain.errors import StoreError, StoreGoneError

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long a start waits for who reads the store beside it: a supervisor repeats it.
READERS_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.05


# Instead of a process id: what has the folder takes no signals.
_COMMAND: Final = b"a command\n"
# What becomes of a data folder is made in there first; whoever holds the folder knows that nobody
# else is at it.
RESTORING: Final = "restore.new"
COMPACTING: Final = "compact.new"
_REMEDIES: Final = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or raise the quota of the user",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}


def said_of(fault: OSError) -> str:
    """What a call failed for and, where that is want of room, what to do about it."""
    remedy = _REMEDIES.get(fault.errno or 0)
    said = fault.strerror or str(fault)
    return f"{said}: {remedy}" if remedy else said


def make(folder: Path) -> None:
    """Makes it and what is missing above it, all of it closed to others."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def clear(folder: Path) -> None:
    """Takes away what a killed command left there, which nobody needs. The folder is held.

    Raises StoreError where a restore was cut short: an empty store would hide that.
    """
    shutil.rmtree(folder / COMPACTING, ignore_errors=True)
    if (folder / "store").exists():
        with suppress(OSError):  # it is empty when the store has come to its place
            (folder / RESTORING).rmdir()
    elif (folder / RESTORING).exists():
        raise StoreError(
            f"{folder} holds a restore that was cut short: run meterd restore again, or remove"
            f" {folder / RESTORING} to begin with an empty store"
        )


def no_store(folder: Path) -> StoreError:
    """Where its data file is not there."""
    if not folder.exists():
        return StoreError(f"there is no folder {folder.absolute()}")
    return StoreError(f"there is no store in {folder}")


def hold(
    folder: Path,
    *,
    takes_signals: bool = True,
    advice: str = "stop it, or set another storage.path",
) -> int:
    """Makes the folder where it is missing, and takes it: until the descriptor is let go of.

    Raises StoreError, with the advice, where another process holds it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        give_to_owner(folder, folder / "lock")
        # For people: kill -HUP $(cat meterd-data/lock). Over what stands there: emptied first, it
        # would say that all is well where the disk has no room for more.
        name = b"%d\n" % os.getpid() if takes_signals else _COMMAND
        os.pwrite(descriptor, name, 0)
        os.ftruncate(descriptor, len(name))
    except BlockingIOError as fault:
        os.close(descriptor)
        raise StoreError(f"{_held_by_another(folder)}{advice}") from fault
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _held_by_another(folder: Path) -> str:
    who = ""
    with suppress(StoreError, OSError):  # nobody can tell who it is
        who = f" (process {holder(folder)})"
    return f"another meterd has {folder} open{who}: "


def holder(folder: Path) -> int:
    """The process id of the daemon that has the folder, and of no other process that came to have
    the same. Raises StoreError where there is none, or where it cannot be told.
    """
    lock = folder / "lock"
    try:
        text = lock.read_text()
        if text.strip().isdecimal() and _has_open(int(text), lock):
            return int(text)
    except FileNotFoundError:
        pass
    except PermissionError as fault:
        raise StoreError(
            f"who has {folder} cannot be told: run this as the user that meterd runs as"
        ) from fault
    raise StoreError(f"no meterd runs on {folder.absolute()}, as far as can be seen from here")


def _has_open(pid: int, lock: Path) -> bool:
    if sys.platform != "linux":
        return _is_locked(lock)
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile, or is no file
            if entry.samefile(lock):
                return True
    return False


def _is_locked(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def is_let_go(folder: Path) -> bool:
    """Whether whoever had it last ended orderly; to be asked before it is held."""
    try:
        return (folder / "lock").stat().st_size == 0
    except FileNotFoundError:
        return True


def let_go(descriptor: int) -> None:
    """Another process may have the folder now."""
    # It would name a process that may be anything by then. On a broken disk it stays: that must
    # not hide what the process ends for.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def allocate(path: Path, size: int) -> None:
    """Makes the file if need be, at least that long, and with room on the disk for all of it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if sys.platform != "darwin":
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


@contextmanager
def held(folder: Path, advice: str = "stop it first") -> Iterator[None]:
    """Nobody else has the folder meanwhile; made and refused as by ``hold``.

    How the last process that wrote to it ended can be seen afterwards too.
    """
    was_let_go = is_let_go(folder)
    descriptor = hold(folder, takes_signals=False, advice=advice)
    try:
        yield
    finally:
        if was_let_go:
            let_go(descriptor)
        else:
            os.close(descriptor)


def give_to_owner(folder: Path, *paths: Path) -> None:
    """What root's command line made in a folder is its owner's, so that the daemon can use it."""
    if os.geteuid() == 0:
        owner = folder.stat()
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def share(descriptor: int) -> None:
    """Until it is closed, the store's data file may be mapped by this process."""
    with suppress(OSError):  # where there are no locks, no daemon has its folder
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def identity(file: Path) -> tuple[int, int]:
    """What tells this file from every other that may come to stand in its place."""
    found = file.stat()
    return found.st_dev, found.st_ino


@contextmanager
def in_place(file: Path, opened: tuple[int, int]) -> Iterator[None]:
    """Raises StoreGoneError unless the file that was opened stands there at the end of this."""
    yield
    try:
        found: tuple[int, int] | None = identity(file)
    except (FileNotFoundError, NotADirectoryError):
        found = None
    except OSError:  # nobody can tell, and what is open is written to
        found = opened
    if found != opened:
        what = "is gone" if found is None else "is another file than meterd has open"
        raise StoreGoneError(f"{file} {what}")


def believe_disk(path: Path) -> None:
    """Makes the kernel forget what it has of the file in memory: what is read from now on is on
    the disk. Raises StoreError where others go on reading it, of whom the kernel forgets nothing.

    Of a write that failed the kernel keeps the bytes, and takes them for written. Worse, ext4 takes
    the place where they were to go for one that was written to: later writes to it reach the disk,
    and are read as zeros when the memory is gone.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _wait_for_readers(descriptor, path)
        with suppress(OSError):  # what cannot be written is as if the power had been lost
            os.fsync(descriptor)
        if sys.platform != "darwin":
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _wait_for_readers(descriptor: int, path: Path) -> None:
    """Nobody shares the file from now on, until it is closed."""
    until = time.monotonic() + READERS_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            if time.monotonic() >= until:
                raise StoreError(
                    f"{path} is still read by {_readers_of(descriptor)}, and behind a crash it must"
                    " first be read from the disk anew: end that, or start meterd when it is done"
                ) from fault
        else:
            return
        time.sleep(_RETRY_SECONDS)


def _readers_of(descriptor: int) -> str:
    """For people, who want to know what to end: meterd verify or backup, and its process id."""
    inode = f":{os.fstat(descriptor).st_ino} "
    found = []
    with suppress(OSError):  # there is no such file where there is no Linux
        locks = Path("/proc/locks").read_text().splitlines()
        found = [line.split()[4] for line in locks if " FLOCK " in line and inode in line]
    who = f" (process {', '.join(found)})" if found else ""
    return f"a meterd verify or backup{who}"


def sync(path: Path) -> None:
    """A file's bytes, or a folder's entries, are on disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_entries(place: Path) -> None:
    """All the entries that lead to this place are on disk when this returns."""
    folder, *above = place.resolve().parents
    sync(folder)
    for each in above:
        try:
            sync(each)
        except OSError as fault:
            # Who may not read a folder has made nothing in it; some file systems sync no folders.
            if fault.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL):
                raise


def close_to_others(place: Path) -> None:
    """Takes everybody else's rights to the store and its files; copies may have come with some.

    The folder around it is whatever the operator chose: only what meterd made is its own.
    """
    for path in (place.parent / "lock", place, *place.glob("*.mdb")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            with suppress(PermissionError):  # another's file, that we were given rights to
                path.chmod(mode & 0o700)


def room_bytes(file: Path) -> int:
    """By how much the file may still grow."""
    free = free_bytes(file)
    size_max, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size_max == resource.RLIM_INFINITY:
        return free
    return min(free, size_max - file.stat().st_size)


def free_bytes(file: Path) -> int:
    """How much its disk has."""
    return shutil.disk_usage(file.parent).free
