"""Rows out of JSON lines and CSV, one at a time: a file may be larger than memory.

What is wrong with a row is said in its place, and the next one is read. What is wrong with the
file, its header say, is a MeterdError.
"""

from __future__ import annotations

import csv
import io
import re
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Final

import msgspec
from msgspec import Raw

from meterd.domain.errors import MeterdError
from meterd.domain.plurals import number_of
from meterd.domain.sections import quoted
from meterd.event_rows import FIELDS, Row, Unfit, as_json, decode, encode

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from meterd.event_rows import Read

# Far over an event's metadata, and well under what a request may have.
_ROW_MAX: Final = 1 << 20
_SHOWN_MAX: Final = 2000
_BOM: Final = b"\xef\xbb\xbf"
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_JSON_COLUMNS: Final = ("metadata", "void")
_METADATA: Final = "metadata."
_DELIMITERS: Final = ",;\t"


def json_lines(file: IO[bytes]) -> Generator[Read]:
    """An object a line; empty lines are passed over."""
    line = 0
    while text := file.readline(_ROW_MAX + 1):
        line += 1
        if len(text) > _ROW_MAX:
            shown = text
            while text and not text.endswith(b"\n"):
                text = file.readline(_ROW_MAX)
            yield line, _unfit(f"is longer than {_ROW_MAX:,} bytes", shown)
            continue
        text = text.removeprefix(_BOM).strip() if line == 1 else text.strip()
        if text:
            yield line, _decoded(text)


def _decoded(text: bytes) -> Row | Unfit:
    try:
        return decode(text)
    except ValueError as fault:
        return _unfit(str(fault), text)


def _unfit(error: str, text: bytes) -> Unfit:
    return Unfit(error, text[:_SHOWN_MAX].decode(errors="replace"))


def csv_rows(file: IO[bytes], columns: Mapping[str, str]) -> Generator[Read]:
    """A header, then a row each; ``columns`` says which column has a field of another name.

    What separates is a comma, a semicolon or a tab, whichever the header has most of.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    before = csv.field_size_limit(_ROW_MAX)
    try:
        yield from _csv_rows(text, columns)
    finally:
        csv.field_size_limit(before)
        text.detach()


def _csv_rows(text: io.TextIOWrapper, columns: Mapping[str, str]) -> Generator[Read]:
    header = text.readline(_ROW_MAX)
    if not header.strip():
        raise MeterdError("line 1: there is no header: the first line of CSV names its columns")
    delimiter = max(_DELIMITERS, key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    places = places_in(names, columns)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    line = 1
    while True:
        begins = line + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as fault:
            line = reader.line_num + 1
            lost = f"lines {begins:,} to {line:,} are" if line > begins else "is"
            yield begins, Unfit(f"{lost} no CSV: {fault}; is a quote not closed?", "")
            continue
        line = reader.line_num + 1
        if cells:
            yield begins, _row_of(cells, names, places, delimiter)


def places_in(names: Sequence[str], columns: Mapping[str, str]) -> dict[str, int]:
    """At which place each field stands. Raises MeterdError where one is not there, that must be."""
    there = f"there are {', '.join(map(quoted, names))}"
    for field, column in columns.items():
        if column not in names:
            raise MeterdError(f"no column {quoted(column)} for {field}: {there}")
    renamed = {column: field for field, column in columns.items()}
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        field = renamed.get(name, "" if name in columns else name)
        if field not in FIELDS and not field.startswith(_METADATA):
            continue
        if field in places:
            raise MeterdError(f"two columns are {field}: {there}")
        places[field] = place
    for field in ("customerId", "value"):
        if field not in places:
            raise MeterdError(
                f"no column {field}: {there}; --column {field}=NAME says which of them it is"
            )
    return places


def _row_of(
    cells: list[str], names: Sequence[str], places: Mapping[str, int], delimiter: str
) -> Row | Unfit:
    if len(cells) > len(names):
        error = f"has {number_of(len(cells), 'cell')}, and the header {len(names)}"
        return Unfit(error, delimiter.join(cells)[:_SHOWN_MAX])
    given = {field: cells[place] for field, place in places.items() if place < len(cells)}
    try:
        return row_of_texts({field: cell for field, cell in given.items() if cell != ""})
    except ValueError as fault:
        shown = delimiter.join(cells)[:_SHOWN_MAX].encode(errors="replace").decode()
        return Unfit(str(fault), shown)


def row_of_texts(given: Mapping[str, str]) -> Row:
    """Of fields as text: ``metadata`` and ``void`` are JSON, ``metadata.x`` is a text by itself.

    Raises ValueError, with what is wrong.
    """
    found: dict[str, Raw] = {}
    more: dict[str, Raw] = {}
    for field, text in given.items():
        if field == "value":
            found[field] = _number(text.strip())
        elif field in _JSON_COLUMNS:
            found[field] = _json_of(field, text)
        elif field.startswith(_METADATA):
            more[field.removeprefix(_METADATA)] = as_json(text)
        else:
            found[field] = as_json(text)
    if more:
        found["metadata"] = Raw(encode({**_members(found.get("metadata")), **more}))
    return _row(found)


def _row(found: Mapping[str, Raw]) -> Row:
    made = Row()
    for field, value in found.items():
        setattr(made, _ATTRIBUTES[field], value)
    return made


_ATTRIBUTES: Final = {one.encode_name: one.name for one in msgspec.structs.fields(Row)}


def _number(text: str) -> Raw:
    """As JSON writes it, to the digit; what is no number is left for meterd to refuse."""
    return Raw(str(Decimal(text)).encode()) if _NUMBER.fullmatch(text) else as_json(text)


def _json_of(field: str, text: str) -> Raw:
    raw = text.encode(errors="surrogateescape")
    try:
        raw.decode()
        msgspec.json.decode(raw)
    except UnicodeDecodeError as fault:
        raise ValueError(f"{field} is not UTF-8: byte {fault.start}") from fault
    except msgspec.DecodeError as fault:
        why = str(fault).removeprefix("JSON is malformed: ")
        raise ValueError(f"{field} is not JSON: {why}") from fault
    except RecursionError as fault:
        raise ValueError(f"{field} is not JSON: nested too deep") from fault
    return Raw(raw)


def _members(metadata: Raw | None) -> dict[str, Raw]:
    if metadata is None:
        return {}
    try:
        return msgspec.json.decode(metadata, type=dict[str, Raw])
    except msgspec.ValidationError as fault:
        raise ValueError("metadata must be an object") from fault
