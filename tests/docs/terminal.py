"""A clone of the repository, and a terminal in it where something runs until Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.docs.reading import ROOT
from tests.docs.shell import started

if TYPE_CHECKING:
    from collections.abc import Mapping

# As long as a shell may follow a page beside it, and less than a test may take.
SECONDS_MAX = 300.0
IN_IT = ("Makefile", "pyproject.toml", "systemconfig.toml")


def clone(folder: Path) -> Path:
    """What the pages find in a clone, with the .venv that it makes made already."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    for name in IN_IT:
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    for stamp in (".run", ".test", ".bench"):  # each is made behind the one before
        (folder / ".venv" / stamp).touch()
    return folder


class Terminal:
    """Runs a script within ``with``, and ends it as Ctrl-C does. ``said`` is all that it said."""

    def __init__(self, script: str, folder: Path, environ: Mapping[str, str]) -> None:
        self.said = ""
        self._shell = started(script, folder, environ)
        # What says nothing fails the test instead of stopping it for ever.
        self._watchdog = threading.Timer(SECONDS_MAX, self._send, [signal.SIGKILL])
        self._watchdog.daemon = True  # Ctrl-C may come while it starts, and nobody cancels it then

    def __enter__(self) -> Self:
        self._watchdog.start()
        return self

    def wait_for(self, text: str) -> None:
        """Returns when a line that holds it was said."""
        assert self._shell.stdout
        while text not in self.said:
            line = self._shell.stdout.readline()
            self.said += line
            assert line, f"it ended before it said {text!r}: {self.said}"

    def _send(self, number: signal.Signals) -> None:
        if self._shell.poll() is None:
            os.killpg(self._shell.pid, number)

    def __exit__(self, *_: object) -> None:
        self._send(signal.SIGINT)
        self.said += self._shell.communicate()[0]
        self._watchdog.cancel()
