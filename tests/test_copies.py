"""Backups and what is made of them are whole, checked, and never half."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from meterd import copies
from meterd.domain.errors import MeterdError, StoreError
from meterd.embedded import snapshot
from meterd.embedded.snapshot import Snapshot
from meterd.embedded.store import Store
from meterd.keyfile import KEY_FILE
from tests.embedded.sample_store import checked, copied_sample, lines, spoil
from tests.embedded.test_verification import damage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def ignore(stage: str, done: int, total: int) -> None:
    """How far it is."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return copied_sample(tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


# Backup


def test_a_backup_holds_all_and_is_its_owners_alone(data: Path, tmp_path: Path) -> None:
    """Store and API keys; what it holds is what was there."""
    to = tmp_path / "backups" / "monday"
    to.parent.mkdir()
    before = os.umask(0)
    try:
        made = copies.backup(data, to, ignore)
    finally:
        os.umask(before)
    assert names(to) == [KEY_FILE, "store", "store/data.mdb"]
    assert modes(to) == {0o600}
    assert stat.S_IMODE(to.stat().st_mode) == stat.S_IMODE((to / "store").stat().st_mode) == 0o700
    assert (to / KEY_FILE).read_bytes() == (data / KEY_FILE).read_bytes()
    held, holds = checked(data), checked(to)
    del held["pages"], holds["pages"]  # free ones are left out
    assert held == holds
    assert made.bytes == (to / "store" / "data.mdb").stat().st_size < made.bytes_before
    assert made.checked["events"] == held["events"]


def cut_in_half(data: Path) -> None:
    file = data / "store" / "data.mdb"
    os.truncate(file, file.stat().st_size // 2)


def a_page_is_gone(data: Path) -> None:
    """A branch reads as zeros."""
    with snapshot.open_snapshot(data) as opened:
        number = opened.tables()["totals"].root
    with (data / "store" / "data.mdb").open("r+b") as file:
        file.seek(number * 4096)
        file.write(bytes(4096))


@pytest.mark.parametrize("damage", [cut_in_half, a_page_is_gone])
def test_damaged_pages_are_not_given_to_lmdb(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
) -> None:
    """Which would follow them wherever they lead: it dies of SIGBUS beyond the end of a file."""
    damage(data)
    asked: list[str] = []
    monkeypatch.setattr(Snapshot, "copy_to", lambda *_: asked.append("to copy"))
    monkeypatch.setattr(Snapshot, "transaction", lambda *_: asked.append("to read"))
    with pytest.raises(StoreError, match="copied is damaged, restore an earlier backup: "):
        copies.backup(data, tmp_path / "to", ignore)
    with pytest.raises(StoreError, match=r"the store in .* is damaged, restore a backup: "):
        copies.compact(data, ignore)
    assert asked == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert not (data / "compact.new").exists()


def test_a_key_file_is_copied_whole(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the disk takes it in pieces; and it is read again."""
    real = os.fdopen

    def shortened(descriptor: int, mode: str) -> object:
        file = real(descriptor, mode)
        file.write(b"{")
        return file

    monkeypatch.setattr(os, "fdopen", shortened)
    with pytest.raises(StoreError, match=r"keys\.json is not what was written to it"):
        copies.backup(data, tmp_path / "to", ignore)


def test_a_backup_takes_nobodys_place(data: Path, tmp_path: Path) -> None:
    """Neither a folder's with something in it, nor a file's."""
    to = tmp_path / "full"
    to.mkdir()
    (to / "letter").write_text("dear")
    with pytest.raises(StoreError, match="full is not empty, it has letter: move that away"):
        copies.backup(data, to, ignore)
    with pytest.raises(StoreError, match="letter is not a folder"):
        copies.backup(data, to / "letter", ignore)
    assert (to / "letter").read_text() == "dear"


def test_what_a_killed_backup_left_is_no_hindrance(data: Path, tmp_path: Path) -> None:
    """It is made anew; two at a time are refused."""
    left = tmp_path / "to.new"
    (left / "store").mkdir(parents=True)
    (left / "store" / "data.mdb").write_bytes(b"half")
    (left / KEY_FILE).write_text("half")
    descriptor = os.open(left, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match=r"another meterd is making .*to\.new"):
        copies.backup(data, tmp_path / "to", ignore)
    os.close(descriptor)
    copies.backup(data, tmp_path / "to", ignore)
    assert not left.exists()


def test_a_backup_of_a_damaged_store_is_not_made(data: Path, tmp_path: Path) -> None:
    """The damage is named, and nothing is left that may be taken for a backup."""
    spoil(data, lambda txn: damage(txn, "totals"))
    with pytest.raises(StoreError, match="damaged, restore an earlier backup:\ntotals: customer "):
        copies.backup(data, tmp_path / "to", ignore)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_backup_that_fails_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of room, which is looked at first, or at the sync."""
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
        with pytest.raises(StoreError, match="has 0 MB free, and the copy takes 2 MB"):
            copies.backup(data, tmp_path / "to", ignore)
    with monkeypatch.context() as patched:
        patched.setattr(snapshot, "sync", full)
        with pytest.raises(StoreError, match="to: cannot be written: No space left"):
            copies.backup(data, tmp_path / "to", ignore)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def full(path: Path) -> None:
    raise OSError(28, "No space left on device")


def test_a_damaged_key_file_is_told(data: Path, tmp_path: Path) -> None:
    """A backup without keys would let nobody in."""
    (data / KEY_FILE).write_text("{")
    with pytest.raises(MeterdError, match=r"keys.json: is damaged"):
        copies.backup(data, tmp_path / "to", ignore)
    (data / KEY_FILE).unlink()
    copies.backup(data, tmp_path / "to", ignore)


# Restore


def test_what_is_restored_is_what_was_backed_up(data: Path, tmp_path: Path) -> None:
    """Into a folder that is not there, and a store can be opened on it."""
    saved, to = tmp_path / "saved", tmp_path / "deep" / "restored"
    copies.backup(data, saved, ignore)
    copies.restore(saved, to, ignore)
    assert names(to) == [KEY_FILE, "lock", "store", "store/data.mdb"]
    assert modes(to) == {0o600}
    assert checked(to) == checked(saved)
    with closing(Store(to)):
        pass
    assert checked(saved)["events"] > 0


def test_nothing_is_restored_over_anything(data: Path, tmp_path: Path) -> None:
    """A folder with a store, or with keys, or in use stays as it is."""
    saved = tmp_path / "saved"
    copies.backup(data, saved, ignore)
    with pytest.raises(StoreError, match=r"data is not empty, it has keys\.json, store: move"):
        copies.restore(saved, data, ignore)
    with closing(Store(tmp_path / "live")), pytest.raises(StoreError, match="another meterd has"):
        copies.restore(saved, tmp_path / "live", ignore)
    assert lines(data) == []


@pytest.mark.parametrize("cut_at", [1, 2])
def test_a_restore_that_was_cut_short_is_done_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    """Before the keys or before the store came to their place."""
    saved, to = tmp_path / "saved", tmp_path / "to"
    copies.backup(data, saved, ignore)
    left = [cut_at]

    def cut(folder: Path, *paths: Path) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(5, "the machine went off")

    with monkeypatch.context() as patched:
        patched.setattr(copies, "give_to_owner", cut)
        with pytest.raises(StoreError, match="went off"):
            copies.restore(saved, to, ignore)
    assert not (to / "store").exists()
    copies.restore(saved, to, ignore)
    assert checked(to) == checked(saved)
    assert names(to) == [KEY_FILE, "lock", "store", "store/data.mdb"]


def test_a_damaged_backup_is_not_restored(data: Path, tmp_path: Path) -> None:
    """It is looked at before anything is written."""
    saved = tmp_path / "saved"
    copies.backup(data, saved, ignore)
    stored = saved / "store" / "data.mdb"
    stored.write_bytes(stored.read_bytes().replace(b"acme", b"acne"))
    with pytest.raises(StoreError, match="saved is damaged:\n"):
        copies.restore(saved, tmp_path / "to", ignore)
    assert not (tmp_path / "to").exists()
    with pytest.raises(StoreError, match=r"there is no (store|folder)"):
        copies.restore(tmp_path / "nowhere", tmp_path / "to", ignore)


# Compact


def test_a_compact_store_is_the_same_and_smaller(data: Path) -> None:
    """Opened again afterwards: what is written to it counts on."""
    spoil(data, lambda txn: txn.put("meta", b"large", bytes(2_000_000)))
    spoil(data, lambda txn: txn.delete("meta", b"large"))
    before = checked(data)
    made = copies.compact(data, ignore)
    assert made.bytes_before - made.bytes > 1_900_000
    after = checked(data)
    del before["pages"], after["pages"]
    assert after == before
    spoil(data, lambda txn: txn.put("meta", b"large", b"1"))
    assert spoil(data, lambda txn: txn.get("meta", b"large")) == b"1"


def test_a_store_in_use_is_not_made_compact(data: Path) -> None:
    """Nor one that is damaged, nor none; it is as it was."""
    with closing(Store(data)), pytest.raises(StoreError, match="another meterd has"):
        copies.compact(data, ignore)
    spoil(data, lambda txn: damage(txn, "events"))
    before = (data / "store" / "data.mdb").read_bytes()
    with pytest.raises(StoreError, match=r"the store in .* is damaged"):
        copies.compact(data, ignore)
    assert (data / "store" / "data.mdb").read_bytes() == before
    assert "compact.new" not in names(data)
    with pytest.raises(StoreError, match="there is no folder"):
        copies.compact(data / "nowhere", ignore)
