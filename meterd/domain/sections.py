"""Reads a decoded TOML or JSON table option by option, gathering every fault instead of the first.

A reader of one option is a function from what stands there to its value, raising Refused with what
the option takes. After a fault reading goes on with a stand-in, so that one look at the log shows
all there is to mend; whoever reads must ask for the faults before using the values.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from meterd.domain.durations import examples_within, format_duration, parse_duration
from meterd.domain.source_text import KeyPath

T = TypeVar("T")
K = TypeVar("K", str, int)
E = TypeVar("E", bound=StrEnum)
Reader: TypeAlias = Callable[[Any], T]

# Option names of each kind of table, by the name the table stands under; "" is the top level.
Options: TypeAlias = Mapping[str, Sequence[str]]

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
DESCRIPTION_MAX: Final = 500  # bytes; a line or two for whoever reads the configuration
_SHOWN_MAX: Final = 60  # characters of a wrong value that a message repeats


class Refused(ValueError):  # noqa: N818 -- a reader's answer, caught in this file, no failure
    """What stands there is not what the option takes; the message goes on after its name."""


class Fault(msgspec.Struct, frozen=True):
    """One thing to mend: where, and what it takes."""

    path: KeyPath
    message: str

    def __str__(self) -> str:
        return f"{written(self.path)}: {self.message}" if self.path else self.message


class Section:
    """One table. ``kind`` is its entry in the options; tables below share the faults."""

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        options: Options,
        kind: str = "",
        path: KeyPath = (),
        faults: list[Fault],
        ignored: frozenset[str] = frozenset(),
    ) -> None:
        self.values = values
        self.path = path
        self._options = options
        self._kind = kind
        self._faults = faults
        self._ignored = ignored

    def fault(self, message: str, *below: str | int) -> None:
        self._faults.append(Fault((*self.path, *below), message))

    def option(self, name: str, read: Reader[T], default: T) -> T:
        """The option's value; the default if it is not given, and as a stand-in if it is wrong."""
        assert name in self._options[self._kind], f"{name} is no option of [{self._kind}]"
        if name not in self.values:
            return default
        try:
            return read(self.values[name])
        except Refused as refused:
            self.fault(str(refused), name)
            return default

    def required(self, name: str, read: Reader[T], stand_in: T) -> T:
        if name not in self.values:
            self.fault(f"{name} is missing")
        return self.option(name, read, stand_in)

    def each(self, name: str, read: Reader[T], *, at_most: int) -> tuple[T, ...]:
        """The elements of an array, those refused left out; empty if the option is not given."""
        found = []
        elements: list[Any] = self.option(name, array(at_most), [])
        for position, element in enumerate(elements):
            try:
                found.append(read(element))
            except Refused as refused:
                self.fault(str(refused), name, position)
        return tuple(found)

    def table(self, name: str) -> Section:
        """The table of that name; an empty one if it is not given."""
        return self._below(name, self.option(name, _table, {}), name)

    def tables(self, name: str, *, at_most: int) -> list[Section]:
        """The tables of an array of tables, in their order."""
        elements: list[Any] = self.option(name, array(at_most, tables=True), [])
        return list(self._tables(name, enumerate(elements)).values())

    def named_tables(self, name: str, *, at_most: int) -> dict[str, Section]:
        """The tables inside the table of that name, by their keys, in their order."""
        inside: dict[str, Any] = self.option(name, _table, {})
        found = self._tables(name, ((k, v) for k, v in inside.items() if k not in self._ignored))
        if len(found) > at_most:
            self.fault(f"must hold at most {at_most}, not {len(found)}", name)
        return found

    def _tables(self, name: str, values: Iterable[tuple[K, Any]]) -> dict[K, Section]:
        """Those that are tables; the others are faults, and there is nothing in them to read."""
        found = {}
        for key, value in values:
            try:
                found[key] = self._below(name, _table(value), name, key)
            except Refused as refused:
                self.fault(str(refused), name, key)
        return found

    def refuse_unknown(self) -> None:
        """A fault for each key that is no option here, with the name or place that was meant."""
        for name in self.values:
            if name not in self._options[self._kind] and name not in self._ignored:
                self.fault(f"unknown option; {self._meant(name)}", name)

    def _meant(self, name: str) -> str:
        known = self._options[self._kind]
        if near := nearest(name, known):
            return f"did you mean {near}?"
        homes = [kind for kind, names in self._options.items() if name in names]
        if len(homes) == 1:
            return f"it is an option of {homes[0] or 'the top level, above the first [table]'}"
        return f"known are {', '.join(known)}"

    def _below(self, kind: str, values: Mapping[str, Any], *path: str | int) -> Section:
        return Section(
            values,
            options=self._options,
            kind=kind,
            path=(*self.path, *path),
            faults=self._faults,
            ignored=self._ignored,
        )


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refused(f"must be true or false, not {shown(value)}")
    return value


def string(*, at_least: int = 1, at_most: int, secret: bool = False) -> Reader[str]:
    """A string of so many bytes of UTF-8 without control characters; a secret is never repeated."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise Refused(f"must be a string, not {kind_of(value) if secret else shown(value)}")
        categories = {unicodedata.category(letter) for letter in value}
        if categories & {"Cc", "Cs"}:
            raise Refused("must not hold control characters or lone surrogates")
        if not at_least <= len(value.encode()) <= at_most:
            raise Refused(
                f"must be {at_least} to {at_most} bytes of UTF-8, not {len(value.encode())}"
            )
        return value

    return read


def identifier(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Refused(
            "must be up to 64 letters, digits, dots, hyphens and underscores, the first a letter"
            f" or digit, not {shown(value)}"
        )
    return value


DESCRIPTION: Final = string(at_least=0, at_most=DESCRIPTION_MAX)


def one_of(kinds: type[E]) -> Reader[E]:
    def read(value: Any) -> E:
        names = [kind.value for kind in kinds]
        if value in names:
            return kinds(value)
        near = nearest(value, names) if isinstance(value, str) else None
        hint = f"; did you mean {near}?" if near else ""
        raise Refused(f"must be one of {', '.join(names)}, not {shown(value)}{hint}")

    return read


def array(at_most: int, *, tables: bool = False) -> Reader[list[Any]]:
    def read(value: Any) -> list[Any]:
        if not isinstance(value, list):
            meant = "an array of tables ([[double brackets]])" if tables else "an array"
            raise Refused(f"must be {meant}, not {shown(value)}")
        if len(value) > at_most:
            raise Refused(f"must hold at most {at_most}, not {len(value)}")
        return value

    return read


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"must be a table, not {shown(value)}")
    return value


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The valid name that was probably meant; difflib's own cut-off would take median for min."""
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)), None)


def kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float() | Decimal():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def shown(value: Any) -> str:
    """A wrong value as a message may repeat it: a string or number itself, the rest by its kind."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if abs(value) < 10**18:  # Python refuses to write very long integers
            return str(value)
        case float() | Decimal() if len(str(value)) <= _SHOWN_MAX:
            return str(value)
        case str():
            return quoted(value)
        case _:
            return kind_of(value)


def quoted(value: str) -> str:
    """In double quotes and cut short; nothing in it can end the line or steer a terminal."""
    cut = value if len(value) <= _SHOWN_MAX else value[:_SHOWN_MAX] + "..."
    return '"' + "".join(_printable(letter) for letter in cut) + '"'


def _printable(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def written(path: KeyPath) -> str:
    """``webhooks[0].url``, ``events."api.calls".op``: as TOML writes a dotted key."""
    parts = ""
    for key in path:
        if isinstance(key, int):
            parts += f"[{key}]"
        else:
            parts += ("." if parts else "") + (key if _BARE_KEY.fullmatch(key) else quoted(key))
    return parts


def duration(*, at_most_ms: int, at_least_ms: int = 0) -> Reader[int]:
    """Reads a length of time, in milliseconds."""

    def read(value: Any) -> int:
        duration_ms = parse_duration(value) if isinstance(value, str) else None
        if duration_ms is None:
            examples = examples_within(at_least_ms, at_most_ms)
            raise Refused(f"must be a duration such as {examples}, not {shown(value)}")
        if duration_ms > at_most_ms:
            raise Refused(f"must be at most {format_duration(at_most_ms)}, not {shown(value)}")
        if duration_ms < at_least_ms:
            raise Refused(f"must be at least {format_duration(at_least_ms)}, not {shown(value)}")
        return duration_ms

    return read


def whole_number(*, at_least: int, at_most: int) -> Reader[int]:
    """Reads an integer between the two."""

    def read(value: Any) -> int:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not at_least <= value <= at_most
        ):
            raise Refused(
                f"must be a whole number from {at_least} to {at_most}, not {shown(value)}"
            )
        return value

    return read
