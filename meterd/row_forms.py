"""The forms of files that events come from and go to, and what their names say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

FORMS: Final = ("jsonl", "csv", "parquet")
_FORM_OF: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


# What is read as CSV whatever stands between its cells; but what is written has commas.
_READ_ONLY: Final = ".tsv"


def form_of(file: Path) -> str | None:
    """By the end of its name; None where that says nothing."""
    return _FORM_OF.get(file.suffix.lower())


def form_to_write(file: Path) -> str | None:
    """As ``form_of``, of a file that is to be made."""
    return None if file.suffix.lower() == _READ_ONLY else form_of(file)
