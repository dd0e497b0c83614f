"""How far a command is: seen on a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from meterd.bars import bar

SHOWN = """
from meterd.bars import bar
with bar("import", {total}) as shown:
    shown.show(50, "3 rows [b]")
    shown.say("line 2: [b]")
"""


def test_without_a_terminal_only_lines_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr; no bar in a log."""
    with bar("import", 100) as shown:
        shown.show(50, "3 rows")
        shown.say("line 2: [b]")
    assert capsys.readouterr() == ("", "line 2: [b]\n")


@pytest.mark.parametrize(("total", "seen"), [("100", b"50%"), ("None", b"0:00:0")])
def test_on_a_terminal_it_is_seen(total: str, seen: bytes) -> None:
    """With what is said above it, and texts as they are."""
    main, other = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    code = SHOWN.format(total=total)
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=other, stdout=subprocess.PIPE, env=environ, timeout=60
    )
    os.close(other)
    written = b""
    while b"[b]" not in written or seen not in written:
        written += os.read(main, 65_536)
    os.close(main)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"3 rows [b]" in written
    assert b"line 2: [b]" in written
