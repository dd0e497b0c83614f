"""webhook_receiver.py in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from typing import Any, Final

import httpx

from tests.examples.example import SECONDS_MAX, command, environment

NAME: Final = "webhook_receiver.py"
PATH: Final = "/webhooks/metering"


class Receiver:
    """The example in a process of its own, on a port of the system's choosing."""

    def __init__(self, **variables: str) -> None:
        self.process = subprocess.Popen(
            command(NAME),
            env=environment(PORT="0", **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        # So that a receiver that says nothing fails the test instead of stopping it for ever.
        self._watchdog = threading.Timer(SECONDS_MAX, self.process.kill)
        self._watchdog.start()
        self.banner = self.read_until("Waiting for webhooks...\n")
        found = re.search(r"^Listening on: http://localhost:(\d+)$", self.banner, re.MULTILINE)
        assert found, self.banner
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def read_until(self, end: str) -> str:
        assert self.process.stdout
        lines = []
        while True:
            line = self.process.stdout.readline()
            lines.append(line)
            assert line, f"ended before {end!r}: {lines}"
            if line == end:
                return "".join(lines)

    def post(self, body: bytes, headers: dict[str, str], path: str = PATH) -> tuple[int, Any]:
        answer = httpx.post(self.url + path, content=body, headers=headers, trust_env=False)
        assert answer.headers["content-type"] == "application/json"
        return answer.status_code, answer.json()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Ends it, which must succeed, and returns what it has said since it was last read."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=SECONDS_MAX)
        self._watchdog.cancel()
        assert self.process.returncode == 0, said
        before, goodbye, after = said.rpartition("\nShutting down gracefully...\n")
        assert (goodbye != "", after) == (True, "")
        return before
