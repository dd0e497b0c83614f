"""Whatever is logged stays within its own entry."""

from __future__ import annotations

import io
import json
import logging
import resource
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.config import Config, LogFormat, LogLevel
from meterd.log_lines import follow, printable, set_up_logging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET: Final = "never-to-be-shown"
FORGED: Final = "2026-01-01T00:00:00Z [info     ] delivered"
HOSTILE: Final = (
    f"a\n{FORGED}",
    f"a\r{FORGED}",
    f"a\r\n{FORGED}",
    f"a\x85{FORGED}",
    f"a\u2028{FORGED}",
    f"a\u2029{FORGED}",
    f"a\x0b{FORGED}",
    f"a\x0c{FORGED}",
    "a\x1b[2J\x1b[1;1H",
    "a\x1b]0;title\x07",
    "\x9b2J",
    "a\x08\x08\x7f\0",
    "\u202eright to left",
    "\udcff",
    '", "event": "forged',
)
texts = st.text() | st.sampled_from(HOSTILE)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class Stderr(io.StringIO):
    """A terminal, or a file."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: is_terminal  # type: ignore[method-assign]


def logged(said: str, value: str, *, is_terminal: bool, failing: bool = False) -> str:
    """One entry, whose event, value and exception are these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stderr := Stderr(is_terminal=is_terminal))
        patch.delenv("NO_COLOR", raising=False)
        patch.setenv("TERM", "xterm")
        set_up_logging(Config())
        fault = failure(value) if failing else None
        more = {} if fault is None else {"exc_info": fault}
        structlog.get_logger().error(said, value=value, **more)
    return stderr.getvalue()


def failure(value: str) -> ValueError:
    """One that was raised where there is a local variable."""
    local = f"local-{SECRET[::-1]}"
    try:
        _fail(value, local)
    except ValueError as fault:
        return fault
    raise AssertionError


def _fail(value: str, local: str) -> None:
    assert local
    raise ValueError(value)


@given(texts, texts, st.booleans())
def test_an_entry_is_one_line_of_json(said: str, value: str, failing: bool) -> None:
    """In visible ASCII, which holds what was said, to the letter."""
    line = logged(said, value, is_terminal=False, failing=failing)
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.isascii()
    entry: dict[str, Any] = json.loads(line)
    assert [entry[name] for name in ("event", "value", "level")] == [said, value, "error"]
    assert ("exception" in entry) == failing


@given(texts, texts)
def test_an_entry_is_one_line_on_a_terminal(said: str, value: str) -> None:
    """With no other escape codes than the colours that harmless words have."""
    shown = logged(said, value, is_terminal=True)
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert "\x1b[" in shown, "this is no terminal"
    assert unprintable(shown) == unprintable(logged("a", "a", is_terminal=True))


@given(texts)
def test_a_traceback_on_a_terminal_is_set_in(value: str) -> None:
    """No line of it begins as an entry does, whatever the exception says."""
    shown = logged("a", value, is_terminal=True, failing=True)
    entry, first, *traceback = shown.splitlines(keepends=True)
    assert unprintable(entry) == unprintable(logged("a", "a", is_terminal=True))
    assert first == "Traceback (most recent call last):\n"
    assert len(traceback) >= 3
    assert all(line.startswith("    ") for line in traceback)
    assert all(line.endswith("\n") and line[:-1].isprintable() for line in traceback)


def unprintable(text: str) -> list[str]:
    return [letter for letter in text if not letter.isprintable()]


def test_what_prints_is_shown_as_it_is() -> None:
    """In every script; the rest is written as Python writes it."""
    assert printable("Ж 計 é ' \\") == "Ж 計 é ' \\"
    assert printable("a\n\x1b\x9b\u2028\u202e\udcff") == r"a\n\x1b\x9b\u2028\u202e\udcff"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_several_texts_are_shown_as_text(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    """To people without brackets and quotes, and as harmless as one; to programs as a list."""
    monkeypatch.setattr(sys, "stderr", stderr := Stderr(is_terminal=is_terminal))
    monkeypatch.setenv("NO_COLOR", "1")
    set_up_logging(Config())
    url, change = ["http://127.0.0.1:8080"], ("one\x1b[2J", "two")
    structlog.get_logger().info("serving", change=change, free=[1], url=url)
    if is_terminal:
        shown = r"change='one\\x1b[2J, two' free=[1] url=http://127.0.0.1:8080"
        assert stderr.getvalue().rstrip().endswith(shown)
    else:
        assert json.loads(stderr.getvalue())["url"] == url


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_traceback_shows_no_local_variables(is_terminal: bool) -> None:
    """They would hold keys, secrets and bodies."""
    shown = logged("a", "visible", is_terminal=is_terminal, failing=True)
    assert "ValueError: visible" in shown
    assert f"local-{SECRET[::-1]}" not in shown


def test_log_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """What is under the configured level is not said."""
    set_up_logging(Config())
    for level in LogLevel:
        follow(Config(log_level=level))
        for said in LogLevel:
            number = logging.getLevelNamesMapping()[said.upper()]
            structlog.get_logger().log(number, f"{level} {said}")
    entries: list[dict[str, Any]] = [
        json.loads(line) for line in capsys.readouterr().err.splitlines()
    ]
    order = list(LogLevel)
    assert [entry["event"].split() for entry in entries] == [
        [level.value, said.value] for level in order for said in order[order.index(level) :]
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("form", LogFormat)
def test_the_form_is_the_one_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch, form: LogFormat, is_terminal: bool
) -> None:
    """Whatever stderr is, and from a reload on; ``auto`` is for people on a terminal only."""
    monkeypatch.setattr(sys, "stderr", stderr := Stderr(is_terminal=is_terminal))
    set_up_logging(Config(log_format=LogFormat.AUTO))
    follow(Config(log_format=form))
    structlog.get_logger("delivery").warning("attempt failed", endpoint="billing")
    is_json = form is LogFormat.JSON or (form is LogFormat.AUTO and not is_terminal)
    if is_json:
        entry = json.loads(stderr.getvalue())
        assert list(entry) == ["timestamp", "level", "logger", "event", "endpoint"]
        assert entry.pop("timestamp").endswith("Z")
        assert entry == {
            "event": "attempt failed",
            "level": "warning",
            "logger": "delivery",
            "endpoint": "billing",
        }
    else:
        assert "attempt failed" in stderr.getvalue()
        assert not stderr.getvalue().startswith("{")


@pytest.mark.parametrize(
    ("variables", "is_terminal", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    is_terminal: bool,
    coloured: bool,
) -> None:
    """https://no-color.org: set and not empty, it is obeyed."""
    monkeypatch.setattr(sys, "stderr", stderr := Stderr(is_terminal=is_terminal))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    set_up_logging(Config(log_format=LogFormat.CONSOLE))
    structlog.get_logger().warning("attempt failed", endpoint="billing")
    assert ("\x1b[" in stderr.getvalue()) == coloured


def test_lines_that_were_lost_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next one that is written, and once."""
    path = tmp_path / "log"
    with path.open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        set_up_logging(Config())
        log = structlog.get_logger()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            log.info("lost")
            log.info("lost, too")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        log.info("told")
        log.info("behind")
    told, behind = map(json.loads, path.read_text().splitlines())
    assert (told["event"], told["lines_lost"]) == ("told", 2)
    assert "lines_lost" not in behind
