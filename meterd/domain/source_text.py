"""Parses a TOML or JSON text, and tells on which of its lines the value at a key path stands.

Parsers give values without their places, and an operator needs the place. The places are found by a
second reading, done only when there is something to complain of. A path is the keys and list
positions that lead to a value; lines count from 1.
"""

from __future__ import annotations

import json
import re
import tomllib
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from meterd.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Form: TypeAlias = Literal["toml", "json"]
KeyPath: TypeAlias = tuple[str | int, ...]

TEXT_MAX: Final = 256 * 1024  # bytes; a thousand commented event types are under 100 KiB

# What can end a TOML value of several lines. Only a line with one of these is worth another parse,
# which keeps a long value from being parsed once for each of its lines.
_CLOSING: Final = ("]", '"""', "'''")
_TOML_PLACE: Final = re.compile(
    r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL
)
_JSON_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


class Document(msgspec.Struct, frozen=True):
    """What a text says, and the text."""

    values: dict[str, Any]
    source: str
    form: Form

    def lines(self) -> dict[KeyPath, int]:
        """The line of everything in it."""
        return toml_lines(self.source) if self.form == "toml" else json_lines(self.source)


def line_of(path: KeyPath, lines: Mapping[KeyPath, int]) -> int | None:
    """The line of the value, or of the nearest thing around it that has one; else None."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def parse(text: bytes, form: Form) -> Document:
    """Raises ConfigError naming the line. TOML refuses duplicate keys; in JSON the last wins."""
    if len(text) > TEXT_MAX:
        raise ConfigError(f"is longer than {TEXT_MAX} bytes")
    source = _utf8(text)
    try:
        # Numbers with a point keep every digit: a threshold may be one.
        load = tomllib.loads if form == "toml" else json.loads
        values = load(source, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_toml_fault(str(error), source)) from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"line {error.lineno}: not valid JSON at column {error.colno}: {error.msg}"
        ) from error
    except RecursionError as error:
        raise ConfigError("must not be nested this deeply") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise ConfigError("must not hold a number this long") from error
    if not isinstance(values, dict):
        raise ConfigError("must be a JSON object: { ... }")
    return Document(values, source, form)


def _utf8(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")  # some editors of Windows put the mark
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"line {line}: must be UTF-8") from error


def _toml_fault(message: str, source: str) -> str:
    matched = _TOML_PLACE.fullmatch(message)
    assert matched is not None, f"tomllib says where: {message}"
    what, line, column = matched.groups()
    if line is None:
        return f"line {source.rstrip().count(chr(10)) + 1}: not valid TOML at the end: {what}"
    return f"line {line}: not valid TOML at column {column}: {what}"


def toml_lines(text: str) -> dict[KeyPath, int]:
    """The first line of every table, key and value; what is inside a value has the value's line."""
    lines: dict[KeyPath, int] = {}
    tables: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, statement in _statements(text):
        content = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table = _header(content, tables)
            content = {}
        for path in _paths(content, table):
            for end in range(1, len(path) + 1):
                lines.setdefault(path[:end], number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each header, ``key = value``, comment and empty line, with the line it starts on."""
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            start = number
        statement += line + "\n"
        if (start == number or any(mark in line for mark in _CLOSING)) and _is_whole(statement):
            yield start, statement
            statement = ""


def _is_whole(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _header(content: dict[str, Any], tables: dict[KeyPath, int]) -> KeyPath:
    """The path a header opens; ``tables`` holds the last position of each ``[[array]]``."""
    path: KeyPath = ()
    below: Any = content
    while below:
        ((key, below),) = below.items()
        path += (key,)
        if isinstance(below, list):
            tables[path] = tables.get(path, -1) + 1
            below = below[0]
        if path in tables:
            path += (tables[path],)
    return path


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    yield path
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _paths(below, (*path, key))
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from _paths(below, (*path, position))


def json_lines(text: str) -> dict[KeyPath, int]:
    """The line of every key, and of every element of an array."""
    lines: dict[KeyPath, int] = {}
    # One entry for each open object (its current key, None before it) and array (a position).
    path: list[str | int | None] = []
    number, scanned = 1, 0
    for token in _JSON_TOKEN.finditer(text):
        number += text.count("\n", scanned, token.start())
        scanned = token.start()
        match token[0][0]:
            case "}" | "]":
                path.pop()
            case ",":
                path[-1] = path[-1] + 1 if isinstance(path[-1], int) else None
            case ":":
                pass
            case opening:
                if path and path[-1] is None:
                    path[-1] = json.loads(token[0])
                if path:
                    lines.setdefault(tuple(key for key in path if key is not None), number)
                if opening in "{[":
                    path.append(None if opening == "{" else 0)
    return lines
