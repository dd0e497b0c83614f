"""A harness that cannot be run is named, and fails where everything must be run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.torture.hindered import MUST_RUN

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("must_run", [False, True])
def test_a_machine_without_a_compiler_is_noticed(must_run: bool) -> None:
    """As `make test` runs it, in several processes: the end of the output says what and why."""
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider"]
    only = ["tests/system/test_torture.py", "-k", "test_it_does_no_harm and crash_images"]
    environ = {**os.environ, "PATH": "/nowhere", MUST_RUN: "1" if must_run else ""}
    finished = subprocess.run(
        [*command, *only], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert finished.returncode == int(must_run), finished.stdout
    assert "gcc is missing: it compiles tests/system/torture" in finished.stdout
    assert ("NOT RUN on this machine" in finished.stdout) is not must_run
