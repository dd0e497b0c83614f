"""Shell completion: in a real bash on a terminal, and scripts for the others."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meterd.cli import main
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 40


@pytest.mark.parametrize(
    ("shell", "part"),
    [
        ("bash", "complete -o nosort -F _meterd_completion meterd"),
        ("zsh", "#compdef meterd"),
        ("fish", "complete --no-files --command meterd"),
    ],
)
def test_each_shell_has_its_script(shell: str, part: str) -> None:
    """On stdout, and nothing else."""
    result = CliRunner().invoke(main, ["completion", shell])
    assert (result.exit_code, result.stderr) == (0, "")
    assert part in result.stdout
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2


def test_bash_completes(tmp_path: Path) -> None:
    """What is typed, with a tab, in a bash that has read the script as it is documented: commands,
    the commands within, options and the values that they take.
    """
    program = tmp_path / "meterd"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m meterd "$@"\n')
    program.chmod(0o755)
    main_end, other = pty.openpty()
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PS1": "$ ",
        "TERM": "dumb",
    }
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=tmp_path,
        env=environ,
        start_new_session=True,
    )
    os.close(other)
    try:
        os.write(main_end, b'eval "$(meterd completion bash)"; echo read-$((1+1))\n')
        read_until(main_end, r"read-2")
        for typed, completed in (
            (b"meterd deliveries rep", "meterd deliveries replay "),
            (b"meterd export --form", "meterd export --format "),
            (b"meterd aggregations --period mon", "meterd aggregations --period monthly "),
        ):
            os.write(main_end, typed + b"\t")
            read_until(main_end, re.escape(completed))
            os.write(main_end, b"\x15")  # forgets the line
    finally:
        bash.kill()
        bash.wait()
        os.close(main_end)


def read_until(terminal: int, pattern: str) -> None:
    shown = ""
    until = time.monotonic() + SECONDS
    while not re.search(pattern, shown):
        assert time.monotonic() < until, shown
        shown += os.read(terminal, 65_536).decode(errors="replace")
