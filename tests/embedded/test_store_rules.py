"""What LMDB and a disk ask of their user: which failure is which, no forks, short readers."""

from __future__ import annotations

import ast
import errno
import os
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import meterd
from meterd.domain.errors import CommitFailedError, DiskFullError
from meterd.embedded import data_folder
from meterd.embedded import store as store_module
from meterd.embedded.snapshot import open_snapshot
from meterd.embedded.store import Store
from meterd.embedded.transaction import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd.embedded.transaction import Transaction


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "data")) as opened:
        yield opened


def is_stored(store: Store) -> bool:
    with store.read() as txn:
        return txn.get("meta", b"a") is not None


def failing(code: int, called: int) -> Callable[[Transaction], None]:
    """Work that fails as LMDB does with that code, when errno is the other."""

    def work(txn: Transaction) -> None:
        txn.put("meta", b"a", b"1")
        store_module._errno().value = called
        raise OSError(code, "as told")

    return work


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_want_of_room_is_told_from_all_else(store: Store, code: int) -> None:
    """Nothing is stored, the operator is told what to do, and the next transaction is taken."""
    with pytest.raises(DiskFullError, match=r"data\.mdb cannot grow .*MiB are left.*make room"):
        store.write(failing(code, code))
    assert not is_stored(store)
    store.write(lambda txn: txn.put("meta", b"a", b"2"))


@pytest.mark.parametrize(
    ("room", "called", "raised"),
    [
        (0, 0, DiskFullError),  # a write was cut short, and there is no room
        (0, errno.EIO, CommitFailedError),  # a call failed: the disk is broken, and full
        (1 << 40, 0, CommitFailedError),
        (1 << 40, errno.EIO, CommitFailedError),
    ],
)
def test_only_a_write_cut_short_is_a_full_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch, room: int, called: int, raised: type[Exception]
) -> None:
    """LMDB calls both EIO."""
    monkeypatch.setattr(data_folder, "room_bytes", lambda file: room)
    with pytest.raises(raised):
        store.write(failing(errno.EIO, called))


def test_a_process_forked_from_one_with_a_store_may_not_use_it(store: Store) -> None:
    """LMDB forbids it: the child would let go of its parent's locks."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with suppress(AssertionError):
                store.write(lambda txn: txn.put("meta", b"a", b"1"))
                code = 2
            with suppress(AssertionError), store.read():
                code = 3
        finally:
            os._exit(0 if code == 1 else code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not is_stored(store)


def test_what_lmdb_is_told_is_no_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file format, which a later py-lmdb may choose anew, and how much it can hold; also for
    who reads beside it.
    """
    told: list[dict[str, Any]] = []
    opened: Any = lmdb.open

    def note(place: str, **options: Any) -> Any:
        told.append(options)
        return opened(place, **options)

    monkeypatch.setattr(lmdb, "open", note)
    Store(tmp_path).close()
    with open_snapshot(tmp_path):
        pass
    assert len(told) == 3  # the first makes it, beside its place
    for options in told:
        assert options["lib_version"] == 0
        assert options["map_size"] >= store_module.MAP_SIZE
        assert options["max_dbs"] >= len(TABLES)
        assert options["max_readers"] == store_module.READERS_MAX
        assert options["mode"] == 0o600


def test_readers_are_short() -> None:
    """Nothing in meterd waits for anything, or hands control back, while it has a snapshot; and
    each ends with its block.
    """
    long, loose = [], []
    for path in Path(meterd.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        within: set[ast.expr] = set()
        for node in ast.walk(tree):
            if not isinstance(node, ast.With | ast.AsyncWith):
                continue
            readers = {item.context_expr for item in node.items if is_reader(item.context_expr)}
            if readers:
                waits = ast.Await | ast.Yield | ast.YieldFrom | ast.AsyncWith | ast.AsyncFor
                if any(isinstance(inner, waits) for inner in ast.walk(node)):
                    long.append(f"{path.name}:{node.lineno}")
            within |= readers
        loose += [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and is_reader(node) and node not in within
        ]
    assert long == []
    assert loose == []


def is_reader(node: ast.expr) -> bool:
    return ast.unparse(node).endswith("store.read()")
