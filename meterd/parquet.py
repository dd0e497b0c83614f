"""Events as Parquet, by pyarrow, which is an extra: most have no use for 150 MB more.

``value`` is the nearest double, for arithmetic, and ``valueExact`` every digit, as text;
``metadata`` and ``void`` are JSON. Instants are milliseconds in UTC.
"""

from __future__ import annotations

import datetime as dt
import sys
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.errors import MeterdError
from meterd.event_rows import FIELDS, Unfit, encode
from meterd.row_readers import places_in, row_of_texts

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from meterd.event_rows import Read, Row

_EXACT: Final = "valueExact"
_INSTANTS: Final = ("timestamp", "receivedAt")
_READ_AT_ONCE: Final = 2000
# A group of rows is in memory until it is written.
_GROUP_ROWS: Final = 20_000
_GROUP_BYTES: Final = 32 << 20


def library() -> Any:
    """Pyarrow. Raises MeterdError where it is not installed."""
    try:
        import pyarrow.parquet  # noqa: PLC0415 -- an extra, and takes half a second
    except ImportError as error:
        is_single_binary = getattr(sys, "frozen", False)
        lacks = "the single binary does not have" if is_single_binary else "is not installed"
        raise MeterdError(
            f"Parquet needs pyarrow, which {lacks}: pip install 'meterd[parquet]'"
        ) from error
    return pyarrow


class ParquetWriter:
    """Rows into a file, which is Parquet when it is closed and not before."""

    def __init__(self, file: IO[bytes]) -> None:
        self._arrow = library()
        text, instant = self._arrow.string(), self._arrow.timestamp("ms", tz="UTC")
        kinds = {name: instant if name in _INSTANTS else text for name in FIELDS}
        kinds["value"] = self._arrow.float64()
        self._schema = self._arrow.schema({**kinds, _EXACT: text})
        self._file = self._arrow.parquet.ParquetWriter(file, self._schema)
        self._group: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, rows: list[Row]) -> None:
        for row in rows:
            text = encode(row)
            self._bytes += len(text)
            self._group.append(_cells(msgspec.json.decode(text, type=dict[str, msgspec.Raw])))
        if len(self._group) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        if self._group:
            self._write_group()
        self._file.close()

    def _write_group(self) -> None:
        self._file.write_table(self._arrow.Table.from_pylist(self._group, schema=self._schema))
        self._group, self._bytes = [], 0


def _cells(row: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for field, raw in row.items():
        if field == "value":
            cells[_EXACT] = bytes(raw).decode()
            cells[field] = float(cells[_EXACT])
        elif field in ("metadata", "void"):
            cells[field] = bytes(raw).decode()
        else:
            text = msgspec.json.decode(raw)
            cells[field] = dt.datetime.fromisoformat(text) if field in _INSTANTS else text
    return cells


def parquet_rows(opened: IO[bytes], columns: Mapping[str, str]) -> Generator[Read]:
    """Rows by their number; ``columns`` says which column has a field of another name."""
    arrow = library()
    try:
        with arrow.parquet.ParquetFile(opened) as file:
            names = file.schema_arrow.names
            places = places_in(names, columns)
            if _EXACT in names and "value" not in columns:
                places["value"] = names.index(_EXACT)
            wanted = [names[place] for place in places.values()]
            number = 0
            for batch in file.iter_batches(_READ_AT_ONCE, columns=wanted):
                for given in batch.to_pylist():
                    number += 1
                    yield number, _row({field: given[names[at]] for field, at in places.items()})
    except arrow.ArrowException as fault:
        raise MeterdError(f"cannot be read as Parquet: {fault}") from fault


def _row(given: Mapping[str, Any]) -> Row | Unfit:
    try:
        texts = {field: _text(cell) for field, cell in given.items() if cell is not None}
        return row_of_texts(texts)
    except (ValueError, TypeError) as fault:
        return Unfit(str(fault), "")


def _text(cell: Any) -> str:
    match cell:
        case str():
            return cell
        case dt.datetime():
            return cell.isoformat(timespec="milliseconds")
        case dt.date() | Decimal():
            return str(cell)
        case float():
            return repr(cell)
        case _:
            return encode(cell).decode()
