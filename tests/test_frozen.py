"""What only the single binary needs; tests/system/test_binary.py has the binary itself."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from meterd.frozen import started_pid
from tests.daemon_process import ROOT

if TYPE_CHECKING:
    import pytest

SETTLED = """
import time
from meterd.frozen import settle
settle()
print("settled", flush=True)
time.sleep(20)
"""
UNPACKER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(60)
"""


def test_it_ends_with_the_one_that_unpacked_it() -> None:
    """Which can pass on every signal but the one that ends it."""
    run = [sys.executable, "-c", UNPACKER, SETTLED]
    with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, text=True) as unpacker:
        assert unpacker.stdout is not None
        assert unpacker.stdout.readline() == "settled\n"
        os.kill(unpacker.pid, signal.SIGKILL)
        ended, _, _ = select.select([unpacker.stdout], [], [], 10)
        assert ended, "the child still holds what it prints to"
        assert unpacker.stdout.read() == ""


def test_of_the_single_binary_the_parent_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a service manager knows."""
    assert started_pid() == os.getpid()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert started_pid() == os.getppid()
