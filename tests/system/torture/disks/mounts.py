"""File systems and loop devices, in a mount namespace of their own: what is mounted there is gone
with its last process, whatever ended that, and nobody else ever sees it.

System calls rather than `mount` and `losetup`: a tenth of the time, and nothing is left behind by
one that failed half-way.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import struct
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_libc: Final = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS: Final = 0x20000
_MS_REMOUNT: Final = 0x20
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_PR_SET_PDEATHSIG: Final = 1
# linux/loop.h: struct loop_config, of which all but four fields stay 0.
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LO_FLAGS_AUTOCLEAR: Final = 4
_CONFIG: Final = struct.Struct("=II 5Q 3I I 64s 64s 32s 2Q 8Q")
SECTOR: Final = 512
_BUSY_S: Final = 10.0


def hindrance(*programs: str) -> str | None:
    """Why nothing can be mounted from an image here, or which of the programs is missing."""
    if os.geteuid():
        return "needs root, to mount file systems"
    for device in ("/dev/loop-control", "/dev/fuse"):
        try:
            os.close(os.open(device, os.O_RDWR))
        except OSError as fault:
            return f"needs {device}: {fault.strerror}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child needs no other thread
        child = os.fork()
    if not child:
        try:
            own_namespace()
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        return "needs a mount namespace of its own, which is not allowed here"
    missing = [name for name in programs if program(name) is None]
    return f"needs {', '.join(missing)}" if missing else None


def program(name: str) -> str | None:
    """Where it is; those of root are not on everybody's path."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def own_namespace() -> None:
    """From now on nobody else sees what this process and its children mount."""
    _check(_libc.unshare(_CLONE_NEWNS))
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))


def die_with_parent() -> None:
    """From now on this process is killed when the thread that forked it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))


@contextmanager
def mounted(source: str, target: Path, kind: str, options: str = "") -> Iterator[Path]:
    """Unmounted at the end, at once where nobody uses it any more, else when nobody does."""
    mount(source, target, kind, options)
    try:
        yield target
    finally:
        unmount(target)


def mount(source: str, target: Path, kind: str, options: str = "") -> None:
    """Raises OSError."""
    _mount(source, target, kind, 0, options)


def remount(target: Path, options: str) -> None:
    """Raises OSError."""
    _mount("none", target, "none", _MS_REMOUNT, options)


def unmount(target: Path) -> None:
    """What is dirty is written when this returns, unless somebody still uses it."""
    if _libc.umount2(bytes(target), 0):
        _check(_libc.umount2(bytes(target), 2))  # MNT_DETACH


def sync(target: Path) -> None:
    """Writes what is dirty in that file system alone."""
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syncfs(descriptor))
    finally:
        os.close(descriptor)


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    _check(
        _libc.mount(source.encode(), bytes(target), kind.encode(), flags, options.encode()), target
    )


@contextmanager
def looped(image: Path) -> Iterator[str]:
    """The file as a block device, while it is held or mounted."""
    descriptor, name = _loop(image)
    try:
        yield name
    finally:
        os.close(descriptor)


def _loop(image: Path) -> tuple[int, str]:
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    config = _CONFIG.pack(
        backing, SECTOR, *[0] * 8, _LO_FLAGS_AUTOCLEAR, b"meterd-torture", b"", b"", *[0] * 10
    )
    deadline = time.monotonic() + _BUSY_S
    try:
        while True:
            name = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as fault:
                os.close(device)
                # Somebody else was faster, or the last one is still being let go.
                if fault.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
            else:
                return device, name
    finally:
        os.close(control)
        os.close(backing)


def _check(result: int, what: object = None) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), None if what is None else str(what))
