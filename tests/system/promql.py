"""Which metrics an expression of Prometheus names, and which of their labels it uses.

Not a parser of PromQL: promtool is one, and checks the rules where it is installed. This finds what
must be exported for an expression to find anything.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

# Words that stand where a metric's name could.
_NO_METRICS: Final = frozenset(
    ("and", "or", "unless", "group_left", "group_right", "bool", "offset", "inf", "nan")
)
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR: Final = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_MATCHER: Final = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)")
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_WORD: Final = re.compile(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
_RANGE: Final = re.compile(r"\[[^\]]*\]")


class Used(NamedTuple):
    """``selected`` are labels with the metric that they are asked of; ``grouped`` the results'."""

    metrics: frozenset[str]
    selected: frozenset[tuple[str, str]]
    grouped: frozenset[str]


def used(expression: str) -> Used:
    plain = _RANGE.sub("", _STRING.sub('""', expression))
    grouped = {
        label.strip() for found in _GROUPING.findall(plain) for label in found.split(",") if label
    }
    plain = _GROUPING.sub("", plain)
    selected = {
        (name, label)
        for name, matchers in _SELECTOR.findall(plain)
        for label in _MATCHER.findall(matchers)
    }
    bare = _SELECTOR.sub(lambda found: found[1], plain)
    metrics = {word for word in _WORD.findall(bare) if word.lower() not in _NO_METRICS}
    return Used(frozenset(metrics), frozenset(selected), frozenset(grouped))
