"""meterd/domain/sections.py"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.sections import (
    Fault,
    Reader,
    Refused,
    Section,
    array,
    duration,
    flag,
    identifier,
    one_of,
    quoted,
    shown,
    string,
    whole_number,
    written,
)

OPTIONS: Final = {"": ("name", "on", "inner", "lists", "tables"), "inner": ("x", "only_here")}


def section(values: dict[str, Any], faults: list[Fault], **more: Any) -> Section:
    return Section(values, options=OPTIONS, faults=faults, **more)


def test_an_option_that_is_not_given_has_its_default() -> None:
    """And is no fault."""
    faults: list[Fault] = []
    assert section({}, faults).option("on", flag, True) is True
    assert not faults


def test_every_fault_is_gathered() -> None:
    """Reading goes on after a fault with a stand-in, also in tables below."""
    faults: list[Fault] = []
    root = section({"on": 1, "inner": {"x": 2}, "lists": [True, "no", False, 0]}, faults)
    assert root.option("on", flag, False) is False
    assert root.table("inner").required("x", string(at_most=5), "") == ""
    assert root.each("lists", flag, at_most=9) == (True, False)
    assert root.required("name", string(at_most=5), "stand-in") == "stand-in"
    assert [str(fault) for fault in faults] == [
        "on: must be true or false, not 1",
        "inner.x: must be a string, not 2",
        'lists[1]: must be true or false, not "no"',
        "lists[3]: must be true or false, not 0",
        "name is missing",
    ]


def test_what_is_no_table_is_named_and_left_out() -> None:
    """There is nothing in it to read, so it makes one fault and not several."""
    faults: list[Fault] = []
    root = section({"tables": [{}, 1], "inner": {"a": {}, "b": "c"}}, faults)
    assert [below.path for below in root.tables("tables", at_most=5)] == [("tables", 0)]
    assert list(root.named_tables("inner", at_most=5)) == ["a"]
    assert [str(fault) for fault in faults] == [
        "tables[1]: must be a table, not 1",
        'inner.b: must be a table, not "c"',
    ]


def test_single_brackets_are_pointed_out() -> None:
    """``[webhooks]`` instead of ``[[webhooks]]`` is the common slip."""
    faults: list[Fault] = []
    assert section({"tables": {}}, faults).tables("tables", at_most=5) == []
    message = "tables: must be an array of tables ([[double brackets]]), not a table"
    assert [str(fault) for fault in faults] == [message]


def test_more_than_the_most() -> None:
    """Arrays and tables of tables are bounded."""
    faults: list[Fault] = []
    root = section({"tables": [{}] * 3, "inner": {"a": {}, "b": {}, "c": {}}}, faults)
    root.tables("tables", at_most=2)
    root.named_tables("inner", at_most=2)
    assert [str(fault) for fault in faults] == [
        "tables: must hold at most 2, not 3",
        "inner: must hold at most 2, not 3",
    ]


@pytest.mark.parametrize(
    ("kind", "key", "message"),
    [
        ("", "nmae", "unknown option; did you mean name?"),
        ("", "NAME", "unknown option; did you mean name?"),
        ("", "zzz", "unknown option; known are name, on, inner, lists, tables"),
        ("", "only_here", "unknown option; it is an option of inner"),
        (
            "inner",
            "name",
            "unknown option; it is an option of the top level, above the first [table]",
        ),
    ],
)
def test_an_unknown_option_is_refused_with_what_was_meant(
    kind: str, key: str, message: str
) -> None:
    """The nearest name, or the table it belongs to, or all there are."""
    faults: list[Fault] = []
    section({key: 1}, faults, kind=kind).refuse_unknown()
    assert [fault.message for fault in faults] == [message]


def test_ignored_keys_are_neither_options_nor_tables() -> None:
    """``_comment`` may stand at any level of the old system's files."""
    faults: list[Fault] = []
    comment = {"_comment": "x"}
    root = section({**comment, "inner": {**comment}}, faults, ignored=frozenset(comment))
    root.refuse_unknown()
    root.table("inner").refuse_unknown()
    assert root.named_tables("inner", at_most=5) == {}
    assert not faults


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (one_of(Colour), "redd", 'must be one of red, blue, not "redd"; did you mean red?'),
        (one_of(Colour), "zz", 'must be one of red, blue, not "zz"'),
        (one_of(Colour), ["red"], "must be one of red, blue, not an array"),
        (one_of(Colour), True, "must be one of red, blue, not true"),
        (flag, None, "must be true or false, not null"),
        (string(at_most=3), "", "must be 1 to 3 bytes of UTF-8, not 0"),
        (string(at_most=3), "éé", "must be 1 to 3 bytes of UTF-8, not 4"),
        (string(at_most=3), "a\nb", "must not hold control characters or lone surrogates"),
        (string(at_most=3), "\ud800", "must not hold control characters or lone surrogates"),
        (string(at_most=3), dt.date(2026, 1, 1), "must be a string, not a date or time"),
        (string(at_most=3, secret=True), 12345, "must be a string, not a number"),
        (whole_number(at_least=1, at_most=16), 1.5, "must be a whole number from 1 to 16, not 1.5"),
        (duration(at_most_ms=60_000), 5, 'must be a duration such as "5s" or "30s", not 5'),
        (
            duration(at_most_ms=7 * 86_400_000),
            "soon",
            'must be a duration such as "30s", "5m", "1h30m" or "2d", not "soon"',
        ),
        (array(1), {}, "must be an array, not a table"),
        (array(1), [1, 2], "must hold at most 1, not 2"),
    ],
)
def test_a_reader_says_what_it_takes(read: Reader[Any], value: Any, message: str) -> None:
    """One line that goes on after the option's name."""
    with pytest.raises(Refused) as raised:
        read(value)
    assert str(raised.value) == message


@pytest.mark.parametrize("value", ["billing", "a", "A-1_b.c", "0", "x" * 64])
def test_an_identifier(value: str) -> None:
    """Letters, digits, dots, hyphens, underscores, up to 64."""
    assert identifier(value) == value


@pytest.mark.parametrize("value", ["", "-a", ".a", "a b", "é", "x" * 65, "a\n", 5])
def test_what_is_no_identifier(value: Any) -> None:
    """It stands in logs, metrics and URLs unescaped, so nothing else is taken."""
    with pytest.raises(Refused, match="must be up to 64 letters, digits"):
        identifier(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0x10**20, "a number"), (1.5, "1.5"), (7, "7"), (False, "false"), ({}, "a table")],
)
def test_what_a_message_repeats(value: Any, text: str) -> None:
    """Short numbers and strings; a number too long for Python to write does not end the reading."""
    assert shown(value) == text
    assert shown(16**20_000) == "a number"


@given(st.text())
def test_nothing_quoted_can_end_the_line(text: str) -> None:
    """A message stays one line without escape codes, whatever the file holds."""
    assert quoted(text).isprintable()
    assert len(quoted(text).splitlines()) == 1


def test_a_long_value_is_cut() -> None:
    """A message stays readable."""
    assert quoted("x" * 1000) == '"' + "x" * 60 + '..."'


def test_a_path_is_written_as_toml_does() -> None:
    """Names with dots are quoted, positions count from 0."""
    assert written(("events", "api.calls", "op")) == 'events."api.calls".op'
    assert written(("webhooks", 0, "url")) == "webhooks[0].url"
