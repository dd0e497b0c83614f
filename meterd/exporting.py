"""Events out of a meterd that runs into a file, oldest first, a page in memory at a time.

The file has its name when it is whole, and another until then: what is left of one that was
interrupted goes on behind its last event.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Final, NamedTuple

import msgspec

from meterd.domain.errors import MeterdError
from meterd.domain.event_ids import from_text
from meterd.edge.parameters import event_cursor
from meterd.event_rows import Row, with_key_of_its_own
from meterd.parquet import ParquetWriter
from meterd.row_writers import (
    CsvWriter,
    JsonLinesWriter,
    RowWriter,
    cut_to_whole_lines,
    id_in_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meterd.client import Page

# With the largest metadata 32 MB.
PAGE: Final = 2000
_PAGE: Final = msgspec.json.Decoder(list[Row])


class Target(NamedTuple):
    """Where rows go, and behind which event they go on."""

    writer: RowWriter
    cursor: str | None


def export(
    ask: Callable[[str | None], Page], target: Target, wrote: Callable[[int], None]
) -> str | None:
    """Every page to its end; ``wrote`` is told of each. From when on all events are there, where
    some of before were pruned.
    """
    cursor = target.cursor
    while True:
        page = ask(cursor)
        rows = _PAGE.decode(page.content)
        target.writer.write([with_key_of_its_own(row) for row in rows])
        wrote(len(rows))
        if page.cursor is None:
            target.writer.close()
            return page.pruned_until
        cursor = page.cursor


def part_of(path: Path) -> Path:
    """What a file is called until it is whole."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def file_target(path: Path, form: str, *, resume: bool) -> Iterator[Target]:
    """A file of that name when all is written. Raises MeterdError where there is one, or part of
    one that is not to be gone on with. Of Parquet, which cannot be, no part is left.
    """
    part = part_of(path)
    if path.exists():
        raise MeterdError(f"{path} is there already: name another, or remove it")
    if part.exists() and not resume:
        raise MeterdError(f"{part} is left of an export: go on with --resume, or remove it")
    try:
        last = cut_to_whole_lines(part) if part.exists() else b""
        with part.open("ab") as file:
            yield Target(_writer(file, form, is_begun=bool(last)), _behind(part, last, form))
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as fault:
        raise MeterdError(f"{part}: cannot be written: {fault.strerror}") from fault
    finally:
        if form == "parquet":
            with suppress(OSError):
                part.unlink(missing_ok=True)


def stream_target(file: IO[bytes], form: str) -> Target:
    return Target(_writer(file, form, is_begun=False), None)


def _writer(file: IO[bytes], form: str, *, is_begun: bool) -> RowWriter:
    match form:
        case "csv":
            return CsvWriter(file, header=not is_begun)
        case "parquet":
            return ParquetWriter(file)
        case _:
            return JsonLinesWriter(file)


def _behind(part: Path, last: bytes, form: str) -> str | None:
    if not last:
        return None
    try:
        event_id = id_in_line(last, form)
        found = from_text(event_id) if event_id else None
    except (ValueError, LookupError, TypeError, StopIteration):
        found, event_id = None, "unfit"
    if found is None and event_id:
        raise MeterdError(f"{part} is no {form} that meterd export wrote: remove it")
    return event_cursor(found)
