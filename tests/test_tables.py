"""What commands print: columns for people, lines for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.tables import facts, print_json, table

if TYPE_CHECKING:
    import pytest

COLUMNS = {"id": "id", "lastError": "last error", "none": "none"}


def test_a_column_that_is_empty_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """And of no rows it is said that there are none."""
    table(COLUMNS, [{"id": "a"}, {"id": "b", "lastError": "x y", "more": 1}])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ID  LAST ERROR", "a", "b   x y"]
    table(COLUMNS, [])
    assert capsys.readouterr().out == "none\n"


def test_no_line_is_filled_up(capsys: pytest.CaptureFixture[str]) -> None:
    """One long value made all others as long; of several texts each has a line."""
    facts({"a": ["x: " + "y" * 300, "z: 1"], "b": [1], "c": "d", "e": []})
    assert capsys.readouterr().out.splitlines() == [
        "a  x: " + "y" * 300,
        "   z: 1",
        "b  [1]",
        "c  d",
    ]


def test_lines_are_as_long_as_they_need_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal: a program cuts them itself."""
    table(COLUMNS, [{"id": "i" * 300, "lastError": "e" * 300}])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_texts_of_strangers_steer_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the terminal nor the layout."""
    text = "\x1b[31mred\n[bold]b[/bold] :smile: é"
    table(COLUMNS, [{"id": text}])
    facts({"a": text, "b": [1, True]})
    printed = capsys.readouterr().out
    shown = r"\x1b[31mred\x0a[bold]b[/bold] :smile: é"
    assert printed.splitlines() == ["ID", shown, f"a  {shown}", "b  [1,true]"]


def test_json_is_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """In UTF-8, without spaces."""
    print_json({"a": "é", "b": None})
    assert capsys.readouterr().out == '{"a":"é","b":null}\n'
