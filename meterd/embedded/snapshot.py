"""A store as it stands in one moment, read beside whoever has it open, and copied from there.

The folder is opened for reading only, as a second process beside the daemon: LMDB's lock file says
which pages are being read, so the daemon keeps them. While a snapshot is held, no page that it sees
is used again and the file may grow: of a large store beside a busy daemon, a copy is checked.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import lmdb

from meterd.domain.errors import StoreError
from meterd.embedded.data_folder import no_store, share, sync
from meterd.embedded.pages import DamagedError, Pages, decode_metas, older_root, read_metas
from meterd.embedded.store import (
    FORMAT,
    MAP_SIZE,
    READERS_MAX,
    UPGRADED,
    Meta,
    decode_meta,
    unknown_format,
)
from meterd.embedded.transaction import TABLES, Transaction, is_sealed, unseal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

from meterd.embedded.pages import Tree

# How long it is tried to begin between two commits, and how often.
_SETTLE_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 0.0005
_PROGRESS_SECONDS: Final = 0.1

# What LMDB raises where it is asked for a key that is none, too.
LmdbError = lmdb.Error


class Snapshot:
    """See above. ``transaction`` and ``copy_to`` use LMDB, which trusts what it reads; the rest
    reads the file.
    """

    def __init__(
        self,
        env: lmdb.Environment,
        txn: lmdb.Transaction[bytes],
        descriptor: int,
        metas: tuple[bytes, bytes],
    ) -> None:
        self._env = env
        self._txn = txn
        self._descriptor = descriptor
        self._found = decode_metas(metas)
        self._replaced = older_root(metas)
        self.pages = Pages(descriptor, self._found)

    @property
    def transaction_id(self) -> int:
        """Of the last commit that it sees."""
        return self._found.txn_id

    def meta(self) -> Meta:
        """What the store says of itself, read without LMDB.

        Raises DamagedError, and StoreError where it is of a version that this one knows nothing of.
        """
        pages = Pages(self._descriptor, self._found)
        tree = pages.tables().get("meta")
        records = {} if tree is None else {k: r for leaf in pages.leaves(tree) for k, r, _ in leaf}
        record = records.get(b"meta")
        if record is None or not is_sealed(b"meta", record):
            raise DamagedError("what the store says of itself is damaged")
        meta = decode_meta(unseal("meta", b"meta", record))
        if meta.format not in {*UPGRADED, FORMAT}:
            raise unknown_format(meta.format)
        return meta

    def tables(self, store_format: int = FORMAT) -> dict[str, Tree]:
        """Each table's pages, by name. Raises DamagedError, also where they are not meterd's.

        Which tables those of earlier formats are is not known any more.
        """
        found = self.pages.tables()
        if store_format == FORMAT and found.keys() != set(TABLES):
            raise DamagedError(f"the tables are not those of meterd: {', '.join(sorted(found))}")
        return found

    def check_free(self) -> None:
        """See ``Pages.check_free``."""
        self.pages.check_free(self._replaced)

    def check_pages(self) -> int:
        """Reads all pages, without LMDB, which would follow a damaged one wherever it leads, or
        beyond the end of a file that was cut short; returns how many bytes are in use.

        Raises DamagedError; StoreError as ``meta`` does.
        """
        for tree in self.tables(self.meta().format).values():
            for _ in self.pages.leaves(tree):
                pass
        in_use = self.pages.reached
        self.check_free()
        return in_use * self._found.page_bytes

    def transaction(self) -> Transaction:
        """What it holds. Raises StoreError where that is not of this version of meterd."""
        try:
            tables = {
                name: self._env.open_db(name.encode(), self._txn, create=False) for name in TABLES
            }
        except lmdb.Error as fault:
            raise StoreError(f"the store cannot be read: {fault}") from fault
        return Transaction(self._txn, tables)

    def copy_to(self, path: Path, progress: Callable[[int], None] = lambda _: None) -> None:
        """Writes what it holds to a new file, without the free pages; on disk when this returns.

        ``progress`` hears how many bytes are written. Raises StoreError.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        failed: list[Exception] = []

        def copy() -> None:
            try:
                self._env.copyfd(descriptor, compact=True)
            except (lmdb.Error, OSError) as fault:
                failed.append(fault)

        copying = threading.Thread(target=copy)
        try:
            copying.start()
            is_copying = True
            while is_copying:
                copying.join(_PROGRESS_SECONDS)
                is_copying = copying.is_alive()
                progress(os.fstat(descriptor).st_size)
            if failed:
                raise StoreError(f"the store cannot be copied to {path}: {failed[0]}")
            os.fsync(descriptor)
        finally:
            _end(copying, descriptor)
            os.close(descriptor)
        sync(path.parent)


def store_bytes(folder: Path) -> int:
    """How large the data folder's store is, as a file. Raises StoreError as ``open_snapshot``."""
    with _readable(folder):
        return (folder / "store" / "data.mdb").stat().st_size


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as fault:
        raise no_store(folder) from fault
    except OSError as fault:
        raise StoreError(f"the store in {folder} cannot be read: {fault.strerror}") from fault


@contextmanager
def open_snapshot(folder: Path) -> Iterator[Snapshot]:
    """The data folder's store as it stands now; nothing in the folder is changed.

    Raises StoreError where there is none that can be read, DamagedError where its first pages are
    not LMDB's.
    """
    place = folder / "store"
    size = store_bytes(folder)
    with _readable(folder):
        descriptor = os.open(place / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)
    try:
        share(descriptor)
        read_metas(descriptor)
        env = lmdb.open(
            str(place),
            map_size=max(MAP_SIZE, 2 * size),
            max_dbs=len(TABLES) + 4,
            max_readers=READERS_MAX,
            mode=0o600,
            lib_version=0,
            readonly=True,
            create=False,
            # Whoever has the store open made the file. None is made, so that nobody else's is.
            lock=(place / "lock.mdb").exists(),
        )
        try:
            yield _begin(env, descriptor)
        finally:
            env.close()
    except lmdb.Error as fault:
        decode_metas(read_metas(descriptor))  # says better what LMDB stumbles over
        raise StoreError(f"the store in {folder} cannot be read: {fault}") from fault
    finally:
        os.close(descriptor)


def _end(copying: threading.Thread, descriptor: int) -> None:
    """Makes the next write of a copy that is not waited for any more fail, and waits for that.

    LMDB cannot be told to stop. Were the descriptor closed, it might write to whatever is opened
    next; were the environment closed, it would read what is not mapped any more.
    """
    if copying.is_alive():
        nowhere = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)
        copying.join()


def _begin(env: lmdb.Environment, descriptor: int) -> Snapshot:
    """A transaction, and the meta pages that it reads by."""
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        raw = read_metas(descriptor)
        txn = env.begin(buffers=False)
        if read_metas(descriptor) == raw:
            found = decode_metas(raw)
            if found.txn_id == txn.id():
                return Snapshot(env, txn, descriptor, raw)
            # LMDB reads a commit only when its meta page is synced, which takes as long as the
            # disk does, and is in the file before.
            if time.monotonic() > until:
                raise DamagedError(
                    f"LMDB reads transaction {txn.id()}, and {found.txn_id} is the last"
                )
        elif time.monotonic() > until:
            raise StoreError("the store changes faster than it can be read")
        txn.abort()
        time.sleep(_RETRY_SECONDS)
