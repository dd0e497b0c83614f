"""How the log is written: for people on a terminal, else one JSON object a line.

An entry holds what others chose: a path, an event type, the words of a webhook's receiver. Whatever
it is, it stays within its own entry: nothing ends the line or steers the terminal. JSON escapes all
but visible ASCII; on a terminal what is not printable is shown as Python would write it, and each
line of a traceback is set in, so that it begins like no entry.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from meterd.log_file import LogFile

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

    from structlog.typing import Processor

_INDENT: Final = "\n    "


def set_up_logging() -> None:
    """Logs to stderr from now on."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without local variables, as it comes: those would show keys and secrets.
            structlog.processors.format_exc_info,
            *_renderers(is_terminal=sys.stderr.isatty()),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", LogFile(sys.stderr))),
    )


def set_log_level(log_level: str) -> None:
    level = logging.getLevelNamesMapping()[log_level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))


def _renderers(*, is_terminal: bool) -> list[Processor]:
    if not is_terminal:
        return [structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    return [_make_printable, structlog.dev.ConsoleRenderer(exception_formatter=plain)]


def _make_printable(
    _logger: object, _method: str, entry: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The entry for a terminal. Other values than texts are shown by their repr, which is safe."""
    for name, value in entry.items():
        if isinstance(value, str):
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
