"""Where log lines go: to stderr, and nowhere if that takes none.

A log is often a file on the disk that runs full. Then lines are lost, and nothing else: whoever
says that the disk is full must not end of saying so. Not buffered, because what a buffer could not
get rid of in the end would change the exit code.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


class LogFile:
    """What structlog writes lines to."""

    def __init__(self, stderr: TextIO) -> None:
        self._text: TextIO | None = None
        self._raw: io.FileIO | None = None
        self._is_amid_line = False
        try:
            self._raw = io.FileIO(stderr.fileno(), "w", closefd=False)
        except io.UnsupportedOperation:  # it is no file, but a test's
            self._text = stderr

    def write(self, line: str) -> None:
        """All of it, unless there is no room for that."""
        if self._text is not None:
            self._text.write(line)
            return
        assert self._raw is not None
        # Behind a line that was cut short another one begins.
        whole = "\n" + line if self._is_amid_line else line
        rest = whole.encode(errors="backslashreplace")
        try:
            while rest:
                written = self._raw.write(rest)
                if written is None:  # nobody reads, and whoever shares it would not wait
                    break
                self._is_amid_line = not rest[:written].endswith(b"\n")
                rest = rest[written:]
        except OSError:
            pass

    def flush(self) -> None:
        """Nothing is kept back."""
