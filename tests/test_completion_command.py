"""Shell completion: in a real bash and zsh on a terminal, and in a real fish."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meterd.cli import main
from tests.daemon_process import ROOT
from tests.system.torture.hindered import skip_if

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 40
# Without what is configured on this machine.
BARE = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config"],
}
# zsh knows completion from here on, as behind what its users have in ~/.zshrc.
BEFORE = {"bash": b"", "zsh": b"autoload -U compinit && compinit -u -D; "}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Where the command meterd is the one that is tested."""
    program = tmp_path / "meterd"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m meterd "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PS1": "$ ",
        "TERM": "dumb",
    }


def needs(shell: str) -> None:
    skip_if(None if shutil.which(shell) else f"{shell} is not installed (Debian: {shell})")


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


@pytest.mark.parametrize("shell", BEFORE)
def test_a_shell_completes(shell: str, environ: dict[str, str], tmp_path: Path) -> None:
    """What is typed, with a tab, in one that has read the script as it is documented: commands,
    the commands within, options and the values that they take.
    """
    needs(shell)
    main_end, other = pty.openpty()
    process = subprocess.Popen(
        BARE[shell],
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=tmp_path,
        env=environ,
        start_new_session=True,
    )
    os.close(other)
    try:
        begin = b'%beval "$(meterd completion %b)"; echo read-$((1+1))\n'
        os.write(main_end, begin % (BEFORE[shell], shell.encode()))
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
        process.kill()
        process.wait()
        os.close(main_end)


def read_until(terminal: int, pattern: str) -> None:
    shown = ""
    until = time.monotonic() + SECONDS
    while not re.search(pattern, shown):
        assert time.monotonic() < until, shown
        shown += os.read(terminal, 65_536).decode(errors="replace")


def test_fish_completes(environ: dict[str, str], tmp_path: Path) -> None:
    """The same, as it is asked without a terminal; descriptions and file names have commas."""
    needs("fish")
    (tmp_path / "a,b.csv").touch()
    for typed, completed in (
        ("meterd k", "keys\tMake, list and revoke API keys."),
        ("meterd deliveries rep", "replay\t"),
        ("meterd aggregations --period mon", "monthly"),
        ("meterd import a,", "a,b.csv"),
    ):
        asked = f"meterd completion fish | source; complete -C '{typed}'"
        done = subprocess.run(
            [*BARE["fish"], "-c", asked], cwd=tmp_path, env=environ, capture_output=True, text=True
        )
        assert done.stderr == ""
        assert completed in done.stdout, typed
