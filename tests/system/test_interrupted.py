"""The command is interrupted, at every stage of its life: an exit code, and never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.daemon_process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {"serve": "serve", "verify": "verify", "keys": "keys list", "backup": "backup elsewhere"}
CASES = [
    (name, number, 0 if name == "serve" else 128 + number)
    for name in COMMANDS
    for number in (signal.SIGINT, signal.SIGTERM)
]
# What ``python -m meterd`` does first, as a module that was imported; more is imported behind it.
FIRST = " click.core\n"
# As the script that an installation makes.
SCRIPT = "import sys; from meterd.__main__ import main; sys.exit(main())"


def started(folder: Path, command: str, *python: str) -> subprocess.Popen[str]:
    """With a configuration that nobody has written to yet: who reads it waits."""
    os.mkfifo(folder / "waits.toml")
    return subprocess.Popen(
        [sys.executable, *python, *command.split(), "--config", str(folder / "waits.toml")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    """On both, when it has ended."""
    return "".join(process.communicate(timeout=15))


@pytest.mark.parametrize(("name", "number", "code"), CASES)
def test_while_it_is_imported(tmp_path: Path, name: str, number: signal.Signals, code: int) -> None:
    """The half second in which most people press Ctrl-C again."""
    process = started(tmp_path, COMMANDS[name], "-X", "importtime", "-m", "meterd")
    assert process.stderr is not None
    assert any(line.endswith(FIRST) for line in process.stderr)
    process.send_signal(number)
    assert "Traceback" not in said(process)
    assert process.returncode == code


@pytest.mark.parametrize("python", [("-m", "meterd"), ("-c", SCRIPT)], ids=["module", "script"])
@pytest.mark.parametrize(("name", "number", "code"), CASES)
def test_while_it_works(
    tmp_path: Path, name: str, number: signal.Signals, code: int, python: tuple[str, ...]
) -> None:
    """Here it reads its configuration, for as long as one likes. It says nothing."""
    process = started(tmp_path, COMMANDS[name], *python)
    with (tmp_path / "waits.toml").open("w"):  # opened when the other end is
        process.send_signal(number)
        assert said(process) == ""
    assert process.returncode == code


def test_a_daemon_that_has_not_begun_is_not_ended_by_a_reload(tmp_path: Path) -> None:
    """A supervisor may be as quick as that."""
    process = started(tmp_path, "serve", "-m", "meterd")
    with (tmp_path / "waits.toml").open("w") as file:
        process.send_signal(signal.SIGHUP)
        file.write("no TOML")
    assert "waits.toml: " in said(process)
    assert process.returncode == 1


def test_what_is_to_be_ignored_is_ignored(tmp_path: Path) -> None:
    """A shell starts what runs in the background with Ctrl-C ignored: that is for another."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = started(tmp_path, "check", "-m", "meterd")
    finally:
        signal.signal(signal.SIGINT, before)
    with (tmp_path / "waits.toml").open("w") as file:
        process.send_signal(signal.SIGINT)
        file.write("")
    assert "waits.toml is valid" in said(process)
    assert process.returncode == 0
