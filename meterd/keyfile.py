"""Keeps the keys that the command line made, by their hashes, in ``<data folder>/keys.json``.

Every write replaces the whole file at once, so a reader finds the old keys or the new ones, also
after power loss. Who changes the file holds a lock: two commands at a time lose neither's change.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.credentials import ApiKey, new_key
from meterd.domain.errors import ConfigError, StoreError
from meterd.embedded.data_folder import said_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd.domain.config import Config

KEY_FILE: Final = "keys.json"
_LOCK_FILE: Final = "keys.lock"
_VERSION: Final = 1


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    keys: tuple[ApiKey, ...]


def read_keys(data_dir: str | Path) -> tuple[ApiKey, ...]:
    """The keys of the file, in the order they were made; none without a file.

    Raises ConfigError if it cannot be read, so that a reload that meets it keeps what runs.
    """
    path = Path(data_dir) / KEY_FILE
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_KeyFile)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: is damaged ({error}); restore it from a backup, or remove it"
            " and make new keys"
        ) from error
    if stored.version != _VERSION:
        raise ConfigError(f"{path}: was written by another version of meterd ({stored.version})")
    return stored.keys


def add_key(data_dir: str | Path, key: ApiKey) -> None:
    """On disk when this returns. Raises ConfigError as read_keys does, StoreError if it cannot."""
    with _locked(Path(data_dir)) as folder:
        write_keys(folder, (*read_keys(folder), key))


def remove_key(data_dir: str | Path, key_id: str) -> bool:
    """Whether there was such a key; on disk when this returns. Raises as add_key does."""
    if not read_keys(data_dir):
        return False  # and no folder is made for it
    with _locked(Path(data_dir)) as folder:
        keys = read_keys(folder)
        left = [key for key in keys if key.id != key_id]
        if len(left) == len(keys):
            return False
        write_keys(folder, left)
        return True


def ensure_key(
    data_dir: str | Path, config: Config, random: bytes, *, created_ms: int | None = None
) -> str | None:
    """The text of a new key with all scopes, if there is no key anywhere yet; else None.

    The text is on no disk: whoever calls shows it once.
    """
    if config.keys:
        return None
    with _locked(Path(data_dir)) as folder:
        if read_keys(folder):
            return None
        text, key = new_key(random, description="made at the first start", created_ms=created_ms)
        write_keys(folder, (key,))
        return text


def write_keys(data_dir: Path, keys: Sequence[ApiKey]) -> None:
    """Replaces the file; on disk when this returns. The caller holds the lock.

    The file is its owner's alone, and its owner is the folder's: the daemon can read what root's
    command line wrote.
    """
    content = msgspec.json.encode(_KeyFile(_VERSION, tuple(keys)), order="deterministic")
    path = data_dir / KEY_FILE
    beside = data_dir / f"{KEY_FILE}.new"
    try:
        with _opened(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(msgspec.json.format(content, indent=2) + b"\n")
            os.fsync(descriptor)
        beside.replace(path)
        _sync_folder(data_dir)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {said_of(error)}") from error


@contextmanager
def _locked(data_dir: Path) -> Iterator[Path]:
    """The folder, made if need be, while nobody else changes the keys.

    The lock goes with the process that holds it, so a killed command leaves none behind.
    """
    try:
        _make_folder(data_dir)
        opened = _opened(data_dir / _LOCK_FILE, os.O_RDWR | os.O_CREAT)
        with opened as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield data_dir
    except OSError as error:
        raise StoreError(f"{data_dir}: cannot be used: {said_of(error)}") from error


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
        os.fchmod(descriptor, 0o600)  # one that was there before may be wider
        yield descriptor
    finally:
        os.close(descriptor)


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Makes what was created in or renamed into the folder survive power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
