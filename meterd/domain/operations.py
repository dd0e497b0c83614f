"""The seven operations by which an event type's totals are read."""

from __future__ import annotations

from enum import StrEnum


class Operation(StrEnum):
    """Which number a period's events of one type come down to."""

    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    COUNT = "count"
    FIRST = "first"
    LAST = "last"
