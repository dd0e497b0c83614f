"""Counts with their nouns."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import meterd
from meterd.domain.plurals import number_of

PACKAGE = Path(meterd.__file__).parent
# What is counted, as of many; of rates (events/s) there is no singular.
BY_HAND = re.compile(
    r" (aggregations|attempts|cells|connections|customers|deliveries|differences|endpoints|events"
    r"|keys|rows|thresholds|webhooks)\b(?!/)"
)


@pytest.mark.parametrize(
    ("count", "noun", "written"),
    [
        (0, "event", "0 events"),
        (1, "event", "1 event"),
        (2000, "event", "2,000 events"),
        (1, "delivery", "1 delivery"),
        (2, "delivery", "2 deliveries"),
        (2, "key", "2 keys"),
    ],
)
def test_one_is_one(count: int, noun: str, written: str) -> None:
    """And none are many."""
    assert number_of(count, noun) == written


def test_no_noun_is_put_behind_a_count_by_hand() -> None:
    """It would be that of many where there is one. Constants, in capitals, are many."""
    by_hand = [
        f"{path.relative_to(PACKAGE)}:{text.lineno}: {ast.unparse(text)}"
        for path in PACKAGE.rglob("*.py")
        for text in ast.walk(ast.parse(path.read_text()))
        if isinstance(text, ast.JoinedStr)
        for value, behind in pairwise(text.values)
        if isinstance(value, ast.FormattedValue) and not ast.unparse(value.value).isupper()
        if isinstance(behind, ast.Constant) and BY_HAND.match(str(behind.value))
    ]
    assert by_hand == []
