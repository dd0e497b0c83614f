"""LMDB's own pages, read as a file and checked without LMDB, which trusts what it reads.

A flipped bit in a page's header or in a branch sends LMDB to the wrong page: it then finds nothing
where something stands, gives what another tree holds, or crashes. Here every page of a snapshot is
reached from its meta page, once, with keys in order and within the bounds of the branch above;
pages in use and pages that are free make up the whole file.

This is the format of LMDB 0.9 (data version 1, 64 bits, little-endian), as ``mdb.c`` writes it.
Knows nothing of what meterd keeps in its records.
"""

from __future__ import annotations

import os
import struct
from operator import lt
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_META: Final = struct.Struct("<IIQQ48s48sQQ")  # magic, version, address, map size, two trees, ...
_TREE: Final = struct.Struct("<IHHQQQQQ")
_HEADER: Final = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_NODE: Final = struct.Struct("<HHHH")  # size low, size high, flags, key size
_NUMBER: Final = struct.Struct("<Q")
_HEADER_BYTES: Final = _HEADER.size
_NODE_BYTES: Final = _NODE.size
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_NOWHERE: Final = (1 << 64) - 1
_METAS: Final = 2
_DEPTH_MAX: Final = 32
_PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536)
# Flags of pages, of nodes, and of the tree of free pages.
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 0x01, 0x02, 0x04, 0x08
_BIG, _SUBTREE = 0x01, 0x02
_INTEGER_KEYS: Final = 0x08


class DamagedError(Exception):
    """The pages are not what LMDB writes; the message says which, and why."""


class Tree(NamedTuple):
    """What LMDB keeps of a table: where it begins, and what it is made of."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class Snapshot(NamedTuple):
    """One of the two meta pages."""

    free: Tree
    main: Tree
    last_page: int
    txn_id: int
    page_bytes: int


Node = tuple[bytes, bytes, int]


def read_metas(descriptor: int) -> tuple[bytes, bytes]:
    """Both meta pages, as they are in this moment; DamagedError where there are none."""
    first = _read(descriptor, _PAGE_SIZES[0], 0)
    if len(first) < _HEADER_BYTES + _META.size:
        raise _too_short(descriptor)
    page_bytes = _TREE.unpack(_META.unpack_from(first, _HEADER_BYTES)[4])[0]
    if page_bytes not in _PAGE_SIZES:
        raise DamagedError(
            f"not meterd's: its first page says that pages have {page_bytes:,} bytes"
        )
    second = _read(descriptor, page_bytes, page_bytes)
    if len(second) < page_bytes:
        raise _too_short(descriptor)
    return first, second[: len(first)]


def _too_short(descriptor: int) -> DamagedError:
    return DamagedError(f"too short to be meterd's ({os.fstat(descriptor).st_size:,} bytes)")


def decode_metas(raw: tuple[bytes, bytes]) -> Snapshot:
    """The later of both, which LMDB reads, when they are what two commits leave behind.

    A commit writes the meta page of its number's parity, and numbers go up by one. Only so does a
    flipped bit in a number show, which would bring the commit before it back to life.
    """
    metas = [_decode_meta(number, page) for number, page in enumerate(raw)]
    older, newer = sorted(metas, key=lambda meta: meta.txn_id)
    is_new = older.txn_id == newer.txn_id == 0
    if not is_new and (newer.txn_id - older.txn_id != 1 or metas[newer.txn_id & 1] is not newer):
        raise DamagedError(
            f"its first two pages are of commits {metas[0].txn_id} and {metas[1].txn_id},"
            " and one does not follow the other"
        )
    return newer


def older_root(raw: tuple[bytes, bytes]) -> int | None:
    """The first page of the commit before the last, None where that was of an empty store."""
    older = min((_decode_meta(*numbered) for numbered in enumerate(raw)), key=lambda m: m.txn_id)
    return None if older.main.root == _NOWHERE else older.main.root


def _decode_meta(number: int, page: bytes) -> Snapshot:
    own_number, _, flags, _, _ = _HEADER.unpack_from(page)
    magic, version, _, map_bytes, free, main, last_page, txn_id = _META.unpack_from(
        page, _HEADER_BYTES
    )
    if (own_number, flags, magic, version) != (number, _META_PAGE, _MAGIC, _VERSION):
        raise DamagedError(f"not meterd's: page {number} is not what such a file begins with")
    free_tree, main_tree = Tree(*_TREE.unpack(free)), Tree(*_TREE.unpack(main))
    if free_tree.pad not in _PAGE_SIZES or free_tree.flags != _INTEGER_KEYS or main_tree.flags:
        raise DamagedError(f"page {number} has flags that meterd does not use")
    # The file may be shorter: what was freed again before its commit was never written.
    if last_page >= map_bytes // free_tree.pad:
        raise DamagedError(
            f"page {number} says that the last one is {last_page:,},"
            f" beyond the {map_bytes:,} bytes that are mapped"
        )
    return Snapshot(free_tree, main_tree, last_page, txn_id, free_tree.pad)


def require_file_end(path: Path) -> None:
    """Raises DamagedError where the file ends before a page that is in use.

    A process that has such a page mapped dies of SIGBUS when it reads it, without a word. A file
    may be shorter than it says, but not by these; only then is it read, and of leaves those only
    that may lead to large records.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        snapshot = decode_metas(read_metas(descriptor))
        in_file = os.fstat(descriptor).st_size // snapshot.page_bytes
        if in_file <= snapshot.last_page:
            pages = Pages(descriptor, snapshot)
            for tree in (snapshot.free, *pages.tables().values()):
                pages.require_within(in_file, tree)
    finally:
        os.close(descriptor)


class Pages:
    """The pages of one snapshot, each to be reached once."""

    def __init__(self, descriptor: int, snapshot: Snapshot) -> None:
        self._descriptor = descriptor
        self._snapshot = snapshot
        self._is_known = bytearray(snapshot.last_page + 1)
        self._is_known[:_METAS] = b"\1" * _METAS
        self.reached = _METAS
        self.in_file = len(self._is_known)

    def tables(self) -> dict[str, Tree]:
        """The named tables, from the main tree."""
        found = {}
        for leaf in self.leaves(self._snapshot.main, _SUBTREE):
            for name, data, _ in leaf:
                tree = Tree(*_TREE.unpack(data)) if len(data) == _TREE.size else None
                if tree is None or tree.flags or tree.pad:
                    raise DamagedError(f"the table {name!r} is not one of meterd's")
                found[name.decode("utf-8", "backslashreplace")] = tree
        return found

    def leaves(self, tree: Tree, kind: int = _BIG) -> Iterator[list[Node]]:
        """Each leaf's keys and data in order, the leaves in order; a node has no other flag.

        Raises DamagedError at the first page that is not right, or if the tree is not made of what
        it says.
        """
        if tree.root == _NOWHERE:
            if tree != tree._replace(depth=0, branch_pages=0, leaf_pages=0, entries=0):
                raise DamagedError("an empty tree has pages")
            return
        if not 0 < tree.depth <= _DEPTH_MAX:
            raise DamagedError(f"a tree has {tree.depth} levels")
        read: Callable[[bytes], Any] = bytes
        if tree.flags & _INTEGER_KEYS:
            read = _integer
        branches = leaves = entries = overflow = 0
        waiting: list[tuple[int, int, Any, Any]] = [(tree.root, 1, None, None)]
        while waiting:
            number, level, low, high = waiting.pop()
            page = self._take(number)
            is_leaf = level == tree.depth
            nodes = self._nodes(number, page, is_leaf=is_leaf)
            order = [read(key) for key, _, _ in nodes]
            if not is_leaf:
                order[0] = low  # the first key of a branch stands for all that is less
            _require_order(number, order, low, high)
            if is_leaf:
                leaves, entries = leaves + 1, entries + len(nodes)
                whole = []
                for key, data, flags in nodes:
                    if flags & ~kind:
                        raise DamagedError(f"page {number} has a node of an unknown kind")
                    if flags & _BIG:
                        large, pages = self._large(number, data)
                        overflow += pages
                        whole.append((key, large, flags))
                    else:
                        whole.append((key, data, flags))
                yield whole
            else:
                branches += 1
                bounds = [*order[1:], high]
                below = [
                    (_integer(child), level + 1, low, high)
                    for (_, child, _), low, high in zip(nodes, order, bounds, strict=True)
                ]
                waiting += reversed(below)
        has = (branches, leaves, overflow, entries)
        if has != (tree.branch_pages, tree.leaf_pages, tree.overflow_pages, tree.entries):
            raise DamagedError(
                f"a tree of {tree[3:7]} branches, leaves, large pages and entries has {has}"
            )

    def require_within(self, in_file: int, tree: Tree) -> None:
        """Raises DamagedError unless so many pages are enough for the whole tree."""
        waiting = [] if tree.root == _NOWHERE else [(tree.root, 1)]
        while waiting:
            number, level = waiting.pop()
            if number >= in_file:
                raise DamagedError(f"the file ends before page {number}")
            if level < tree.depth:
                nodes = self._nodes(number, self._take(number), is_leaf=False)
                waiting += [(_integer(child), level + 1) for _, child, _ in nodes]
            elif tree.overflow_pages:
                for _, data, flags in self._nodes(number, self._take(number), is_leaf=True):
                    if flags & _BIG:
                        first, count, _ = self._place(data)
                        if first + count > in_file:
                            raise DamagedError(f"the file ends before page {first + count - 1}")

    def check_free(self, replaced: int | None) -> None:
        """Pages that no tree reaches are free, each once, and no other is.

        To be called when every tree was read. ``replaced`` is the first page of the commit before:
        the last one wrote it anew, and so has freed it.
        """
        snapshot, freed_last = self._snapshot, set[int]()
        found: list[int] = []
        for leaf in self.leaves(snapshot.free):
            for key, data, _ in leaf:
                numbers = struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])
                if len(key) != _NUMBER.size or not numbers or numbers[0] + 1 > len(numbers):
                    raise DamagedError("a list of free pages is cut short")
                freed = numbers[1 : numbers[0] + 1]
                if _integer(key) > snapshot.txn_id:
                    raise DamagedError("pages were freed by a transaction that never was")
                if _integer(key) == snapshot.txn_id:
                    freed_last.update(freed)
                found += freed
        for number in found:
            self._know(number)
        if lost := self._is_known.count(0):
            raise DamagedError(f"pages neither in use nor free: {lost}")
        if replaced not in {None, snapshot.main.root} and replaced not in freed_last:
            raise DamagedError(
                "the first two pages of the file are not of one commit after the other"
            )

    def _know(self, number: int) -> None:
        if not _METAS <= number <= self._snapshot.last_page:
            raise DamagedError(f"there is no page {number}")
        if self._is_known[number]:
            raise DamagedError(f"page {number} has two uses")
        self._is_known[number] = 1

    def _take(self, number: int, count: int = 1) -> bytes:
        for each in range(number, number + count):
            self._know(each)
        self.reached += count
        page_bytes = self._snapshot.page_bytes
        page = _read(self._descriptor, count * page_bytes, number * page_bytes)
        if len(page) != count * page_bytes:
            raise DamagedError(f"the file ends before page {number}")
        if _NUMBER.unpack_from(page)[0] != number:
            raise DamagedError(f"page {number} holds another page")
        return page

    def _nodes(self, number: int, page: bytes, *, is_leaf: bool) -> list[Node]:
        """Of a branch, each node's data is the number of the page below."""
        _, _, flags, lower, upper = _HEADER.unpack_from(page)
        count = (lower - _HEADER_BYTES) // 2
        if flags != (_LEAF if is_leaf else _BRANCH) or count < (1 if is_leaf else 2):
            raise DamagedError(f"page {number} is not a {'leaf' if is_leaf else 'branch'}")
        if lower % 2 or not lower <= upper <= len(page):
            raise DamagedError(f"page {number} has impossible bounds")
        nodes, used = [], 0
        for at in struct.unpack_from(f"<{count}H", page, _HEADER_BYTES):
            if not upper <= at <= len(page) - _NODE_BYTES:
                raise DamagedError(f"page {number} has a node out of its bounds")
            low, high, node_flags, key_bytes = _NODE.unpack_from(page, at)
            begin = at + _NODE_BYTES + key_bytes
            key = page[at + _NODE_BYTES : begin]
            if is_leaf:
                size = _NUMBER.size if node_flags & _BIG else low | high << 16
                data = page[begin : begin + size]
                if node_flags & _BIG:
                    data += _NUMBER.pack(low | high << 16)
            else:
                size = 0
                data = _NUMBER.pack(low | high << 16 | node_flags << 32)
            if begin + size > len(page):
                raise DamagedError(f"page {number} has a node out of its bounds")
            used += (_NODE_BYTES + key_bytes + size + 1) & ~1
            nodes.append((key, data, node_flags if is_leaf else 0))
        if used != len(page) - upper:
            raise DamagedError(f"page {number} has nodes that overlap")
        return nodes

    def _place(self, data: bytes) -> tuple[int, int, int]:
        """Of what stands on pages of its own: the first of them, how many, and how long it is."""
        first, size = _NUMBER.unpack_from(data)[0], _NUMBER.unpack_from(data, 8)[0]
        return first, -(-(_HEADER_BYTES + size) // self._snapshot.page_bytes), size

    def _large(self, number: int, data: bytes) -> tuple[bytes, int]:
        """What stands on pages of its own, and how many these are."""
        first, count, size = self._place(data)
        pages = self._take(first, count)
        _, _, flags, low, high = _HEADER.unpack_from(pages)
        if (flags, low | high << 16) != (_OVERFLOW, count):
            raise DamagedError(f"page {first} is not what page {number} takes it for")
        return pages[_HEADER_BYTES : _HEADER_BYTES + size], count


def _read(descriptor: int, count: int, at: int) -> bytes:
    """Up to so many bytes. Raises DamagedError where the disk does not give them."""
    try:
        return os.pread(descriptor, count, at)
    except OSError as fault:
        raise DamagedError(f"cannot be read at byte {at}: {fault.strerror}") from fault


def _integer(key: bytes) -> int:
    return int.from_bytes(key, "little")


def _require_order(number: int, order: list[Any], low: Any, high: Any) -> None:
    """Keys go up from ``low`` on, and stay below ``high``; None bounds nothing."""
    keys = order[1:] if order[0] is None else order
    is_in_order = all(map(lt, keys, keys[1:]))
    if (
        not is_in_order
        or (low is not None and keys[0] < low)
        or (high is not None and keys[-1] >= high)
    ):
        raise DamagedError(f"page {number} has keys out of order")
