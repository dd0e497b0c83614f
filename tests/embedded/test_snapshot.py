"""A store is read and copied beside the process that has it open, which keeps what is read."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import msgspec
import pytest

from meterd.domain.errors import StoreError
from meterd.embedded import snapshot
from meterd.embedded.pages import DamagedError
from meterd.embedded.snapshot import open_snapshot
from meterd.embedded.store import FORMAT, Meta, Store
from tests.embedded.sample_store import copied_sample, lines, spoil
from tests.embedded.test_pages import META_LAST, PAGE, File

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
# Opens the snapshot, says so, and holds it until it is told to go on.
HOLDING = """
import sys
from pathlib import Path
from meterd.embedded.snapshot import open_snapshot
with open_snapshot(Path(sys.argv[1])) as snapshot:
    txn = snapshot.transaction()
    print("open", flush=True)
    sys.stdin.readline()
    print(txn.get("meta", b"number"), flush=True)
"""


class Holder:
    """Another process that holds a snapshot."""

    def __init__(self, data: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(data)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "open\n"

    def what_it_sees(self) -> str:
        return self.process.communicate("\n", timeout=20)[0].strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "data")) as opened:
        put_number(opened, 0)
        yield opened


def put_number(store: Store, number: int) -> None:
    store.write(lambda txn: txn.put("meta", b"number", b"%d" % number))


def churn(store: Store) -> int:
    """Writes the same pages again and again; by how many pages the file grew."""
    before = store.size_bytes()
    for number in range(1, 300):
        store.write(lambda txn: txn.put("events", b"key", os.urandom(50_000)))
        put_number(store, number)
    return (store.size_bytes() - before) // 4096


def test_it_sees_one_moment(tmp_path: Path, store: Store) -> None:
    """What another process writes meanwhile is not in it, and nothing is written over it."""
    holder = Holder(tmp_path / "data")
    churn(store)
    assert holder.what_it_sees() == "b'0'"


def test_a_killed_reader_is_forgotten(tmp_path: Path, store: Store) -> None:
    """What it held may be written over when the daemon has looked; until then the file grows."""
    holder = Holder(tmp_path / "data")
    holder.kill()
    assert churn(store) > 1000
    store.forget_dead_readers()
    churn(store)  # frees what was held
    assert churn(store) < 100


def test_nothing_in_the_folder_is_changed(tmp_path: Path) -> None:
    """No lock file is made where nobody has the store open, nor permissions touched."""
    data = copied_sample(tmp_path)
    (data / "store" / "lock.mdb").unlink()
    before = {path: path.stat() for path in [data, *data.rglob("*")]}
    assert lines(data) == []
    after = {path: path.stat() for path in [data, *data.rglob("*")]}
    assert {path: (found.st_mode, found.st_mtime_ns) for path, found in after.items()} == {
        path: (found.st_mode, found.st_mtime_ns) for path, found in before.items()
    }


def test_a_copy_is_whole_and_its_owners_alone(tmp_path: Path) -> None:
    """Whatever the umask; about as large as was said; and never over another file."""
    data, to = copied_sample(tmp_path), tmp_path / "copy" / "store"
    to.mkdir(parents=True)
    before = os.umask(0)
    try:
        with open_snapshot(data) as snapshot:
            seen: list[int] = []
            snapshot.copy_to(to / "data.mdb", seen.append)
            wanted = snapshot.check_pages()
            with pytest.raises(FileExistsError):
                snapshot.copy_to(to / "data.mdb")
    finally:
        os.umask(before)
    found = (to / "data.mdb").stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert abs(found.st_size - wanted) <= 16 * 4096
    assert seen[-1] == found.st_size
    assert lines(to.parent) == []


class CopiedWhenCut:
    """An environment that begins to copy when the file it would copy to has been taken away."""

    def __init__(self, env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._env = env
        self._cut = threading.Event()
        self._dup2 = os.dup2
        self.close = env.close
        monkeypatch.setattr(os, "dup2", self._cut_first)

    def _cut_first(self, descriptor: int, other: int, inheritable: bool = True) -> None:
        self._dup2(descriptor, other, inheritable)
        self._cut.set()

    def copyfd(self, descriptor: int, *, compact: bool) -> None:
        assert self._cut.wait(20), "nothing ends the copy"
        self._env.copyfd(descriptor, compact=compact)


def test_a_copy_that_is_not_waited_for_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its file and the store are closed: LMDB would write to whatever is opened next."""
    data, copy = copied_sample(tmp_path), tmp_path / "copy.mdb"
    monkeypatch.setattr(snapshot, "_PROGRESS_SECONDS", 0.0001)

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    threads = threading.active_count()
    with open_snapshot(data) as opened:
        env: Any = CopiedWhenCut(opened._env, monkeypatch)
        monkeypatch.setattr(opened, "_env", env)
        with pytest.raises(KeyboardInterrupt):
            opened.copy_to(copy, interrupt)
        assert threading.active_count() == threads
    assert copy.stat().st_size == 0


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    """And who can read it is said."""
    data = copied_sample(tmp_path)
    meta = msgspec.msgpack.encode(Meta(FORMAT + 1, 16, 1))
    spoil(data, partial(put_meta, meta))
    with pytest.raises(StoreError, match="use the version of meterd"):
        lines(data)


def put_meta(meta: bytes, txn: object) -> None:
    txn.put("meta", b"meta", meta)  # type: ignore[attr-defined]


def test_damage_is_told_rather_than_what_lmdb_stumbles_over(tmp_path: Path) -> None:
    """It cannot map as many pages as a flipped bit says that there are."""
    data = copied_sample(tmp_path)
    file = File(data)
    file.flip(file.newer * PAGE + META_LAST + 5)
    with pytest.raises(DamagedError, match=r"^page [01] says that the last one is "):
        opened(data)


def test_what_else_lmdb_stumbles_over_is_told_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file whose first pages are sound."""

    def refuse(*_: object, **__: object) -> None:
        raise lmdb.MemoryError("Cannot allocate memory")

    monkeypatch.setattr(lmdb, "open", refuse)
    data = copied_sample(tmp_path)
    with pytest.raises(StoreError, match=r" cannot be read: Cannot allocate memory$"):
        opened(data)


def opened(data: Path) -> None:
    with open_snapshot(data):
        raise AssertionError("it is opened")


def test_a_file_that_cannot_be_read_is_a_difference(tmp_path: Path) -> None:
    """With the reason; here it is a folder."""
    (tmp_path / "store" / "data.mdb").mkdir(parents=True)
    (line,) = lines(tmp_path)
    assert line.startswith("data.mdb: cannot be read at byte 0: Is a dir")


class Lagging:
    """An environment whose daemon has written a meta page and is still syncing it."""

    def __init__(self, env: Any, begins: float) -> None:
        self._env = env
        self._begins = begins
        self.begun = 0

    def begin(self, *, buffers: bool) -> Any:
        self.begun += 1
        txn = self._env.begin(buffers=buffers)
        return _Earlier(txn) if self.begun <= self._begins else txn


class _Earlier:
    def __init__(self, txn: Any) -> None:
        self._txn = txn
        self.abort = txn.abort

    def id(self) -> int:
        number: int = self._txn.id()
        return number - 1


def begin_lagging(data: Path, begins: float) -> int:
    """How often a transaction was begun until there was a snapshot."""
    with open_snapshot(data) as opened:
        env = Lagging(opened._env, begins)
        found: Any = env
        snapshot._begin(found, opened._descriptor)
        return env.begun


def test_a_commit_that_is_being_synced_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its meta page is in the file, and LMDB still reads the commit before: that is no damage,
    unless it stays so.
    """
    data = copied_sample(tmp_path)
    assert begin_lagging(data, 3) == 4
    monkeypatch.setattr(snapshot, "_SETTLE_SECONDS", 0.01)
    with pytest.raises(DamagedError, match="LMDB reads transaction"):
        begin_lagging(data, inf)


def test_a_store_that_changes_each_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is read that belongs to two moments."""
    data, number = copied_sample(tmp_path), count()

    def always_other(_: int) -> tuple[bytes, bytes]:
        return b"%d" % next(number), b""

    with open_snapshot(data) as held:
        monkeypatch.setattr(snapshot, "_SETTLE_SECONDS", 0.01)
        monkeypatch.setattr(snapshot, "read_metas", always_other)
        with pytest.raises(StoreError, match="changes faster than it can be read"):
            snapshot._begin(held._env, held._descriptor)
