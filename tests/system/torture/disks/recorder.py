"""A disk that notes what it is told: every write, and every flush, in their order.

A file system of one file (FUSE, spoken directly: linux/fuse.h) in a process of its own; a loop
device over that file is a disk, whose writes arrive here as writes and whose flushes as fsync. It
can also be told to fail.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import struct
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from tests.system.torture.disks.mounts import mount, own_namespace, unmount

if TYPE_CHECKING:
    from collections.abc import Iterator

_IN: Final = struct.Struct("=IIQQIIIHH")
_OUT: Final = struct.Struct("=IiQ")
_ATTR: Final = struct.Struct("=6Q10I")
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHII6I")
_READ_IN: Final = struct.Struct("=QQIIQII")  # and of a write
_MAX_PAGES: Final = 256
# Whole writes, not page by page: of a write that fails in the middle the loop device says that it
# succeeded, which no disk does.
_FLAGS: Final = 1 << 5 | 1 << 22  # FUSE_BIG_WRITES, FUSE_MAX_PAGES
_MAX_WRITE: Final = _MAX_PAGES * 4096
_CACHED_S: Final = 3600
_ROOT: Final = 1

_GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS = 3, 4, 14, 15, 16, 17
_RELEASE, _FSYNC, _FLUSH, _INIT, _DESTROY = 18, 20, 25, 26, 38
_UNANSWERED: Final = frozenset({2, 36, 42})  # FORGET, INTERRUPT, BATCH_FORGET
_EMPTY: Final = frozenset({_RELEASE, _FLUSH, _DESTROY})


class Kind(Enum):
    WRITE = "write"
    FLUSH = "flush"
    MARK = "mark"


class Operation(msgspec.Struct, frozen=True, gc=False):
    """``data`` is what was written at ``offset``, or what was marked."""

    kind: Kind
    offset: int = 0
    data: bytes = b""


class _Order(msgspec.Struct, frozen=True):
    """What the recorder is told beside the disk's own requests."""

    mark: bytes | None = None
    failures: int | None = None
    after: int = 0
    save_to: str | None = None


class Recorder:
    """The recorder's end of the one who uses the disk."""

    def __init__(self, path: Path, control: socket.socket) -> None:
        self.path = path
        self._control = control

    def mark(self, mark: bytes) -> None:
        """Notes it behind everything that the disk has answered."""
        self._tell(_Order(mark=mark))

    def fail(self, requests: int, *, after: int = 0) -> int:
        """Writes and flushes, so many, fail with EIO, when so many others have been done.

        Returns how many have failed so far. No more fail with 0.
        """
        return self._tell(_Order(failures=requests, after=after))

    def operations(self, folder: Path) -> list[Operation]:
        """Everything so far."""
        path = folder / "operations"
        self._tell(_Order(save_to=str(path)))
        recorded = msgspec.msgpack.decode(path.read_bytes(), type=list[Operation])
        path.unlink()
        return recorded

    def _tell(self, order: _Order) -> int:
        self._control.send(msgspec.msgpack.encode(order))
        failed = self._control.recv(16)
        assert failed, "the recorder has ended"
        return int(failed)


@contextmanager
def recording(path: Path, size: int) -> Iterator[Recorder]:
    """An empty disk of that size at ``path``; needs a mount namespace of its own."""
    path.touch()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mount(
        "meterd-recorder",
        path,
        "fuse",
        f"fd={device},rootmode={stat.S_IFREG:o},user_id=0,group_id=0,allow_other",
    )
    server = os.fork()
    if not server:
        ours.close()
        _serve(path, device, theirs, size)
    os.close(device)
    theirs.close()
    try:
        yield Recorder(path, ours)
    finally:
        unmount(path)
        ours.close()
        os.waitpid(server, 0)


def _serve(path: Path, device: int, control: socket.socket, size: int) -> NoReturn:
    """Ends when nothing is mounted from the disk any more, and not before, whatever happens to
    those who use it: whoever unmounts would wait for ever for a write that nobody takes.
    """
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # Nor may this process hold what is mounted: it would be the one who waits.
        own_namespace()
        unmount(path)
        _Disk(device, control, size).run()
        code = 0
    finally:
        os._exit(code)


class _Disk:
    def __init__(self, device: int, control: socket.socket, size: int) -> None:
        self._device = device
        self._control = control
        self._size = size
        self._content = bytearray(size)
        self._operations: list[Operation] = []
        self._failures = self._after = self._failed = 0

    def run(self) -> None:
        """Until it is unmounted, or nobody can give orders any more."""
        polled = select.poll()
        polled.register(self._device, select.POLLIN)
        polled.register(self._control, select.POLLIN)
        while True:
            for descriptor, _ in polled.poll():
                if descriptor == self._device:
                    if not self._take_request():
                        return
                elif not self._take_order():
                    polled.unregister(self._control)

    def _take_order(self) -> bool:
        received = self._control.recv(1 << 16)
        if not received:
            return False
        order = msgspec.msgpack.decode(received, type=_Order)
        if order.mark is not None:
            self._operations.append(Operation(Kind.MARK, 0, order.mark))
        if order.failures is not None:
            self._failures, self._after = order.failures, order.after
        if order.save_to is not None:
            Path(order.save_to).write_bytes(msgspec.msgpack.encode(self._operations))
        self._control.send(b"%d" % self._failed)
        return True

    def _take_request(self) -> bool:
        try:
            request = os.read(self._device, _MAX_WRITE + 4096)
        except OSError as fault:
            if fault.errno == errno.ENODEV:
                return False
            if fault.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                return True
            raise
        _, operation, unique, *_ = _IN.unpack_from(request)
        if operation not in _UNANSWERED:
            try:
                answer, error = self._answer(operation, request[_IN.size :]), 0
            except OSError as fault:
                answer, error = b"", fault.errno or errno.EIO
            os.write(self._device, _OUT.pack(_OUT.size + len(answer), -error, unique) + answer)
        return int(operation) != _DESTROY

    def _answer(self, operation: int, body: bytes) -> bytes:
        if operation == _READ:
            _, offset, size, *_ = _READ_IN.unpack_from(body)
            return bytes(self._content[offset : offset + size])
        if operation == _WRITE:
            _, offset, size, *_ = _READ_IN.unpack_from(body)
            self._fail_if_told()
            data = body[_READ_IN.size : _READ_IN.size + size]
            self._content[offset : offset + size] = data
            self._operations.append(Operation(Kind.WRITE, offset, data))
            return struct.pack("=II", size, 0)
        if operation == _FSYNC:
            self._fail_if_told()
            self._operations.append(Operation(Kind.FLUSH))
            return b""
        if operation in (_GETATTR, _SETATTR):
            return struct.pack("=QII", _CACHED_S, 0, 0) + self._attributes()
        if operation == _OPEN:
            return struct.pack("=QIi", 0, 0, 0)
        if operation == _STATFS:
            return struct.pack("=5Q4I6I", *[0] * 5, 4096, 255, 4096, 0, *[0] * 6)
        if operation == _INIT:
            return _INIT_OUT.pack(
                7, 31, 0, _FLAGS, 16, 12, _MAX_WRITE, 1, _MAX_PAGES, 0, 0, 0, *[0] * 6
            )
        if operation in _EMPTY:
            return b""
        raise OSError(errno.ENOSYS, "not a disk's business")

    def _fail_if_told(self) -> None:
        if self._failures and self._after:
            self._after -= 1
        elif self._failures:
            self._failures -= 1
            self._failed += 1
            raise OSError(errno.EIO, "told to fail")

    def _attributes(self) -> bytes:
        mode = stat.S_IFREG | 0o600
        blocks = self._size // 512
        return _ATTR.pack(_ROOT, self._size, blocks, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)
