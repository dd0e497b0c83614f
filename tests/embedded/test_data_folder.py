"""The data folder is held by one process, its entries are on disk, and it is closed to others."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meterd.domain.errors import CommitFailedError, StoreError, StoreGoneError
from meterd.embedded import data_folder
from meterd.embedded.snapshot import open_snapshot
from meterd.embedded.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced, in order, by name as it was at that moment."""
    found: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        found.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", note)
    return found


def test_a_folder_is_held_once_and_named_by_its_process(tmp_path: Path) -> None:
    """Until it is let go of; then nobody is named."""
    held = data_folder.hold(tmp_path / "a" / "b")
    lock = tmp_path / "a" / "b" / "lock"
    assert lock.read_text() == f"{os.getpid()}\n"
    with pytest.raises(StoreError, match="another meterd"):
        data_folder.hold(lock.parent)
    assert lock.read_text() == f"{os.getpid()}\n"
    data_folder.let_go(held)
    assert lock.read_text() == ""
    data_folder.let_go(data_folder.hold(lock.parent))


def test_a_file_is_in_place_or_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted, replaced, or with its folder elsewhere; where nobody can tell it is believed."""
    file = tmp_path / "store" / "data.mdb"
    file.parent.mkdir()
    file.touch()
    opened = data_folder.identity(file)

    def stay() -> None:
        with data_folder.in_place(file, opened):
            pass

    stay()
    with file.open(), pytest.raises(StoreGoneError, match="is another file than"):
        file.rename(tmp_path / "before")
        file.touch()
        stay()
    file.unlink()
    with pytest.raises(StoreGoneError, match=f"^{file} is gone$"):
        stay()
    file.parent.rmdir()
    file.parent.touch()
    with pytest.raises(StoreGoneError):
        stay()

    def untold(file: Path) -> tuple[int, int]:
        raise PermissionError(errno.EACCES, "permission denied")

    monkeypatch.setattr(data_folder, "identity", untold)
    stay()


def test_folders_are_made_closed_to_others(tmp_path: Path) -> None:
    """All that are missing; those that are there stay as they are."""
    tmp_path.chmod(0o755)
    for _ in range(2):
        data_folder.make(tmp_path / "a" / "b")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (".", "a", "a/b")]
    assert modes == [0o755, 0o700, 0o700]
    with pytest.raises(OSError, match="exists"):
        (tmp_path / "file").touch()
        data_folder.make(tmp_path / "file")


def test_what_killed_commands_left_is_cleared(tmp_path: Path) -> None:
    """But for a restore that was cut short, which a new store would hide."""
    (tmp_path / data_folder.COMPACTING / "store").mkdir(parents=True)
    data_folder.clear(tmp_path)
    (tmp_path / data_folder.RESTORING).mkdir()
    with pytest.raises(StoreError, match="cut short: run meterd restore again, or remove"):
        data_folder.clear(tmp_path)
    (tmp_path / "store").mkdir()
    data_folder.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_broken_disk_does_not_hide_why_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is let go of, though its file cannot be written."""
    held = data_folder.hold(tmp_path)

    def broken(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", broken)
        data_folder.let_go(held)
    data_folder.let_go(data_folder.hold(tmp_path))


@contextmanager
def no_file_larger(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_who_finds_no_room_leaves_word_of_a_crash(tmp_path: Path) -> None:
    """The one behind it must believe the disk, too."""
    os.close(data_folder.hold(tmp_path))
    with no_file_larger(0):
        with pytest.raises(OSError, match="too large"):
            data_folder.hold(tmp_path)
        with pytest.raises(OSError, match="too large"), data_folder.held(tmp_path):
            pass
    assert not data_folder.is_let_go(tmp_path)


def test_the_lock_names_no_more_than_its_holder(tmp_path: Path) -> None:
    """However long what the one before had written was."""
    (tmp_path / "lock").write_text("12345678901234567890\n")
    os.close(data_folder.hold(tmp_path))
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_every_start_syncs_the_whole_way_to_the_store(tmp_path: Path, synced: list[str]) -> None:
    """Also one that finds it there: the process that made it may have been killed before that."""
    data = tmp_path / "new" / "data"
    way = [str(data), *map(str, data.parents)]
    Store(data).close()
    assert synced[:2] == [str(data / "store.new" / "data.mdb"), str(data / "store.new")]
    assert synced[2:] == way
    synced.clear()
    Store(data).close()
    assert synced == way


def test_a_relative_path_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: list[str]
) -> None:
    """The shipped one is."""
    monkeypatch.chdir(tmp_path)
    data_folder.sync_entries(Path("store"))
    assert synced == [str(tmp_path), *map(str, tmp_path.parents)]


@pytest.mark.parametrize(
    ("code", "stops"), [(errno.EACCES, False), (errno.EINVAL, False), (errno.EIO, True)]
)
def test_a_folder_far_above_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, *, stops: bool
) -> None:
    """One that is not ours to read is passed over; a broken disk is not."""
    sync = data_folder.sync

    def fails_above(path: Path) -> None:
        if path == tmp_path:
            raise OSError(code, os.strerror(code))
        sync(path)

    monkeypatch.setattr(data_folder, "sync", fails_above)
    with pytest.raises(StoreError) if stops else nullcontext():
        Store(tmp_path / "data").close()


def test_rights_that_a_copy_brought_are_taken(tmp_path: Path) -> None:
    """Of all that meterd made; the folder around it is the operator's."""
    data = tmp_path / "data"
    Store(data).close()
    for path in [data, *data.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o664)
    Store(data).close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [data, *data.rglob("*")]}
    assert modes == {
        "data": 0o777,
        "lock": 0o600,
        "store": 0o700,
        "data.mdb": 0o600,
        "lock.mdb": 0o600,
    }


def test_room_is_what_the_disk_and_the_limits_leave(tmp_path: Path) -> None:
    """The smaller of both."""
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    free = data_folder.room_bytes(file)
    assert free > 1 << 20
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        assert data_folder.room_bytes(file) == 4000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_allocated_has_its_room(tmp_path: Path) -> None:
    """Also where the file was there and had holes; what is in it stays."""
    path = tmp_path / "file"
    for before in (None, b"", b"abc"):
        if before is not None:
            with path.open("wb") as file:
                file.write(before)
                file.truncate(20_000)
        data_folder.allocate(path, 20_000)
        found = path.stat()
        assert (found.st_size, stat.S_IMODE(found.st_mode)) == (20_000, 0o600)
        assert found.st_blocks * 512 >= 20_000
        assert path.read_bytes().startswith(before or b"")


def test_a_lock_file_without_room_is_not_mapped(tmp_path: Path) -> None:
    """LMDB writes through its mapping: on a full disk a hole in it would end the process."""
    with closing(Store(tmp_path / "data")):
        found = (tmp_path / "data" / "store" / "lock.mdb").stat()
        assert found.st_blocks * 512 >= found.st_size


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of which files the disk was believed rather than the kernel."""
    found: list[str] = []
    believe = data_folder.believe_disk

    def note(path: Path) -> None:
        believe(path)
        found.append(path.name)

    monkeypatch.setattr(data_folder, "believe_disk", note)
    return found


def test_behind_an_orderly_end_the_kernel_is_believed(tmp_path: Path, believed: list[str]) -> None:
    """It has the store in memory, and a start need not read it again."""
    for _ in range(3):
        Store(tmp_path).close()
    assert believed == []


def test_behind_a_crash_the_disk_is_believed(tmp_path: Path, believed: list[str]) -> None:
    """Nobody knows whether it was for a write that failed; what was written is there."""
    with closing(Store(tmp_path)) as store:
        store.write(lambda txn: txn.put("meta", b"a", b"1"))
    (tmp_path / "lock").write_text("4711\n")
    with closing(Store(tmp_path)) as store, store.read() as txn:
        assert txn.get("meta", b"a") == b"1"
    assert believed == ["data.mdb"]


def test_behind_a_failed_write_the_disk_is_believed(tmp_path: Path, believed: list[str]) -> None:
    """A process that ends for one leaves its name in the lock, though it ends orderly."""

    def fail(txn: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    with closing(Store(tmp_path)) as store, pytest.raises(CommitFailedError):
        store.write(fail)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    Store(tmp_path).close()
    assert believed == ["data.mdb"]
    Store(tmp_path).close()
    assert believed == ["data.mdb"]


def test_who_holds_a_folder_is_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that came to have a killed one's id, nor a command, which takes no signals."""
    with pytest.raises(StoreError, match=f"no meterd runs on {tmp_path}"):
        data_folder.holder(tmp_path)
    held = data_folder.hold(tmp_path)
    assert data_folder.holder(tmp_path) == os.getpid()
    assert data_folder._is_locked(tmp_path / "lock")
    os.close(held)  # as a kill does
    assert not data_folder._is_locked(tmp_path / "lock")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    for text in (f"{os.getpid()}\n", "999999999\n", "", "a command\n"):
        (tmp_path / "lock").write_text(text)
        with pytest.raises(StoreError, match="no meterd runs on"):
            data_folder.holder(tmp_path)
    with data_folder.held(tmp_path), pytest.raises(StoreError, match="no meterd runs on"):
        data_folder.holder(tmp_path)

    def refuse(pid: int, lock: Path) -> bool:
        raise PermissionError(errno.EACCES, "permission denied")

    (tmp_path / "lock").write_text("1\n")
    monkeypatch.setattr(data_folder, "_has_open", refuse)
    with pytest.raises(StoreError, match="run this as the user that meterd runs as"):
        data_folder.holder(tmp_path)


def test_a_tool_hides_no_crash(tmp_path: Path, believed: list[str]) -> None:
    """What works on the folder in between leaves to see how the last process ended."""
    Store(tmp_path).close()
    with data_folder.held(tmp_path):
        pass
    assert (tmp_path / "lock").read_text() == ""
    (tmp_path / "lock").write_text("4711\n")
    with data_folder.held(tmp_path):
        pass
    Store(tmp_path).close()
    assert believed == ["data.mdb"]


def test_a_start_that_believes_the_disk_waits_for_who_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, believed: list[str]
) -> None:
    """The kernel forgets no page that another process has mapped. The next start is told too."""
    Store(tmp_path).close()
    (tmp_path / "lock").write_text("4711\n")
    monkeypatch.setattr(data_folder, "READERS_SECONDS", 0.1)
    with open_snapshot(tmp_path):
        for _ in range(2):
            with pytest.raises(StoreError, match=rf"read by .* \(process {os.getpid()}\)"):
                Store(tmp_path)
        assert believed == []
    Store(tmp_path).close()
    assert believed == ["data.mdb"]


@contextmanager
def shared(data: Path) -> Iterator[None]:
    """As by ``open_snapshot``, which LMDB does not allow in the process of a store."""
    with (data / "store" / "data.mdb").open("rb") as file:
        data_folder.share(file.fileno())
        yield


def test_it_starts_when_the_reader_is_done(tmp_path: Path, believed: list[str]) -> None:
    """And does not make a reader wait that comes later."""
    Store(tmp_path).close()
    (tmp_path / "lock").write_text("4711\n")
    with ExitStack() as reading:
        reading.enter_context(shared(tmp_path))
        done = threading.Timer(0.2, reading.close)
        done.start()
        with closing(Store(tmp_path)), shared(tmp_path):
            assert believed == ["data.mdb"]
        done.join()


def test_behind_an_orderly_end_nobody_is_waited_for(tmp_path: Path) -> None:
    """A backup may take longer than a restart."""
    Store(tmp_path).close()
    with shared(tmp_path), closing(Store(tmp_path)):
        pass


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: make room"),
        (OSError(errno.EFBIG, "File too large"), "File too large: raise the limit of file sizes"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded: make room, or raise"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("ours"), "ours"),
    ],
)
def test_who_lacks_room_is_told_how_to_get_some(fault: OSError, said: str) -> None:
    """In words of the thing that has none; of other faults there is nothing to add."""
    assert data_folder.said_of(fault).startswith(said)
    assert len(data_folder.said_of(fault)) - len(said) < 25


def test_a_store_that_finds_no_room_says_what_to_do(tmp_path: Path) -> None:
    """With a first start under a limit."""
    with no_file_larger(8_192), pytest.raises(StoreError, match=r"raise the limit of .* -f\)$"):
        Store(tmp_path)
