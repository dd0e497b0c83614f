"""Runs the shell blocks of a document, all of them, in their order, as a person would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.reading import blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS_MAX = 240.0
# Where the documents say that meterd listens.
BASE_URL = "http://127.0.0.1:8080"
# What is started in the background ends with the script, and is waited for.
FRAME = """
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
{blocks}
"""


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def run(document: Path, folder: Path, replaced: Mapping[str, str]) -> str:
    """What the blocks say, each command of which succeeds, in a shell in that folder.

    ``replaced`` are the texts of the document that stand for the reader's own.
    """
    text = "\n".join(block.text for block in blocks(document) if block.language == "bash")
    for placeholder, own in replaced.items():
        assert placeholder in text, placeholder
        text = text.replace(placeholder, own)
    shell = subprocess.Popen(
        ["bash", "-x", "-c", FRAME.format(blocks=text)],
        cwd=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)  # with what it has in the background
        said, _ = shell.communicate()
    assert shell.returncode == 0, said[-6000:]
    return said
