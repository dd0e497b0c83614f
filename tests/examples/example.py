"""Runs an example as people do: a process of its own, told what to do by its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SECONDS_MAX = 60.0


def command(name: str, *arguments: str) -> list[str]:
    path = str(EXAMPLES / name)
    return [path, *arguments] if name.endswith(".sh") else [sys.executable, path, *arguments]


def environment(**variables: str) -> dict[str, str]:
    """Nothing of the caller's but where programs are: a proxy or an API_KEY there has no say."""
    return {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **variables}


def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(name, *arguments),
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS_MAX,
    )
