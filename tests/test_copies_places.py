"""Where copies may be made, what becomes of those cut short, and of earlier versions' folders."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meterd import copies
from meterd.domain.errors import MeterdError, StoreError
from meterd.embedded import data_folder
from meterd.embedded.store import FORMAT, UPGRADED, Store
from meterd.keyfile import KEY_FILE
from tests.embedded.sample_store import checked, copied_sample, lines
from tests.embedded.test_upgrade import lay
from tests.test_copies import cut_in_half, ignore, names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return copied_sample(tmp_path)


def test_new_folders_on_the_way_are_closed_to_others(data: Path, tmp_path: Path) -> None:
    """All of them, and their entries are on disk."""
    (tmp_path / "a" / "b").mkdir(parents=True, mode=0o700)
    (tmp_path / "a").chmod(0o700)
    copies.backup(data, tmp_path / "a" / "b" / "c", ignore)
    copies.restore(tmp_path / "a" / "b" / "c", tmp_path / "d" / "e", ignore)
    for name in ("a", "a/b", "a/b/c", "d", "d/e"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700, name


def test_every_new_entry_is_synced(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the copy up to the root."""
    synced: list[Path] = []

    def record(path: Path) -> None:
        synced.append(path)
        real(path)

    real = data_folder.sync
    monkeypatch.setattr(data_folder, "sync", record)
    (tmp_path / "a").mkdir()
    copies.backup(data, tmp_path / "a" / "b", ignore)
    assert synced[:2] == [tmp_path / "a", tmp_path]
    synced.clear()
    copies.restore(tmp_path / "a" / "b", tmp_path / "c" / "d", ignore)
    assert synced[:2] == [tmp_path / "c", tmp_path]


def test_a_backup_makes_no_folders_above_its_own(data: Path, tmp_path: Path) -> None:
    """A disk that is not mounted is told, and the root disk is not filled in its place."""
    said = f"there is no folder {tmp_path / 'mnt'}, and a backup makes only its own"
    with pytest.raises(StoreError, match=re.escape(said)):
        copies.backup(data, tmp_path / "mnt" / "x" / "y", ignore)
    assert not (tmp_path / "mnt").exists()


@pytest.mark.parametrize("name", ["", "x", "store", "store/x", "linked/x"])
def test_a_backup_is_not_made_within_what_it_copies(data: Path, tmp_path: Path, name: str) -> None:
    """It would be lost with it, and stand in the way."""
    (tmp_path / "link").symlink_to(data)
    to = tmp_path / "link" / "x" if name == "linked/x" else data / name
    before = sorted(data.rglob("*"))
    with pytest.raises(StoreError, match=f"is within the data folder {data}"):
        copies.backup(data, to, ignore)
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize("within", ["data", "backup"])
@pytest.mark.parametrize("name", ["x", "store/x/y", "linked"])
def test_nothing_is_restored_within_another_store(
    data: Path, tmp_path: Path, within: str, name: str
) -> None:
    """A copy in a data folder that is served, or in the backup itself, is not found when needed."""
    saved = tmp_path / "saved"
    copies.backup(data, saved, ignore)
    above = data if within == "data" else saved
    (tmp_path / "link").symlink_to(above)
    to = tmp_path / "link" / "x" if name == "linked" else above / name
    before = sorted(above.rglob("*"))
    with pytest.raises(StoreError, match="name another folder"):
        copies.restore(saved, to, ignore)
    assert sorted(above.rglob("*")) == before


def test_a_backup_may_take_an_empty_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was made for it, a link to one, the one it is made from; it stays the same folder,
    as it must where it is a mount point.
    """
    for name in ("there", "behind", "."):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to("behind")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (str(tmp_path / "there"), str(tmp_path / "link"), "."):
        to = Path(name)
        before = to.stat().st_ino
        made = copies.backup(data, to, ignore)
        assert (made.folder, to.stat().st_ino) == (name, before)
        assert (names(to), lines(to)) == ([KEY_FILE, "store", "store/data.mdb"], [])
    assert (tmp_path / "link").is_symlink()


def test_a_mount_point_may_have_what_its_file_system_brings(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new ext4 is not quite empty; nor may another be put in its place."""
    to = tmp_path / "disk"
    (to / "lost+found").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"is not empty, it has lost\+found"):
        copies.backup(data, to, ignore)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == to)
    copies.backup(data, to, ignore)
    assert lines(to) == []


def test_a_backup_within_a_folder_that_was_cut_short_is_done_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was killed; until it is done there is no store."""
    to = tmp_path / "there"
    to.mkdir()
    (to / "backup.new").mkdir()
    (to / "backup.new" / "x").write_text("half")
    (to / KEY_FILE).write_text("of the one before")
    copies.backup(data, to, ignore)
    assert names(to) == [KEY_FILE, "store", "store/data.mdb"]
    assert (to / KEY_FILE).read_bytes() == (data / KEY_FILE).read_bytes()


def test_what_may_not_be_looked_into_is_no_hindrance(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's backup was killed here: this one is made, and says so."""
    (tmp_path / "monday.new").mkdir()
    iterdir = Path.iterdir

    def look(path: Path) -> Iterator[Path]:
        if path.name == "monday.new":
            raise PermissionError(errno.EACCES, "permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", look)
    assert copies.backup(data, tmp_path / "tuesday", ignore).left == ()
    assert lines(tmp_path / "tuesday") == []


def test_what_other_killed_backups_left_is_named(data: Path, tmp_path: Path) -> None:
    """Those that nobody is making; and nothing that may be anything else."""
    for name in ("monday.new", "tuesday.new"):
        (tmp_path / name / "store").mkdir(parents=True)
    (tmp_path / "car.new").mkdir()
    (tmp_path / "house.new").write_text("")
    descriptor = os.open(tmp_path / "tuesday.new", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    made = copies.backup(data, tmp_path / "wednesday", ignore)
    os.close(descriptor)
    assert made.left == (str(tmp_path / "monday.new"),)


@pytest.mark.parametrize("store_format", UPGRADED)
def test_folders_of_earlier_versions(tmp_path: Path, store_format: int) -> None:
    """Are copied as they are, with pages and checksums checked; a start brings them here."""
    lay(tmp_path / "old", store_format)
    old, saved, to = tmp_path / "old" / "data", tmp_path / "saved", tmp_path / "to"
    assert copies.compact(old, ignore).format == store_format
    assert copies.backup(old, saved, ignore).format == store_format
    made = copies.restore(saved, to, ignore)
    assert made.format == store_format
    assert made.checked["records"] > 10
    with closing(Store(to)) as store:
        assert store.meta.format == FORMAT
    assert lines(to) == []
    assert copies.backup(to, tmp_path / "now", ignore).format == FORMAT


def test_a_damaged_record_of_an_earlier_version_is_found(tmp_path: Path) -> None:
    """By its checksum."""
    lay(tmp_path, UPGRADED[-1])
    file = tmp_path / "data" / "store" / "data.mdb"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"acme", b"acmf", 1))
    with pytest.raises(StoreError, match="is damaged"):
        copies.backup(tmp_path / "data", tmp_path / "to", ignore)


def test_a_refused_restore_leaves_nothing(data: Path, tmp_path: Path) -> None:
    """Neither a folder nor a lock in one, nor anything of a copy that failed."""
    saved, there = tmp_path / "saved", tmp_path / "there"
    copies.backup(data, saved, ignore)
    there.mkdir()
    (saved / KEY_FILE).write_text("{")
    with pytest.raises(MeterdError, match=r"keys\.json: is damaged"):
        copies.restore(saved, there, ignore)
    cut_in_half(saved)
    for to in (there, tmp_path / "nowhere"):
        with pytest.raises(StoreError, match="saved is damaged"):
            copies.restore(saved, to, ignore)
    assert names(there) == []
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_store_hides_no_restore(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was killed before its last rename is done again, or taken away, before a start."""
    saved, to = tmp_path / "saved", tmp_path / "to"
    copies.backup(data, saved, ignore)
    shutil.copytree(saved / "store", to / "restore.new" / "store")
    with pytest.raises(StoreError, match="a restore that was cut short: run meterd restore again"):
        Store(to)
    assert names(to) == ["lock", "restore.new", "restore.new/store", "restore.new/store/data.mdb"]
    copies.restore(saved, to, ignore)
    (to / "restore.new").mkdir()
    (to / "compact.new" / "store").mkdir(parents=True)
    with closing(Store(to)):
        pass
    assert not {"restore.new", "compact.new"} & set(names(to))
    assert checked(to) == {**checked(saved), "pages": checked(to)["pages"]}


@pytest.mark.parametrize("work", [copies.backup, copies.restore])
@pytest.mark.parametrize("fails_at", [2, 3, 4])
def test_a_copy_whose_last_steps_fail_is_made_again(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
    work: Callable[[Path, Path, Callable[[str, int, int], None]], copies.Copied],
) -> None:
    """Behind the rename of the keys nothing is left; behind the store's all is there."""
    to, calls = tmp_path / "to", list[Path]()
    to.mkdir()

    def fail(path: Path) -> None:
        calls.append(path)
        if len(calls) == fails_at:
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(copies, "sync", fail)
        with pytest.raises(StoreError, match="Input/output error"):
            work(data, to, ignore)
    if fails_at == 2:
        assert set(names(to)) <= {"lock"}
        work(data, to, ignore)
    assert lines(to) == []


def test_a_backup_of_nothing_makes_nothing(tmp_path: Path) -> None:
    """Not even the folders on the way."""
    with pytest.raises(StoreError, match="there is no folder"):
        copies.backup(tmp_path / "nowhere", tmp_path / "a" / "b", ignore)
    assert names(tmp_path) == []
