"""What follows the documents leaves nothing behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

import pytest

from tests.docs.reading import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# All of it holds the pipe open. The shell's number is told, which is that of its session, when it
# sleeps until the last one ends: in the moment before, bash may miss a signal.
SCRIPT = """
exec 9> alive
sleep 600 &
sh -c 'until grep -q "^State:.S" /proc/$PPID/status; do :; done; echo $PPID >&9; exec sleep 600'
"""
FOLLOWS = "follow({script!r}, Path())"
HAS_A_TERMINAL = "with Terminal({script!r}, Path(), {{}}) as terminal: terminal.wait_for('never')"
PROGRAM = """
from pathlib import Path
from tests.docs.shell import follow
from tests.docs.terminal import Terminal
"""
SECONDS_MAX = 20.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("does", [FOLLOWS, HAS_A_TERMINAL])
def test_a_shell_ends_with_the_tests(does: str, number: signal.Signals, tmp_path: Path) -> None:
    """With Ctrl-C, and however else they are ended; with all that it has started."""
    os.mkfifo(tmp_path / "alive")
    pipe = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    tests = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + does.format(script=SCRIPT)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    with os.fdopen(pipe) as alive:
        shell = int(_next(alive))
        try:
            tests.send_signal(number)
            tests.wait(timeout=SECONDS_MAX)
            assert _next(alive) == "", "something else was said"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell, signal.SIGKILL)
            tests.kill()
            tests.wait()


def _next(pipe: TextIO) -> str:
    """The next line, or nothing where nobody holds the pipe open any more."""
    found, _, _ = select.select([pipe], [], [], SECONDS_MAX)
    assert found, "nothing is said, and something holds the pipe open"
    return pipe.readline()
