"""Where log lines go: to stderr, and nowhere if that takes none.

A log is often a file on the disk that runs full, or a pipe into a program that hangs. Then lines
are lost, counted, and nothing else: whoever says that the disk is full must not end of saying so,
and whoever serves must not wait for a reader that does not read, or for a terminal that Ctrl-S has
stopped. Not buffered, because what a buffer could not get rid of in the end would change the exit
code.
"""

from __future__ import annotations

import io
import os
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

# How long a reader is waited for in each window of time, all lines together; everything waits with
# it. One that is only slow for a moment loses nothing, one that hangs costs next to nothing.
PATIENCE_S: Final = 0.25
WINDOW_S: Final = 60.0


class LogFile:
    """What structlog writes lines to, one at a time."""

    def __init__(self, stderr: TextIO, now_s: Callable[[], float] = time.monotonic) -> None:
        # Lines that were not written, since the last one that was.
        self.lost = 0
        self._now_s = now_s
        self._patience_s = PATIENCE_S
        self._window_ends_at = now_s() + WINDOW_S
        self._text: TextIO | None = None
        self._raw: io.FileIO | None = None
        self._room = select.poll()
        self._is_amid_line = False
        try:
            self._raw = io.FileIO(_unwaited(stderr.fileno()), "w", closefd=False)
        except io.UnsupportedOperation:  # it is no file, but a test's
            self._text = stderr
        else:
            self._room.register(self._raw, select.POLLOUT)

    def write(self, line: str) -> None:
        """All of it, unless there is no room for that."""
        if self._text is not None:
            self._text.write(line)
        elif self._is_written(line):
            self.lost = 0
        else:
            self.lost += 1

    def _is_written(self, line: str) -> bool:
        assert self._raw is not None
        # Behind a line that was cut short another one begins.
        whole = "\n" + line if self._is_amid_line else line
        rest = whole.encode(errors="backslashreplace")
        with suppress(OSError):
            while rest and self._has_room():
                # What a pipe with room takes without waiting is no more than this.
                written = self._raw.write(rest[: select.PIPE_BUF])
                if written is None:  # whoever shares it would not wait, and was quicker
                    break
                self._is_amid_line = not rest[:written].endswith(b"\n")
                rest = rest[written:]
        return not rest

    def _has_room(self) -> bool:
        """Also where nobody reads any more: then writing says so."""
        if self._room.poll(0):
            return True
        began_at = self._now_s()
        if began_at >= self._window_ends_at:
            self._patience_s = PATIENCE_S
            self._window_ends_at = began_at + WINDOW_S
        if self._patience_s <= 0:
            return False
        found = self._room.poll(self._patience_s * 1000)
        self._patience_s -= self._now_s() - began_at
        return bool(found)

    def flush(self) -> None:
        """Nothing is kept back."""


def _unwaited(descriptor: int) -> int:
    """The same, or of a terminal one's own that is not waited for: it takes less at once than it
    says that it has room for. What others share with meterd stays as it is.
    """
    if os.isatty(descriptor):
        with suppress(OSError):  # it may be another user's
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            return os.open(f"/proc/self/fd/{descriptor}", flags)
    return descriptor
