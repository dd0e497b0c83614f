"""Mutants of the store: what LMDB and the file system are asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.system.torture.mutants import module, mutant


@mutant
def sync_off() -> None:
    """LMDB does not wait for the disk."""
    _open_lmdb_with(sync=False)


@mutant
def metasync_off() -> None:
    """LMDB syncs pages, but not what makes them valid."""
    _open_lmdb_with(metasync=False)


def _open_lmdb_with(**weaker: bool) -> None:
    store = module("embedded.store")
    store.lmdb.open = partial(store.lmdb.open, **weaker)
    store._SAFE_FLAGS = {}  # or the store would refuse it


@mutant
def plain_creation() -> None:
    """The environment is made where it will be used."""
    store = module("embedded.store")

    def in_its_place(place: Any, map_size: int) -> None:
        if not place.exists():
            place.mkdir(mode=0o700)
            store._fill(place, map_size)

    store._create = in_its_place


@mutant
def folder_not_synced() -> None:
    """A new data folder's entry is left to the file system."""
    data_folder = module("embedded.data_folder")
    data_folder.sync_entries = lambda place: data_folder.sync(place.parent)


@mutant
def broken_is_full() -> None:
    """An I/O error on a disk with little room left is taken for a write that was cut short."""
    store = module("embedded.store").Store
    judge = store._is_for_want_of_room
    store._is_for_want_of_room = lambda self, fault, called: judge(self, fault, 0)


@mutant
def failed_commit_counts() -> None:
    """What could not be committed is taken for written."""
    failed, store = module("domain.errors").CommitFailedError, module("embedded.store").Store
    write = store.write

    def write_regardless(self: Any, work: Any) -> Any:
        try:
            return write(self, work)
        except failed:
            return None

    store.write = write_regardless


@mutant
def cache_is_believed() -> None:
    """A start behind a failed write reads what the kernel has in memory, disk or not."""
    module("embedded.data_folder").believe_disk = lambda path: None


@mutant
def readers_are_passed_over() -> None:
    """A start behind a failed write does not wait for who has the file mapped."""
    module("embedded.data_folder")._wait_for_readers = lambda descriptor, path: None
