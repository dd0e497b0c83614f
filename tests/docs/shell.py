"""Runs the shell blocks of a document, all of them, in their order, as a person would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.reading import blocks_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS_MAX = 240.0
# Where the documents say that meterd listens.
BASE_URL = "http://127.0.0.1:8080"
# In front of pages whose curl would not fail where meterd refuses. Each answer is a line.
STRICT_CURL = r"curl() { command curl -sS --fail-with-body --write-out '\n' " '"$@"; }'
# What the shell has started ends with it, and what is in the background is waited for. Where nobody
# reads any more, what bash says of that would be its end.
FRAME = """
set -euo pipefail
trap '{{ trap "" TERM; kill 0; wait; }} 2> /dev/null' EXIT
{script}
"""


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def pieces(document: Path, *beginnings: str) -> list[str]:
    """The document's shell blocks as scripts, one behind another: all up to the first that begins
    so, then from there up to the next, and so on to the end. So none can be left out.
    """
    found: list[list[str]] = [[]]
    left = list(beginnings)
    for block in blocks_of(document, "bash"):
        if left and block.text.startswith(left[0]):
            del left[0]
            found.append([])
        found[-1].append(block.text)
    assert not left, f"{document.name} has no block that begins with {left[0]!r}"
    return ["\n".join(texts) for texts in found]


def run(document: Path, folder: Path, replaced: Mapping[str, str]) -> str:
    """What all shell blocks of the document say, in one shell, each command of which succeeds."""
    [script] = pieces(document)
    return follow(script, folder, replaced)


def in_place(script: str, replaced: Mapping[str, str]) -> str:
    """The script with the reader's own texts for those that stand for them in the document."""
    for placeholder, own in replaced.items():
        assert placeholder in script, placeholder
        script = script.replace(placeholder, own)
    return script


def environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the caller's but where programs are, meterd among them."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(folder), **more}


def started(
    script: str, folder: Path, environ: Mapping[str, str], *options: str
) -> subprocess.Popen[str]:
    """A shell in that folder, in a session of its own: what signals its group reaches no test.

    It ends with the process that started it, however that ends: the kernel tells it (setpriv).
    """
    told = ["setpriv", "--pdeathsig", "TERM"]
    return subprocess.Popen(
        [*told, "bash", *options, "-c", FRAME.format(script=script)],
        cwd=folder,
        env=environment(folder, environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def follow(
    script: str,
    folder: Path,
    replaced: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> str:
    """What a script says that a shell in that folder runs, each command of which succeeds."""
    shell = started(in_place(script, replaced or {}), folder, environ or {}, "-x")
    try:
        said, _ = shell.communicate(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)  # with what it has in the background
        said, _ = shell.communicate()
    assert shell.returncode == 0, said[-6000:]
    return said
