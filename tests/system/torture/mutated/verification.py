"""Checks that do not look."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from tests.system.torture.mutants import module, mutant, patch

if TYPE_CHECKING:
    from pathlib import Path


@mutant
def no_checksum() -> None:
    """Records are taken for what was written, whatever they are."""
    transaction = module("embedded.transaction")
    patch(transaction, "unseal", lambda table, key, record: record[transaction._HASH_BYTES :])
    patch(module("embedded.verification"), "is_sealed", lambda key, record: True)


@mutant
def no_page_check() -> None:
    """LMDB is trusted to find its way, checksums and counts are all that is looked at."""
    patch(module("embedded.verification"), "_check_pages", lambda snapshot, checking: iter(()))
    patch(module("embedded.snapshot").Snapshot, "meta", _meta)


def _meta(snapshot: Any) -> Any:
    found = snapshot.transaction().get("meta", b"meta")
    return module("embedded.store").decode_meta(found)


@mutant
def backup_by_file_copy() -> None:
    """The file is copied a page at a time, at a slow disk's pace, whatever is written meanwhile."""
    snapshot = module("embedded.snapshot")

    def copy_to(self: Any, path: Path, progress: object = None) -> None:
        self._txn.abort()  # or LMDB would keep the pages that are being copied
        with path.open("wb") as file:
            at = 0
            while page := os.pread(self._descriptor, 4096, at):
                file.write(page)
                at += len(page)
                time.sleep(0.0005)

    patch(snapshot.Snapshot, "copy_to", copy_to)
