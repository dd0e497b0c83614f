"""Lists of commands, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Raw

from meterd.client import Page
from meterd.listing import PAGE, fields_of, list_pages, paging, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

COLUMNS = {"a": "first", "b": "second"}


def pages(*contents: bytes) -> Iterator[Page]:
    for place, content in enumerate(contents, start=1):
        yield Page(content, None if place == len(contents) else f"c{place}", "2026-01-01")


def list_all(*contents: bytes, all_pages: bool = True, as_json: bool = False) -> None:
    def row(found: dict[str, Raw]) -> dict[str, str]:
        return {name: shown(value) for name, value in found.items()}

    list_pages(pages(*contents), COLUMNS, row, all_pages=all_pages, as_json=as_json)


def test_each_page_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where more is listed than fits into memory; an empty page at the end is none."""
    list_all(b'[{"a":1.50}]', b'[{"a":"x","b":2}]', b"[]")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["FIRST"],
        ["1.50"],
        ["FIRST", "SECOND"],
        ["x", "2"],
    ]
    list_all(b"[]")
    assert capsys.readouterr().out == "none\n"


def test_one_page_says_what_is_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    """And what is gone; on stderr, so that stdout is the list."""
    list_all(b'[{"a":1}]', b'[{"a":2}]', all_pages=False, as_json=True)
    told = capsys.readouterr()
    assert told.out == '{"a":1}\n'
    assert told.err.splitlines() == [
        "note: of before 2026-01-01 some were pruned (retention.events)",
        "there are more: --all lists them, --cursor c1 goes on",
    ]


def test_objects_are_printed_as_they_came(capsys: pytest.CaptureFixture[str]) -> None:
    """To the digit, one a line."""
    list_all(b'[{"a":1.50},{"b":12345678901234567890}]', b"[]", as_json=True)
    assert capsys.readouterr().out == '{"a":1.50}\n{"b":12345678901234567890}\n'


def test_fields_are_shown_without_quotes() -> None:
    """Texts as they are, all else as its JSON."""
    [found] = fields_of([Raw(b'{"a":"x\\"","b":[1.0],"c":null}')])
    assert {name: shown(value) for name, value in found.items()} == {
        "a": 'x"',
        "b": "[1.0]",
        "c": "null",
    }


def test_all_pages_are_large() -> None:
    """Whatever the limit of one is."""
    assert paging(5, None, all_pages=False) == {"limit": 5, "cursor": None}
    assert paging(5, "c", all_pages=True) == {"limit": PAGE, "cursor": "c"}
