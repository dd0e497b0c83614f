"""Rows into JSON lines and CSV, and where a file of these that was cut short goes on."""

from __future__ import annotations

import csv
import io
import os
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

import msgspec

from meterd.event_rows import FIELDS, encode

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.event_rows import Row

_PIECE: Final = 1 << 16
_AS_JSON: Final = ("value", "metadata", "void")


class RowWriter(Protocol):
    """``close`` ends what is written, and not the file."""

    def write(self, rows: list[Row]) -> None: ...

    def close(self) -> None: ...


class JsonLinesWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, rows: list[Row]) -> None:
        self._file.writelines(encode(row) + b"\n" for row in rows)

    def close(self) -> None:
        pass


class CsvWriter:
    """An empty cell is a field that is not there. ``metadata`` and ``void`` are JSON."""

    def __init__(self, file: IO[bytes], *, header: bool = True) -> None:
        self._file = file
        self._text = io.StringIO(newline="")
        self._csv = csv.DictWriter(self._text, FIELDS, lineterminator="\n")
        if header:
            self._csv.writeheader()

    def write(self, rows: list[Row]) -> None:
        for row in rows:
            raw = msgspec.json.decode(encode(row), type=dict[str, msgspec.Raw])
            self._csv.writerow({field: _cell(field, raw[field]) for field in raw})
        self._flush()

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        self._file.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()


def _cell(field: str, raw: msgspec.Raw) -> Any:
    return bytes(raw).decode() if field in _AS_JSON else msgspec.json.decode(raw)


def cut_to_whole_lines(path: Path) -> bytes:
    """Takes away what stands behind the last line end; the last line that is left, empty if none.

    No line end stands within a row that was written here.
    """
    with path.open("r+b") as file:
        end = _last_line_end(file, file.seek(0, os.SEEK_END))
        file.truncate(end)
        start = _last_line_end(file, max(end - 1, 0))
        file.seek(start)
        return file.read(end - start).removesuffix(b"\n")


def _last_line_end(file: IO[bytes], before: int) -> int:
    """The place behind the last line end that stands before that place; 0 if there is none."""
    while before > 0:
        start = max(before - _PIECE, 0)
        file.seek(start)
        found = file.read(before - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        before = start
    return 0


def id_in_line(line: bytes, form: str) -> str:
    """The ``_id`` of a row that was written here; empty for the header."""
    if form == "csv":
        found = next(csv.reader([line.decode()]))[0]
        return "" if found == FIELDS[0] else found
    text: str = msgspec.json.decode(line)["_id"]
    return text
