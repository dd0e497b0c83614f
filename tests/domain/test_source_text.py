"""meterd/domain/source_text.py"""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.errors import ConfigError
from meterd.domain.source_text import (
    TEXT_MAX,
    Form,
    KeyPath,
    json_lines,
    line_of,
    parse,
    toml_lines,
)

TOML = '''\
# a comment with a = "b"
title = "x"   # line 2
list = [
  "one", # ] is no end
  "two",
]
text = """
[not.a.table]
key = 1
"""
a.b = { c = 1, "d.e" = [2, 3] }

[events."api.calls"]
op = "sum"
[[webhooks]]
url = "1"
[[webhooks]]
url = "2"
[[webhooks.parts]]
x = 1
[[webhooks.parts]]
x = 2
[webhooks.more]
y = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("list",), 3),
        (("list", 1), 3),
        (("text",), 7),
        (("a",), 11),
        (("a", "b", "d.e", 1), 11),
        (("events",), 13),
        (("events", "api.calls", "op"), 14),
        (("webhooks", 0, "url"), 16),
        (("webhooks", 1), 17),
        (("webhooks", 1, "url"), 18),
        (("webhooks", 1, "parts", 0, "x"), 20),
        (("webhooks", 1, "parts", 1, "x"), 22),
        (("webhooks", 1, "more", "y"), 24),
        (("webhooks", 0, "missing", "deeper"), 15),
        (("missing",), None),
        ((), None),
    ],
)
def test_the_line_of_a_toml_value(path: KeyPath, line: int | None) -> None:
    """The value's own line, or that of the nearest thing around it; nothing for the whole text."""
    assert line_of(path, toml_lines(TOML)) == line


def test_lines_ended_as_windows_does() -> None:
    """A carriage return does not shift the count."""
    assert toml_lines(TOML.replace("\n", "\r\n")) == toml_lines(TOML)


def test_a_long_value_is_not_parsed_once_for_each_of_its_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large text with a fault is complained of at once, not after minutes."""
    calls = 0
    loads = tomllib.loads

    def counting(text: str) -> Any:
        nonlocal calls
        calls += 1
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", counting)
    toml_lines('text = """\n' + "a line\n" * 1000 + '"""\n')
    assert calls < 10


JSON = """{
  "a": [1, {"b": "{\\"c\\": [,"},
    3],
  "d":
    {"e\\u0041": null},
  "f": [], "g": {}
}"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 2),
        (("a", 0), 2),
        (("a", 1, "b"), 2),
        (("a", 2), 3),
        (("d",), 4),
        (("d", "eA"), 5),
        (("g",), 6),
        (("missing",), None),
    ],
)
def test_the_line_of_a_json_value(path: KeyPath, line: int | None) -> None:
    """The line of the key, or of the element; brackets inside strings are only text."""
    assert line_of(path, json_lines(JSON)) == line


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_every_json_value_has_its_line(value: object) -> None:
    """Written with one value on each line, the lines follow the order of the text."""
    text = json.dumps({"top": value}, indent=1)
    lines = json_lines(text)
    assert list(lines.values()) == sorted(lines.values())
    for path, line in lines.items():
        key = path[-1]
        if isinstance(key, str):
            assert text.split("\n")[line - 1].lstrip().startswith(json.dumps(key))


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("toml", b"a = 1\nb = \n", "line 2: not valid TOML at column 5: Invalid value"),
        ("toml", b"a = 1\nb = [", "line 2: not valid TOML at the end: Invalid value"),
        ("toml", b"[a]\n[a]\n", "line 2: not valid TOML at column 3: Cannot declare ('a',) twice"),
        ("toml", b"a = 1\nb = '\xff'", "line 2: must be UTF-8"),
        ("toml", b"a = " + b"[" * 100_000, "must not be nested this deeply"),
        ("toml", b"a = " + b"9" * 5000, "must not hold a number this long"),
        ("toml", b" " * (TEXT_MAX + 1), f"is longer than {TEXT_MAX} bytes"),
        ("json", b'{"a": 1,\n}', "line 2: not valid JSON at column 1:"),
        ("json", b"", "line 1: not valid JSON at column 1: Expecting value"),
        ("json", b"[]", "must be a JSON object: { ... }"),
        ("json", b"[" * 100_000, "must not be nested this deeply"),
    ],
)
def test_a_text_that_cannot_be_parsed(form: Form, text: bytes, message: str) -> None:
    """The failure says which line, and is never another kind of exception."""
    with pytest.raises(ConfigError) as raised:
        parse(text, form)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(("form", "text"), [("toml", b"a = 1"), ("json", b'{"a": 1}')])
def test_a_byte_order_mark_is_no_fault(form: Form, text: bytes) -> None:
    """Some editors put one."""
    assert parse(b"\xef\xbb\xbf" + text, form).values == {"a": 1}
