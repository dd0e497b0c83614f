"""How the log is written: for people on a terminal, else one JSON object a line, or as configured.

An entry holds what others chose: a path, an event type, the words of a webhook's receiver. Whatever
it is, it stays within its own entry: nothing ends the line or steers the terminal. JSON escapes all
but visible ASCII; on a terminal what is not printable is shown as Python would write it, and each
line of a traceback is set in, so that it begins like no entry.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from meterd.domain.config import LogFormat
from meterd.edge.request_log import current_id
from meterd.log_file import LogFile
from meterd.log_thinning import Thinning

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from typing import TextIO

    from meterd.domain.config import Config

_INDENT: Final = "\n    "
# Of a JSON object too, which people read now and then.
_FIRST: Final = ("timestamp", "level", "logger", "event")
_UNNAMED: Final = "meterd"


class _Logger(structlog.WriteLogger):
    """Named as ``get_logger`` was asked for it."""

    def __init__(self, file: TextIO, name: str = _UNNAMED) -> None:
        super().__init__(file)
        self.name = name


@contextmanager
def logging_as(config: Config) -> Iterator[None]:
    """Logs to stderr from now on; at the end it has told what was left out."""
    thinning = set_up_logging(config)
    try:
        yield
    finally:
        thinning.tell_all()


def set_up_logging(config: Config) -> Thinning:
    """As ``logging_as`` begins."""
    thinning = Thinning()
    file = LogFile(sys.stderr)
    structlog.configure(
        logger_factory=lambda *named: _Logger(cast("TextIO", file), *named),
        processors=[
            structlog.processors.add_log_level,
            structlog.stdlib.add_logger_name,
            thinning,
            partial(_tell_lost, file),
            _name_request,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without local variables, as it comes: those would show keys and secrets.
            structlog.processors.format_exc_info,
            _Rendering(is_terminal=sys.stderr.isatty()),
        ],
    )
    follow(config)
    return thinning


def follow(config: Config) -> None:
    """From now on the log is as that says; where a test has its own, only its level."""
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    for processor in structlog.get_config()["processors"]:
        if isinstance(processor, _Rendering):
            processor.form = config.log_format


def _tell_lost(
    file: LogFile, _logger: object, _method: str, entry: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """How many lines in front of this one were lost, where any were."""
    if file.lost:
        entry["lines_lost"] = file.lost
    return entry


def _name_request(
    _logger: object, _method: str, entry: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """In whose course this is logged, if in a request's."""
    request_id = current_id()
    if request_id is not None:
        entry.setdefault("request_id", request_id)
    return entry


class _Rendering:
    """The last processor: an entry as text, in either form."""

    def __init__(self, *, is_terminal: bool) -> None:
        self.form = LogFormat.AUTO
        self._is_terminal = is_terminal
        self._json = structlog.processors.JSONRenderer()
        self._console = structlog.dev.ConsoleRenderer(
            colors=is_terminal and not _wants_no_colours(),
            exception_formatter=structlog.dev.plain_traceback,
        )

    def __call__(self, logger: object, method: str, entry: MutableMapping[str, Any]) -> str | bytes:
        is_auto = self.form is LogFormat.AUTO
        if self.form is LogFormat.JSON or (is_auto and not self._is_terminal):
            first = {name: entry.pop(name) for name in _FIRST if name in entry}
            return self._json(logger, method, {**first, **entry})
        return self._console(logger, method, _printable_entry(entry))


def _wants_no_colours() -> bool:
    """https://no-color.org, and terminals that show escape codes as they are."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _printable_entry(entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The entry for a terminal. Several texts are shown one behind another; other values than texts
    by their repr, which is safe.
    """
    for name, value in entry.items():
        if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            entry[name] = printable(", ".join(value))
        elif isinstance(value, str):
            lines = value.split("\n") if name == "exception" else [value]
            entry[name] = _INDENT.join(printable(line) for line in lines)
    return entry


def printable(text: str) -> str:
    """As it is but for what does not print: control characters, line ends of all kinds, marks that
    change the direction of writing, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
