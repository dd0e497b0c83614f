"""The disk behind recorded operations: what may be on it when the power goes off.

A write lies in a cache until a sync of its file returns; one that is synced itself, until it
returns. Before that any of its 512-byte blocks may have reached the disk, each in any of its
versions. After a sync that failed nobody knows, for good: only what is written and synced anew is
known again. An entry of a folder (mkdir, a new file, rename) may be on the disk until a sync of
that folder returns, and is then.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from itertools import accumulate
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator
    from pathlib import Path

BLOCK: Final = 512
_HEAD: Final = struct.Struct("<BBHIQ")


class Kind(IntEnum):
    """As in ``faultshim.c``."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 3
    MKDIR = 4
    RENAME = 5
    MARK = 6
    LOST_SYNC = 7


class Operation(msgspec.Struct, frozen=True):
    kind: Kind
    is_synced: bool
    path: str
    offset: int
    data: bytes


def read_record(file: Path) -> Iterator[Operation]:
    """What the shim has recorded there."""
    found, at = file.read_bytes(), 0
    while at < len(found):
        kind, is_synced, path_length, length, offset = _HEAD.unpack_from(found, at)
        at += _HEAD.size
        path, data = found[at : at + path_length], found[at + path_length :][:length]
        at += path_length + length
        yield Operation(Kind(kind), bool(is_synced), path.decode(), offset, data)


class _File:
    """``durable`` is on the disk, but for the blocks of ``maybe``: each as any of its versions.

    Blocks of which a sync failed are ``lost``: no later sync brings them to the disk.
    """

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = bytearray(durable)
        self.maybe: dict[int, list[bytes]] = {}
        self.lost: set[int] = set()

    def write(self, offset: int, data: bytes) -> list[int]:
        """The numbers of the blocks that it touches."""
        blocks = list(range(offset // BLOCK, (offset + len(data) - 1) // BLOCK + 1))
        for block in blocks:
            now = bytearray(self._now(block))
            start, end = max(offset, block * BLOCK), min(offset + len(data), (block + 1) * BLOCK)
            now[start - block * BLOCK : end - block * BLOCK] = data[start - offset : end - offset]
            self.maybe.setdefault(block, []).append(bytes(now))
        self.lost.difference_update(blocks)
        return blocks

    def sync(self, blocks: Iterable[int]) -> None:
        for block in [each for each in blocks if each in self.maybe and each not in self.lost]:
            _put(self.durable, block, self.maybe.pop(block)[-1])

    def lose_sync(self) -> None:
        self.lost.update(self.maybe)

    def _now(self, block: int) -> bytes:
        if block in self.maybe:
            return self.maybe[block][-1]
        return bytes(self.durable[block * BLOCK : (block + 1) * BLOCK]).ljust(BLOCK, b"\0")


def _put(content: bytearray, block: int, data: bytes) -> None:
    if len(content) < (block + 1) * BLOCK:
        content.extend(bytes((block + 1) * BLOCK - len(content)))
    content[block * BLOCK : (block + 1) * BLOCK] = data


class _Entry(msgspec.Struct):
    """A change of a folder: a new folder or file, or another name for what has one."""

    path: str
    file: _File | None = None
    renamed_to: str | None = None
    is_durable: bool = False

    @property
    def folder(self) -> str:
        return str(PurePosixPath(self.path).parent)


# How much of what is not synced reached the disk: how many versions of each block, by its place in
# the list of all of them, and which entries.
Choice = tuple[tuple[int, ...], tuple[bool, ...]]


class Disk:
    """Operations happen to it, one after another."""

    def __init__(self, files: dict[str, bytes]) -> None:
        """``files`` are on it already, with the folders that they lie in."""
        self._entries: list[_Entry] = []
        self._files: dict[str, _File] = {}  # as the process sees them
        for path, content in files.items():
            folders = accumulate(PurePosixPath(path).parent.parts, lambda *parts: "/".join(parts))
            self._entries += [_Entry(folder, is_durable=True) for folder in folders]
            self._files[path] = _File(content)
            self._entries.append(_Entry(path, self._files[path], is_durable=True))

    def begin(self, operation: Operation) -> None:
        """The operation is in the air: of what it does any part may happen."""
        path = operation.path
        match operation.kind:
            case Kind.WRITE:
                if path not in self._files:
                    self._files[path] = _File()
                    self._entries.append(_Entry(path, self._files[path]))
                self._files[path].write(operation.offset, operation.data)
            case Kind.MKDIR:
                self._entries.append(_Entry(path))
            case Kind.RENAME:
                target = operation.data.decode()
                self._entries.append(_Entry(path, renamed_to=target))
                self._files = {
                    _moved(each, path, target): file for each, file in self._files.items()
                }

    def end(self, operation: Operation) -> None:
        """It has returned."""
        file = self._files.get(operation.path)
        if file is not None:
            if operation.kind is Kind.SYNC:
                file.sync(list(file.maybe))
            elif operation.kind is Kind.LOST_SYNC:
                file.lose_sync()
            elif operation.kind is Kind.WRITE and operation.is_synced:
                first, last = operation.offset, operation.offset + len(operation.data) - 1
                file.sync(range(first // BLOCK, last // BLOCK + 1))
        elif operation.kind is Kind.SYNC:
            for entry in self._entries:
                entry.is_durable |= entry.folder == operation.path

    def choices(self, source: random.Random, number: int) -> set[Choice]:
        """Up to so many ways in which it may be found: nothing, all, and anything in between."""
        counts = [len(versions) for file in self._open_files() for versions in file.maybe.values()]
        entries = sum(not entry.is_durable for entry in self._entries)
        most, none = tuple(counts), (0,) * len(counts)
        found: set[Choice] = {(none, (False,) * entries), (most, (True,) * entries)}
        for attempt in range(number - 2):
            blocks = list(most)
            if attempt % 3 == 0:
                blocks = [source.randint(0, each) for each in counts]
            elif attempt % 3 == 1 and blocks:
                blocks[source.randrange(len(blocks))] = 0
            else:
                cut = source.randint(0, len(blocks))
                blocks[cut:] = none[cut:]
            chosen = tuple(source.random() < 0.5 for _ in range(entries))
            found.add((tuple(blocks), chosen))
        return found

    def make(self, choice: Choice, folder: Path) -> None:
        """Makes the folder as it is found then, with what lies in it."""
        blocks, entries = iter(choice[0]), iter(choice[1])
        contents = {id(file): self._content(file, blocks) for file in self._open_files()}
        tree: dict[str, _File | None] = {".": None}
        for entry in self._entries:
            if not (entry.is_durable or next(entries)) or entry.folder not in tree:
                continue
            if entry.renamed_to is not None:
                tree = {_moved(each, entry.path, entry.renamed_to): it for each, it in tree.items()}
            else:
                tree[entry.path] = entry.file
        for path, file in tree.items():
            if file is None:
                (folder / path).mkdir(exist_ok=True)
            else:
                (folder / path).write_bytes(contents[id(file)])

    def _open_files(self) -> Iterable[_File]:
        return self._files.values()

    def _content(self, file: _File, blocks: Iterator[int]) -> bytearray:
        content = bytearray(file.durable)
        for block, versions in file.maybe.items():
            if arrived := next(blocks):
                _put(content, block, versions[arrived - 1])
        return content


def _moved(path: str, source: str, target: str) -> str:
    is_moved = path == source or path.startswith(f"{source}/")
    return target + path[len(source) :] if is_moved else path
