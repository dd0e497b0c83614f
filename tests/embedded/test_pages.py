"""Pages that are not what LMDB writes are found, without LMDB. See also the harness bit_flips."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from meterd.embedded.pages import (
    DamagedError,
    Pages,
    decode_metas,
    older_root,
    read_metas,
    require_file_end,
)
from meterd.embedded.store import Store
from meterd.embedded.transaction import Transaction
from tests.daemon_process import ROOT
from tests.embedded.sample_store import checked, copied_sample, lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = 4096
BRANCH, LEAF, OVERFLOW = 1, 2, 4
META_MAP = 16 + 8 + 8  # in a meta page: header, magic, address; then the map's size, trees,
META_LAST = META_MAP + 8 + 96  # the last page,
META_TXN = META_LAST + 8  # and the commit


class File:
    """A store's file, and where its pages of each kind are."""

    def __init__(self, data: Path) -> None:
        self.path = data / "store" / "data.mdb"
        self.bytes = bytearray(self.path.read_bytes())
        raw = self.metas()
        self.newer = decode_metas(raw).txn_id & 1

    def metas(self) -> tuple[bytes, bytes]:
        return bytes(self.bytes[:PAGE]), bytes(self.bytes[PAGE : 2 * PAGE])

    def used(self, flags: int) -> Iterator[int]:
        """Pages of that kind that a tree reaches."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            pages = Pages(descriptor, decode_metas(read_metas(descriptor)))
            for tree in pages.tables().values():
                list(pages.leaves(tree))
        finally:
            os.close(descriptor)
        known = pages._is_known
        for number in range(2, len(known)):
            if (
                known[number]
                and struct.unpack_from("<H", self.bytes, number * PAGE + 10)[0] == flags
            ):
                yield number

    def put(self, at: int, value: bytes) -> None:
        self.bytes[at : at + len(value)] = value
        self.path.write_bytes(self.bytes)

    def flip(self, at: int, bit: int = 0) -> None:
        self.put(at, bytes([self.bytes[at] ^ 1 << bit]))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return copied_sample(tmp_path)


def test_a_sound_file_is_read_whole(data: Path) -> None:
    """Every page is in use or free, and the kinds that this is about are there."""
    file = File(data)
    assert all(next(file.used(kind), 0) for kind in (BRANCH, LEAF, OVERFLOW))
    counts = checked(data)
    assert 100 < counts["pages"] <= len(file.bytes) // PAGE


@pytest.mark.parametrize("bit", range(64))
def test_no_flip_brings_the_commit_before_back(data: Path, bit: int) -> None:
    """Whichever bit of whichever meta page's number: the older commit would lack the last one's
    events, and be sound in itself.
    """
    file = File(data)
    for number in range(2):
        at = number * PAGE + META_TXN + bit // 8
        file.flip(at, bit % 8)
        assert lines(data), f"bit {bit} of meta page {number}"
        file.flip(at, bit % 8)
    assert lines(data) == []


@pytest.mark.parametrize("bit", range(64))
def test_the_last_page_is_one_that_can_be(data: Path, bit: int) -> None:
    """What is kept of each page would else be made for more than any memory holds."""
    file = File(data)
    at = file.newer * PAGE + META_LAST + bit // 8
    (map_bytes,) = struct.unpack_from("<Q", file.bytes, file.newer * PAGE + META_MAP)
    file.flip(at, bit % 8)
    (last_page,) = struct.unpack_from("<Q", file.bytes, file.newer * PAGE + META_LAST)
    if last_page * PAGE < map_bytes:
        assert decode_metas(file.metas()).last_page == last_page
    else:
        with pytest.raises(DamagedError, match=f"{last_page:,}, beyond the {map_bytes:,} bytes"):
            decode_metas(file.metas())
    assert lines(data)


def test_the_commit_before_is_told_from_a_later_one(data: Path) -> None:
    """Numbers alone cannot: with 2 taken off, the newer page passes for the one before both."""
    file = File(data)
    at = file.newer * PAGE + META_TXN
    newest = struct.unpack_from("<Q", file.bytes, at)[0]
    file.put(at, struct.pack("<Q", newest - 2))
    raw = file.metas()
    assert decode_metas(raw).txn_id == newest - 1
    assert older_root(raw) is not None
    assert any("one commit after the other" in line for line in lines(data))


@pytest.mark.parametrize("kind", [BRANCH, LEAF])
@pytest.mark.parametrize("at", [*range(8), *range(10, 16)])
def test_a_header_is_held_against_its_page(data: Path, kind: int, at: int) -> None:
    """Number, kind, bounds; two bytes of it mean nothing."""
    file = File(data)
    number = next(file.used(kind))
    for bit in range(8):
        file.flip(number * PAGE + at, bit)
        assert lines(data), f"bit {bit}"
        file.flip(number * PAGE + at, bit)


def test_a_branch_is_held_against_what_is_below(data: Path) -> None:
    """A flip in its bytes but the unused: a page or a bound that is another."""
    file = File(data)
    number = next(file.used(BRANCH))
    page = file.bytes[number * PAGE : (number + 1) * PAGE]
    upper = struct.unpack_from("<H", page, 14)[0]
    silent = Counter[str]()
    tried = range(upper, PAGE, 7)  # at each it is another bit, and another place of its node
    for at in tried:
        file.flip(number * PAGE + at, at % 8)
        if not lines(data):
            silent["found by nobody"] += 1
        file.flip(number * PAGE + at, at % 8)
    # A bound may be another one between the same two pages, and odd keys have a byte behind them.
    assert silent["found by nobody"] < len(tried) / 2


def test_a_large_record_is_held_against_its_pages(data: Path) -> None:
    """How many they are, and what they are."""
    file = File(data)
    number = next(file.used(OVERFLOW))
    for at in (0, 10, 12):
        file.flip(number * PAGE + at, 1)
        assert lines(data)
        file.flip(number * PAGE + at, 1)


def test_a_file_that_is_cut_short_is_damaged(data: Path) -> None:
    """At any page, and without its first pages."""
    path = File(data).path
    for size in (len(path.read_bytes()) // 2 // PAGE * PAGE, 2 * PAGE, PAGE, 100, 0):
        os.truncate(path, size)
        (line,) = lines(data)
        assert line.startswith("data.mdb: ")


def test_a_start_says_that_its_file_was_cut_short(data: Path) -> None:
    """In place of a bus error, of which nobody could know what it means."""
    path = File(data).path
    whole = path.stat().st_size
    start = (
        f"from pathlib import PosixPath; from meterd.embedded.store import Store; Store({data!r})"
    )
    for size in (whole // 2 // PAGE * PAGE, 2 * PAGE, PAGE, 0):
        os.truncate(path, size)
        ended = subprocess.run(
            [sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True
        )
        assert ended.returncode == 1, ended.stderr
        said = ended.stderr.splitlines()[-1]
        assert f"the store in {data} is damaged, restore a backup: data.mdb: " in said
        assert path.stat().st_size == size, "it was not touched"


def test_a_file_may_be_shorter_than_it_says(data: Path) -> None:
    """By pages that were freed before they were written, and no other."""
    file = File(data)
    require_file_end(file.path)
    in_use = {number for kind in (BRANCH, LEAF) for number in file.used(kind)}
    page, size = max(in_use), len(file.bytes)
    file.put(file.newer * PAGE + META_LAST, struct.pack("<Q", size // PAGE + 1))
    require_file_end(file.path)
    os.truncate(file.path, (page + 1) * PAGE)
    require_file_end(file.path)
    os.truncate(file.path, page * PAGE)
    with pytest.raises(DamagedError, match=f"the file ends before page {page}"):
        require_file_end(file.path)


def test_a_file_may_not_end_within_a_large_record(tmp_path: Path) -> None:
    """Which no branch leads to: a start would be over, and the first to read it die."""
    store = Store(tmp_path / "data")
    for number in range(20):  # which leaves free pages for whatever goes with the large one
        store.write(partial(Transaction.put, table="events", key=b"a", payload=bytes((number,))))
    store.write(partial(Transaction.put, table="events", key=b"b", payload=bytes(10 * PAGE)))
    store.close()
    file = File(tmp_path / "data")
    (first,) = file.used(OVERFLOW)
    assert max(*file.used(LEAF), *file.used(BRANCH)) < first
    for pages in range(first + 1, first + 11):
        os.truncate(file.path, pages * PAGE)
        with pytest.raises(DamagedError, match=f"the file ends before page {first + 10}"):
            require_file_end(file.path)


def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    """Whatever it is."""
    path = tmp_path / "file"
    for content in (b"", b"x" * 10_000, bytes(10_000)):
        path.write_bytes(content)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(DamagedError):
                decode_metas(read_metas(descriptor))
        finally:
            os.close(descriptor)
