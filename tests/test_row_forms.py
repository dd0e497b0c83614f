"""What a file's name says of its form."""

from __future__ import annotations

from pathlib import Path

import pytest

from meterd.row_forms import FORMS, form_of, form_to_write


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.b/c.CSV", "csv"),
        ("a.tsv", "csv"),
        ("a.parquet", "parquet"),
        ("a.xlsx", None),
        ("a.csv.gz", None),
        ("csv", None),
    ],
)
def test_the_end_of_a_name_says_it(name: str, form: str | None) -> None:
    """In whichever case; of what has none, or another, nothing is known."""
    assert form_of(Path(name)) == form
    assert form is None or form in FORMS


def test_tabs_are_read_and_not_written() -> None:
    """What an export writes has commas, and would stand in a file of tabs."""
    assert form_of(Path("a.TSV")) == "csv"
    assert form_to_write(Path("a.TSV")) is None
    assert form_to_write(Path("a.csv")) == "csv"
