"""The store is opened safely, grows, notices damage, and keeps what it has committed."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import lmdb
import msgspec
import pytest

from meterd.domain.errors import CommitFailedError, StoreError
from meterd.embedded import data_folder
from meterd.embedded.store import FORMAT, PARTS, Meta, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

MEBIBYTE = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    opened = Store(folder)
    yield opened
    opened.close()


def put(store: Store, key: bytes, payload: bytes = b"", table: str = "meta") -> None:
    store.write(lambda txn: txn.put(table, key, payload))


def get(store: Store, key: bytes, table: str = "meta") -> bytes | None:
    with store.read() as txn:
        return txn.get(table, key)


# Opening


def test_what_is_committed_is_there_when_opened_again(folder: Path) -> None:
    """And the parts are those of the creation; each opening counts."""
    store = Store(folder)
    put(store, b"a", b"1")
    assert store.meta == Meta(FORMAT, PARTS, 1)
    store.close()
    store = Store(folder)
    assert get(store, b"a") == b"1"
    assert store.meta == Meta(FORMAT, PARTS, 2)
    store.close()


def test_only_the_owner_may_look(folder: Path) -> None:
    """Folders 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        Store(folder).close()
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(folder.parent)): stat.S_IMODE(path.stat().st_mode)
        for path in [folder, *folder.rglob("*")]
    }
    assert modes == {
        "data": 0o700,
        "data/lock": 0o600,
        "data/store": 0o700,
        "data/store/data.mdb": 0o600,
        "data/store/lock.mdb": 0o600,
    }


def test_a_folder_is_open_once(folder: Path, store: Store) -> None:
    """The second is refused, and the first goes on; closed, it may be opened again."""
    with pytest.raises(StoreError, match="another meterd"):
        Store(folder)
    put(store, b"a", b"1")
    store.close()
    again = Store(folder)
    assert get(again, b"a") == b"1"
    again.close()


def test_another_format_is_refused(folder: Path) -> None:
    """With both versions named, nothing changed, and the folder not left locked."""
    store = Store(folder)
    put(store, b"meta", msgspec.msgpack.encode(Meta(FORMAT + 1, PARTS, 1)))
    store.close()
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"format {FORMAT + 1}.* {FORMAT}"):
            Store(folder)


def a_file_instead_of_the_folder(folder: Path) -> None:
    folder.write_text("")


def a_store_that_is_not_lmdb(folder: Path) -> None:
    (folder / "store").mkdir(parents=True)
    (folder / "store" / "data.mdb").write_bytes(b"x" * 100_000)


def a_store_without_its_data(folder: Path) -> None:
    (folder / "store").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage",
    [a_file_instead_of_the_folder, a_store_that_is_not_lmdb, a_store_without_its_data],
)
def test_a_folder_that_cannot_be_used_is_named(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    """StoreError with the folder's name, which is what the operator is shown."""
    damage(folder)
    with pytest.raises(StoreError, match=str(folder)):
        Store(folder)


def test_half_a_creation_is_begun_again(folder: Path) -> None:
    """What a crash left of an earlier creation is not taken for a store."""
    half = folder / "store.new"
    half.mkdir(parents=True)
    (half / "data.mdb").write_bytes(b"half")
    store = Store(folder)
    put(store, b"a", b"1")
    store.close()
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "store"]


def test_a_creation_that_fails_leaves_no_store(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until all of it is synced it does not stand in its place."""

    def full(path: Path) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(data_folder, "sync", full)
        with pytest.raises(StoreError, match="No space left"):
            Store(folder)
    assert not (folder / "store").exists()
    Store(folder).close()


@pytest.mark.parametrize(
    "weaker",
    [
        {"sync": False},
        {"metasync": False},
        {"writemap": True},
        {"map_async": True, "writemap": True},
    ],
    ids=str,
)
def test_weaker_durability_is_our_own_mistake(
    folder: Path, monkeypatch: pytest.MonkeyPatch, weaker: dict[str, bool]
) -> None:
    """An environment that would not keep what it commits is never used."""
    opened: Any = lmdb.open
    monkeypatch.setattr(lmdb, "open", partial(opened, **weaker))
    with pytest.raises(AssertionError):
        Store(folder)


# Reading and writing


def test_a_reader_sees_one_moment(store: Store) -> None:
    """What is committed meanwhile shows in the next snapshot."""
    put(store, b"a", b"1")
    with store.read() as txn:
        put(store, b"a", b"2")
        assert txn.get("meta", b"a") == b"1"
    assert get(store, b"a") == b"2"


def test_work_that_fails_changes_nothing(store: Store) -> None:
    """Our own mistakes pass through; what LMDB reports is a commit whose outcome is unknown."""

    def work(failure: Exception, txn: Transaction) -> None:
        txn.put("meta", b"a", b"1")
        raise failure

    for failure, raised in (
        (ValueError("ours"), ValueError),
        (lmdb.DiskError("input/output error"), CommitFailedError),
        (OSError("No space left on device"), CommitFailedError),
    ):
        with pytest.raises(raised):
            store.write(partial(work, failure))
        assert get(store, b"a") is None


def test_what_is_tried_out_is_thrown_away(folder: Path) -> None:
    """It sees itself, over a map that grows, and whether it succeeds or not: nobody else does."""

    def work(failure: Exception | None, txn: Transaction) -> bytes | None:
        for number in range(12):
            txn.put("events", bytes((number,)), bytes(250_000))
        txn.put("meta", b"a", b"2")
        if failure is not None:
            raise failure
        return txn.get("meta", b"a")

    with closing(Store(folder, map_size=MEBIBYTE)) as store:
        put(store, b"a", b"1")
        size = store.size_bytes()
        assert store.try_out(partial(work, None)) == b"2"
        with pytest.raises(ZeroDivisionError):
            store.try_out(partial(work, ZeroDivisionError()))
        assert get(store, b"a") == b"1"
        assert store.size_bytes() == size
        put(store, b"b", b"3")
    with closing(Store(folder)) as again, again.read() as txn:
        assert (txn.get("meta", b"a"), txn.get("meta", b"b")) == (b"1", b"3")
        assert txn.count("events") == 0


@pytest.mark.parametrize("at_once", [1, 40])
def test_a_full_map_grows_while_others_read(folder: Path, at_once: int) -> None:
    """From 1 MiB to over 8, in small transactions and in one, though there is always a reader: one
    that comes while the map grows waits, also to write what is thrown away, and all see whole
    transactions.
    """
    payload = os.urandom(250_000)
    finished = threading.Event()

    def fill(first: int, txn: Transaction) -> None:
        for number in range(first, first + at_once):
            txn.put("events", bytes((number,)), payload)

    def write() -> None:
        for first in range(0, 40, at_once):
            growing.write(partial(fill, first))

    def read() -> None:
        while not finished.is_set():
            with growing.read() as txn:
                mapped = growing._env.info()["map_size"]
                assert txn.count("events") % at_once == 0
                finished.wait(0.002)  # so that one begins before the other ends
                assert growing._env.info()["map_size"] == mapped, "grown under a reader"

    def try_out() -> None:
        while not finished.is_set():
            assert growing.try_out(lambda txn: txn.count("events")) % at_once == 0

    with closing(Store(folder, map_size=MEBIBYTE)) as growing, ThreadPoolExecutor() as threads:
        reading = [threads.submit(one) for one in (read, read, read, try_out)]
        writing = threads.submit(write)
        try:
            writing.result(timeout=10)
        finally:
            finished.set()
        for reader in reading:
            reader.result()
        assert growing.size_bytes() > 8 * MEBIBYTE
    with closing(Store(folder, map_size=MEBIBYTE)) as again, again.read() as txn:
        assert [record for _, record in txn.forward("events", b"", b"")] == [payload] * 40


# Damage


def test_a_copy_of_a_running_store_opens(folder: Path, store: Store, tmp_path: Path) -> None:
    """What a crash leaves is a store: with all that was committed and nothing that was not."""
    put(store, b"a", b"1")

    def copied(txn: Transaction) -> None:
        txn.put("meta", b"a", b"2")
        shutil.copytree(folder / "store", tmp_path / "copy" / "store")

    store.write(copied)
    found = Store(tmp_path / "copy")
    assert get(found, b"a") == b"1"
    found.close()
