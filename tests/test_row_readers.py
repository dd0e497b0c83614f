"""Rows out of JSON lines and CSV: each by itself, with its line, whatever the others are."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from meterd.domain.errors import MeterdError
from meterd.event_rows import Row, Unfit, encode
from meterd.row_readers import csv_rows, json_lines, row_of_texts


def shown(row: Row | Unfit) -> Any:
    return row.error if isinstance(row, Unfit) else json.loads(encode(row))


def lines(content: bytes) -> list[tuple[int, Any]]:
    return [(line, shown(row)) for line, row in json_lines(io.BytesIO(content))]


def rows(content: str | bytes, **columns: str) -> list[tuple[int, Any]]:
    raw = content.encode() if isinstance(content, str) else content
    return [(line, shown(row)) for line, row in csv_rows(io.BytesIO(raw), columns)]


def test_json_lines() -> None:
    """Empty lines count and are passed over; a byte order mark and CRLF do no harm."""
    assert lines(b'\xef\xbb\xbf{"value":1}\r\n\r\n {"value":2}') == [
        (1, {"value": 1}),
        (3, {"value": 2}),
    ]


def test_a_line_that_is_no_row_costs_itself() -> None:
    """However long it is: it is never in memory as a whole."""
    found = lines(b'{"value":1}\n{"value":' + b"1" * (5 << 20) + b'}\n[]\n{"value":2}\n')
    assert [line for line, _ in found] == [1, 2, 3, 4]
    assert found[1][1] == "is longer than 1,048,576 bytes"
    assert found[2][1].startswith("a row must be a JSON object")
    assert found[3][1] == {"value": 2}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv(separator: str) -> None:
    """What separates is what the header has most of; empty cells are not there."""
    text = "\ufeffcustomerId,value,note,timestamp\r\nacme,1.50,x,\r\nb,2,,2026-01-01\r\n"
    assert rows(text.replace(",", separator)) == [
        (2, {"customerId": "acme", "value": 1.5}),
        (3, {"customerId": "b", "value": 2, "timestamp": "2026-01-01"}),
    ]


def test_lines_of_csv_are_those_of_an_editor() -> None:
    """Where a row begins, also where cells have line ends."""
    text = 'customerId,value,note\na,1,"x\ny"\n\nb,2,\nc,"3\n",\n d ,4\n'
    assert [line for line, _ in rows(text)] == [2, 5, 6, 8]
    assert rows(text)[2][1] == {"customerId": "c", "value": 3}


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("0.10", "0.10"),
        (" 12345678901234567890.123456789 ", "12345678901234567890.123456789"),
        ("+5", "5"),
        (".5", "0.5"),
        ("007", "7"),
        ("5.", "5"),
        ("1e400", "1E+400"),
        ("1,5", '"1,5"'),
        ("1_000", '"1_000"'),
        ("٣", '"٣"'),
        ("NaN", '"NaN"'),
    ],
)
def test_numbers_keep_their_digits(cell: str, number: str) -> None:
    """And what is none is left for meterd to refuse, with its own words."""
    assert encode(row_of_texts({"value": cell})) == f'{{"value":{number}}}'.encode()


def test_metadata_in_csv() -> None:
    """As JSON, or a column for each name, or both."""
    text = 'customerId,value,metadata,metadata.plan\na,1,"{""n"": 1.50}",pro\nb,2,,free\nc,3,,\n'
    assert [row.get("metadata") for _, row in rows(text)] == [
        {"n": 1.5, "plan": "pro"},
        {"plan": "free"},
        None,
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"a,1,{", "metadata is not JSON: Input data was truncated"),
        (b"a,1,{},2,3", "has 5 cells, and the header 4"),
        (b"\xffa,1", "is not UTF-8: "),
        (b'a,1,"{""a"": ""\xff""}"', "metadata is not UTF-8: byte 7"),
        (b"a,1,[1],x", "metadata must be an object"),
        (b'"a"b,1', "is no CSV: ',' expected after '\"'; is a quote not closed?"),
    ],
)
def test_a_row_of_csv_that_cannot_be_read_costs_itself(row: bytes, said: str) -> None:
    """The next one is read."""
    header = b"customerId,value,metadata,metadata.x\n"
    (line, error), after = rows(header + row + b"\nb,2\n")
    assert line == 2
    assert error.startswith(said)
    assert after == (3, {"customerId": "b", "value": 2})


def test_a_quote_that_is_not_closed_is_told_with_what_it_swallowed() -> None:
    """And what is behind a field's largest size is read again."""
    before = csv.field_size_limit()
    found = rows('customerId,value,note\na,1,"x\nb,2,\nc,3,\n')
    assert [line for line, _ in found] == [2]
    assert found[0][1].startswith("lines 2 to 4 are no CSV: unexpected end of data")
    swallowed = "\n".join(["b,2,"] * 300_000)
    found = rows(f'customerId,value,note\na,1,"x\n{swallowed}\n')
    assert found[0][1].startswith("lines 2 to 209,7")
    assert found[-1] == (300_002, {"customerId": "b", "value": 2})
    assert csv.field_size_limit() == before


def test_columns_of_other_names() -> None:
    """As they are said to be; one that has the field's own name is not it then."""
    text = "account,value,amount\nacme,x,3\n"
    found = rows(text, customerId="account", value="amount")
    assert found == [(2, {"customerId": "acme", "value": 3})]


@pytest.mark.parametrize(
    ("content", "columns", "said"),
    [
        ("", {}, "line 1: there is no header"),
        ("a,b\n", {}, 'no column customerId: there are "a", "b"; --column customerId=NAME'),
        ("customerId,b\n", {}, "no column value: there are"),
        ("a,value\n", {"customerId": "x"}, 'no column "x" for customerId: there are "a", "value"'),
        ("customerId,value,value\n", {}, "two columns are value: there are"),
    ],
)
def test_a_header_that_does_not_fit_is_an_error(
    content: str, columns: dict[str, str], said: str
) -> None:
    """Before anything is sent, naming what there is."""
    with pytest.raises(MeterdError) as refused:
        rows(content, **columns)
    assert str(refused.value).startswith(said)
