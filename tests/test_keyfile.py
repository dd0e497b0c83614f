"""meterd/keyfile.py"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meterd.domain.config import Config
from meterd.domain.credentials import ALL_SCOPES, ApiKey, Keyring, Scope, new_key
from meterd.domain.errors import ConfigError, StoreError
from meterd.keyfile import add_key, ensure_key, read_keys, remove_key


def key(number: int) -> ApiKey:
    return new_key(bytes([number]) * 32, frozenset({Scope.READ}), description=f"{number}")[1]


def test_keys_are_kept_in_the_order_they_were_made(tmp_path: Path) -> None:
    """All that is known of a key comes back, and never its text."""
    text, first = new_key(bytes(32), description="é", created_ms=5)
    for made in (first, key(1), key(2)):
        add_key(tmp_path, made)
    assert read_keys(tmp_path) == (first, key(1), key(2))
    assert text not in (tmp_path / "keys.json").read_text()


def test_no_file_is_no_keys(tmp_path: Path) -> None:
    """And asking makes neither file nor folder."""
    assert read_keys(tmp_path / "new") == ()
    assert not remove_key(tmp_path / "new", "key-1")
    assert not list(tmp_path.iterdir())


def test_a_key_is_removed_by_its_id(tmp_path: Path) -> None:
    """The others stay; whether there was one is answered."""
    add_key(tmp_path, key(1))
    add_key(tmp_path, key(2))
    assert remove_key(tmp_path, key(1).id)
    assert not remove_key(tmp_path, key(1).id)
    assert read_keys(tmp_path) == (key(2),)


def test_file_and_folder_are_the_owners_alone(tmp_path: Path) -> None:
    """0600 and 0700, also when a wider file stood there before, and whatever the umask."""
    folder = tmp_path / "data"
    before = os.umask(0)
    try:
        add_key(folder, key(1))
        (folder / "keys.json.new").touch(0o666)
        (folder / "keys.json.new").chmod(0o666)
        (folder / "keys.json").chmod(0o644)
        add_key(folder, key(2))
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("keys.json", "keys.lock"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["keys.json", "keys.lock"]


def test_the_files_belong_to_the_folders_owner(tmp_path: Path) -> None:
    """A daemon without privileges can read what root's command line wrote."""
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
    add_key(tmp_path, key(1))
    owner = tmp_path.stat().st_uid
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {owner}


def test_a_failed_write_leaves_the_old_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced only when the new one is on disk."""
    add_key(tmp_path, key(1))

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match="cannot be written: Input/output error"):
        add_key(tmp_path, key(2))
    assert read_keys(tmp_path) == (key(1),)


def test_file_and_folder_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the new file, then the rename, then the folder: the order that survives power loss."""
    steps: list[str] = []
    add_key(tmp_path, key(1))

    def fsync(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def replace(path: Path, target: Path) -> None:
        steps.append(f"{path.name} -> {target.name}")
        os.replace(path, target)  # noqa: PTH105 -- the method is what is replaced here

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    add_key(tmp_path, key(2))
    assert steps == ["keys.json.new", "keys.json.new -> keys.json", tmp_path.name]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"version": 1}',
        b'{"version": 1, "keys": [], "more": 1}',
        b'{"version": 1, "keys": [{"id": "a", "hash": "short", "scopes": []}]}',
        b"[" * 100000,
    ],
)
def test_a_damaged_file_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    """A reload that meets one keeps the keys it has; nothing is overwritten."""
    (tmp_path / "keys.json").write_bytes(content)
    for attempt in (lambda: read_keys(tmp_path), lambda: add_key(tmp_path, key(1))):
        with pytest.raises(ConfigError, match=r"keys\.json: is damaged"):
            attempt()
    assert (tmp_path / "keys.json").read_bytes() == content


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    """It is not understood halfway."""
    (tmp_path / "keys.json").write_text('{"version": 2, "keys": []}')
    with pytest.raises(ConfigError, match=r"was written by another version of meterd \(2\)"):
        read_keys(tmp_path)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file in the folder's place is the operator's to mend."""
    (tmp_path / "data").touch()
    with pytest.raises(ConfigError, match=r"data/keys\.json: cannot be read: Not a directory"):
        read_keys(tmp_path / "data")
    with pytest.raises(StoreError, match="data: cannot be used: File exists"):
        add_key(tmp_path / "data", key(1))


ADD_MANY = """
import sys
from meterd.domain.credentials import new_key
from meterd.keyfile import add_key
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
    add_key(sys.argv[1], new_key(bytes([number]) * 32)[1])
"""


def test_commands_at_the_same_time_lose_no_key(tmp_path: Path) -> None:
    """Each change is made to what the one before it left."""
    root = Path(__file__).parent.parent
    writers = [
        subprocess.Popen([sys.executable, "-c", ADD_MANY, tmp_path, str(start)], cwd=root)
        for start in (0, 20, 40)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert {made.id for made in read_keys(tmp_path)} == {key(number).id for number in range(60)}


def test_the_lock_is_free_again_after_a_failure(tmp_path: Path) -> None:
    """A command that failed does not block the next."""
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(ConfigError):
        add_key(tmp_path, key(1))
    with (tmp_path / "keys.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_first_start_makes_a_key_with_all_scopes(tmp_path: Path) -> None:
    """Its text is returned once; what is kept lets it in."""
    text = ensure_key(tmp_path / "data", Config(), bytes(32), created_ms=7)
    assert text is not None
    (made,) = read_keys(tmp_path / "data")
    assert Keyring([made]).authenticate(text) is made
    assert made.scopes == ALL_SCOPES
    assert made.created_ms == 7
    assert ensure_key(tmp_path / "data", Config(), bytes(32)) is None


def test_no_key_is_made_beside_another(tmp_path: Path) -> None:
    """One in the configuration or the environment is enough, and nothing is written."""
    assert ensure_key(tmp_path / "data", Config(keys=(key(1),)), bytes(32)) is None
    assert not list(tmp_path.iterdir())
