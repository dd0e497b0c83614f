"""Rows into files, read again as they were, and where a file that was cut short goes on."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterd.event_rows import Row, decode, encode
from meterd.row_readers import csv_rows, json_lines
from meterd.row_writers import CsvWriter, JsonLinesWriter, cut_to_whole_lines, id_in_line

if TYPE_CHECKING:
    from pathlib import Path

# What a customer's id may have; metadata and reasons may have all of JSON.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.sampled_from(
    ["0", "-1.50", "1e5", "1.5E-7", "12345678901234567890.12345678901234567890"]
)
ROW = st.fixed_dictionaries(
    {
        "_id": st.uuids().map(str),
        "eventType": TEXT,
        "customerId": TEXT,
        "metadata": st.dictionaries(ANY_TEXT, st.one_of(st.none(), ANY_TEXT, st.integers())),
        "receivedAt": st.just("2026-01-14T11:15:00.001Z"),
    },
    optional={
        "timestamp": st.just("2026-01-14T11:00:00.000Z"),
        "idempotencyKey": TEXT,
        "void": st.fixed_dictionaries({"reason": ANY_TEXT}),
    },
)


def row(content: dict[str, Any], number: str = "1") -> Row:
    return decode(json.dumps({**content, "value": "#"}).replace('"#"', number).encode())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ROW, NUMBER), max_size=3), st.sampled_from(["csv", "jsonl"]))
def test_what_is_written_is_read_as_it_was(
    found: list[tuple[dict[str, Any], str]], form: str
) -> None:
    """Every text, every digit, and what is not there."""
    file = io.BytesIO()
    writer = CsvWriter(file) if form == "csv" else JsonLinesWriter(file)
    writer.write([row(*one) for one in found])
    writer.close()
    assert file.getvalue().count(b"\n") == len(found) + (form == "csv")
    file.seek(0)
    read = csv_rows(file, {}) if form == "csv" else json_lines(file)
    for (_, back), (content, number) in zip(read, found, strict=True):
        assert isinstance(back, Row)
        assert json.loads(encode(back), parse_float=str, parse_int=str)["value"] in {
            number,
            str(Decimal(number)),
        }
        assert {**json.loads(encode(back)), "value": 0} == {**content, "value": 0}


@pytest.mark.parametrize("size", [1, 10, 70_000, 200_000])
def test_a_file_is_cut_to_whole_lines(tmp_path: Path, size: int) -> None:
    """The last of them is given; a file without one is empty."""
    path = tmp_path / "export.part"
    line = b"x" * size
    for content, last, left in (
        (b"", b"", b""),
        (line, b"", b""),
        (line + b"\n", line, line + b"\n"),
        (b"a\n" + line + b"\nhalf", line, b"a\n" + line + b"\n"),
        (b"a\n" + line, b"a", b"a\n"),
    ):
        path.write_bytes(content)
        assert cut_to_whole_lines(path) == last
        assert path.read_bytes() == left


def test_the_id_in_a_line() -> None:
    """Of a header there is none."""
    file = io.BytesIO()
    CsvWriter(file).write([row({"_id": "i", "customerId": 'a,"b"'})])
    header, line = file.getvalue().splitlines()
    assert (id_in_line(header, "csv"), id_in_line(line, "csv")) == ("", "i")
    assert id_in_line(encode(row({"_id": "i"})), "jsonl") == "i"
