"""The LMDB environment: opening it safely, reading from it, and writing to it in one place.

What must stay true, each with its reason in docs/decisions.md:

- LMDB's own durability settings, asserted from the open environment: with any of them off, a
  crash of the machine loses what was acknowledged.
- A transaction is begun, filled and committed in one function call in one thread.
- Readers are short and never outlive a ``with``: an old one keeps every freed page from being
  used again.
- Every record carries eight bytes of xxh3 over its key and value: LMDB has no checksums.
- The environment is created beside its place and renamed into it, so there is never half of one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import lmdb
import msgspec

from meterd.domain.errors import CommitFailedError, CorruptRecordError, DiskFullError, StoreError
from meterd.embedded import data_folder
from meterd.embedded.file_system import require_local
from meterd.embedded.pages import DamagedError, require_file_end
from meterd.embedded.transaction import TABLES, Transaction, seal, unseal
from meterd.embedded.upgrade import (
    bring_closing_up,
    mark_swept,
    number_deliveries,
    put_queue_in_order,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FORMAT: Final = 10
# Earlier formats that are read, and are of the present one from then on. 3: no idempotency keys;
# 4: deliveries without sequence, in no order of their customer's; 5: some queued out of it;
# 6: no times of events, each type of period closed for itself; 7: no digests;
# 8: a line of digests for each block; 9: indexes that name nothing of what is pruned.
UPGRADED: Final = (3, 4, 5, 6, 7, 8, 9)
_NUMBERED: Final = 5
_IN_ORDER: Final = 6
_CLOSED_TOGETHER: Final = 7
_SWEPT: Final = 10
PARTS: Final = 16
# Address space, not disk: the file grows with what is in it. Doubled when it is full.
MAP_SIZE: Final = 64 << 30
READERS_MAX: Final = 512  # the query threads and the loop need fewer than 50; tools get the rest
_LOCK_BYTES: Final = 10 << 12  # 64 for each reader and what they share
# A write that was cut short for want of room left nothing, or what only others may have.
_ROOM_MIN: Final = 64 << 20
_MEBIBYTE: Final = 1 << 20
LMDB_VERSION: Final = ".".join(map(str, lmdb.version()))
_META_PAGES: Final = 2
_FULL_CODES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What LMDB calls pages that are not where they should be, or not what they should be.
_DAMAGED: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError)
_UNUSABLE: Final = (lmdb.Error, OSError, CommitFailedError, CorruptRecordError, DiskFullError)
_SAFE_FLAGS: Final = {"sync": True, "metasync": True, "map_async": False, "writemap": False}

T = TypeVar("T")


class Meta(msgspec.Struct, frozen=True):
    """What a store says of itself."""

    format: int
    parts: int
    boots: int


class Space(msgspec.Struct, frozen=True):
    """In bytes: the file; its pages that are free, for what is written next; how large it may be
    before the map grows; by how much it may grow on its disk.
    """

    size: int
    free: int
    map: int
    room: int


decode_meta: Final = msgspec.msgpack.Decoder(Meta).decode


class Store:
    """An open environment; at most one in a process, and one process for each folder."""

    def __init__(self, folder: Path, *, map_size: int = MAP_SIZE) -> None:
        """Opens the store in ``folder``, creating both where they are missing.

        Raises StoreError where another process has it open, its format is not ours, or the folder
        cannot be used. Commits a boot record before it returns, so that a store which cannot be
        written to is found out before anything is served.
        """
        self._pid = os.getpid()
        self._has_failed = False
        self._readers = 0
        self._growing = False
        self._may_read = threading.Condition()
        # LMDB has a lock of its own, but gives it to the next thread before the map has grown.
        self._writing = threading.Lock()
        with ExitStack() as undo:
            try:
                require_local(folder)
                # A write may have failed: whoever is next must know, until the disk was believed.
                self._has_failed = not data_folder.is_let_go(folder)
                undo.callback(self._let_go, data_folder.hold(folder))
                data_folder.clear(folder)
                place = folder / "store"
                self.is_new = _create(place, map_size)
                data_folder.sync_entries(place)
                data_folder.close_to_others(place)
                self._file = place / "data.mdb"
                if self._has_failed:
                    data_folder.believe_disk(self._file)
                    self._has_failed = False
                require_file_end(self._file)
                self._map_size = max(map_size, 2 * self._file.stat().st_size)
                self._env = _open(place, self._map_size)
                self._opened = data_folder.identity(self._file)
                undo.callback(self._env.close)
                _require_known(self._env)
                self._tables = {name: self._env.open_db(name.encode()) for name in TABLES}
                self.meta = self.write(_boot)
            except DamagedError as fault:
                raise StoreError(
                    f"the store in {folder} is damaged, restore a backup: {self._file.name}:"
                    f" {fault}"
                ) from fault
            except _UNUSABLE as fault:
                said = data_folder.said_of(fault) if isinstance(fault, OSError) else fault
                raise StoreError(f"the store in {folder} cannot be opened: {said}") from fault
            self._open = undo.pop_all()

    @property
    def parts(self) -> int:
        return self.meta.parts

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs the work in one transaction and returns when it is on disk.

        A full map is grown and the whole work run again, so it must not change anything but the
        transaction. Raises DiskFullError where there is no room: nothing is stored then, and the
        same work may be run again. Raises CommitFailedError for every other failure, StoreGoneError
        among them: what a failed commit left on disk is unknown while this process lives.
        """
        self._require_own_process()
        with self._writing:
            return self._write(work)

    def _write(self, work: Callable[[Transaction], T]) -> T:
        while True:
            try:
                _errno().value = 0
                in_place = data_folder.in_place(self._file, self._opened)
                with in_place, self._env.begin(write=True) as txn:
                    return work(Transaction(txn, self._tables))
            except lmdb.MapFullError:
                self._grow()
            except (lmdb.Error, OSError) as fault:
                if self._is_for_want_of_room(fault, _errno().value):
                    raise DiskFullError(self._room_wanted(fault)) from fault
                self._has_failed = True
                if isinstance(fault, _DAMAGED):
                    raise CorruptRecordError(f"the store is damaged: {fault}") from fault
                raise CommitFailedError(f"a transaction failed: {fault}") from fault

    def try_out(self, work: Callable[[Transaction], T]) -> T:
        """Runs the work in a transaction that sees what it writes itself and is thrown away then:
        nothing of it reaches the disk. Waits while another thread writes, as that one does for it.
        """
        self._require_own_process()
        with self._writing:
            while True:
                txn = self._env.begin(write=True)
                try:
                    return work(Transaction(txn, self._tables))
                except lmdb.MapFullError:
                    pass
                finally:
                    txn.abort()
                self._grow()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A snapshot to read from; keep it for milliseconds."""
        self._require_own_process()
        with self._may_read:
            self._may_read.wait_for(lambda: not self._growing)
            self._readers += 1
        try:
            with self._env.begin(buffers=False) as txn:
                yield Transaction(txn, self._tables)
        finally:
            with self._may_read:
                self._readers -= 1
                self._may_read.notify_all()

    def size_bytes(self) -> int:
        """The size of the data file."""
        info, stat = self._env.info(), self._env.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    def space(self, txn: Transaction) -> Space:
        """How much room there is, in the file, for it and around it."""
        size, stat = self.size_bytes(), self._env.stat()
        names = stat["branch_pages"] + stat["leaf_pages"]  # the tables' own
        used = _META_PAGES + names + sum(txn.pages(table) for table in TABLES)
        free = max(0, size - used * stat["psize"])  # the file may have grown since the snapshot
        return Space(size, free, self._map_size, data_folder.room_bytes(self._file))

    def forget_dead_readers(self) -> None:
        """What a process beside this one read when it was killed may be written over."""
        self._env.reader_check()

    def close(self) -> None:
        self._open.close()

    def _let_go(self, held: int) -> None:
        """Whoever is next must see how this one ended."""
        if self._has_failed:
            os.close(held)
        else:
            data_folder.let_go(held)

    def _grow(self) -> None:
        # mdb_env_set_mapsize: no transaction of this process may be open. New readers wait, or ever
        # new ones would keep the writer waiting.
        with self._may_read:
            self._growing = True
            try:
                self._may_read.wait_for(lambda: self._readers == 0)
                self._env.set_mapsize(2 * self._map_size)
            except lmdb.Error as fault:
                raise CommitFailedError(f"the store cannot grow: {fault}") from fault
            finally:
                self._growing = False
                self._may_read.notify_all()
            self._map_size *= 2

    def _is_for_want_of_room(self, fault: lmdb.Error | OSError, called: int) -> bool:
        """Whether the transaction failed for want of room only; ``called`` is errno after it.

        It is over then, as if it never was: LMDB writes new pages first, and what says that they
        are valid last, over bytes that are there already. A write of which the disk took a part
        is EIO to LMDB (``mdb_page_flush``): no system call has failed then, as one has when the
        disk is broken.
        """
        code = getattr(fault, "code", None) or getattr(fault, "errno", None)
        if code == errno.EIO:
            is_full = called != errno.EIO and data_folder.room_bytes(self._file) < _ROOM_MIN
        else:
            is_full = code in _FULL_CODES
        return is_full and self._is_usable()

    def _room_wanted(self, fault: lmdb.Error | OSError) -> str:
        room = data_folder.room_bytes(self._file)
        is_limited = room < data_folder.free_bytes(self._file)
        way = "raise the limit of file sizes (ulimit -f)" if is_limited else "make room"
        return (
            f"{self._file} cannot grow ({fault}): {room / _MEBIBYTE:.1f} MiB are left for it;"
            f" {way}, {_ROOM_MIN // _MEBIBYTE} MiB are enough for any transaction"
        )

    def _is_usable(self) -> bool:
        """Once that last write failed, LMDB takes no more: what it wrote may be on disk, or not."""
        try:
            with self._env.begin(write=True):
                return True
        except lmdb.Error:
            return False

    def _require_own_process(self) -> None:
        assert os.getpid() == self._pid, "a store is used behind a fork: LMDB forbids it"


def _create(place: Path, map_size: int) -> bool:
    """Whether there was none."""
    if place.exists():
        return False
    beside = place.with_suffix(".new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(mode=0o700)
    _fill(beside, map_size)
    for path in (beside / "data.mdb", beside):
        data_folder.sync(path)
    beside.rename(place)  # the caller syncs the entry
    return True


def _fill(folder: Path, map_size: int) -> None:
    """A fresh environment."""
    env = _open(folder, map_size)
    with env.begin(write=True) as txn:
        for name in TABLES:
            table = env.open_db(name.encode(), txn)
            if name == "meta":
                fresh = msgspec.msgpack.encode(Meta(FORMAT, PARTS, 0))
                txn.put(b"meta", seal(b"meta", fresh), db=table)
    env.close()


def _open(place: Path, map_size: int) -> lmdb.Environment:
    # LMDB writes to this one through a mapping: where a full disk has no block for that, the
    # process would die of SIGBUS.
    data_folder.allocate(place / "lock.mdb", _LOCK_BYTES)
    env = lmdb.open(
        str(place),
        map_size=map_size,
        max_dbs=len(TABLES) + 4,
        max_readers=READERS_MAX,
        mode=0o600,
        lib_version=0,
    )
    flags = env.flags()
    assert flags.items() >= _SAFE_FLAGS.items(), f"LMDB would not keep what it commits: {flags}"
    env.reader_check()
    return env


def _errno() -> ctypes.c_int:
    """The thread's errno, as the last system call that failed has left it."""
    place: ctypes.c_int = _errno_place().contents
    return place


# Without giving way to other threads, which would do system calls in between.
_libc: Final = ctypes.PyDLL(None)
_errno_place: Final = getattr(_libc, "__errno_location" if sys.platform == "linux" else "__error")
_errno_place.restype = ctypes.POINTER(ctypes.c_int)


def _require_known(env: lmdb.Environment) -> None:
    """Before anything is changed in it."""
    meta = None
    with env.begin() as txn:
        table = env.open_db(b"meta", txn, create=False)
        if found := txn.get(b"meta", db=table):
            meta = decode_meta(unseal("meta", b"meta", bytes(found)))
    if meta is None or meta.format not in (*UPGRADED, FORMAT):
        raise unknown_format(meta.format if meta else None)


def unknown_format(found: int | None) -> StoreError:
    return StoreError(
        f"the store has format {found or 'unknown'}, and this meterd reads {FORMAT}:"
        " use the version of meterd that wrote it"
    )


def _boot(txn: Transaction) -> Meta:
    found = txn.get("meta", b"meta")
    assert found is not None, "the store lost what it says of itself"
    meta = decode_meta(found)
    if meta.format < _NUMBERED:
        number_deliveries(txn)
    if meta.format < _IN_ORDER:
        put_queue_in_order(txn)
    if meta.format < _CLOSED_TOGETHER:
        bring_closing_up(txn)
    if meta.format < _SWEPT:
        mark_swept(txn)
    booted = msgspec.structs.replace(meta, format=FORMAT, boots=meta.boots + 1)
    txn.put("meta", b"meta", msgspec.msgpack.encode(booted))
    return booted
