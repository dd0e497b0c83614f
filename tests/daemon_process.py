"""A real meterd in a process of its own, for tests of what only a process shows."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from meterd.domain.config import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
KEY = "test-key-of-a-length-that-nobody-guesses-0123456789"
START_SECONDS = 20.0

# The shipped event types; a port of the system's choosing and no webhook unless a test adds one.
CONFIG = """
periods = ["hourly", "daily", "weekly", "monthly"]
{options}
[server]
bind = "127.0.0.1:0"
{event_types}
{webhooks}
"""


def shipped_event_types() -> str:
    """The event types of the systemconfig.toml that meterd ships with."""
    import tomllib

    shipped = tomllib.loads((ROOT / "systemconfig.toml").read_text())
    return "\n".join(
        f'[events."{name}"]\nop = "{options["op"]}"' for name, options in shipped["events"].items()
    )


def surroundings() -> dict[str, str]:
    """The environment without what somebody has set there for a meterd of their own."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("METERD_") and name not in ENVIRONMENT[""]
    }


class DaemonProcess:
    """Started at once; ``url`` and ``key`` speak to it, ``log`` is what it has said."""

    def __init__(
        self,
        folder: Path,
        *,
        event_types: str | None = None,
        webhooks: str = "",
        options: str = "",
        environ: dict[str, str] | None = None,
        program: str = "meterd",
        pass_fds: Sequence[int] = (),
    ) -> None:
        """``program`` is the module that is run: meterd, or one that runs it under conditions.

        What stands behind it are arguments of the module's, in front of meterd's.
        """
        self.key = KEY
        self.program = program
        self.data = folder / "data"
        self.config = folder / "systemconfig.toml"
        self.configure(event_types=event_types, webhooks=webhooks, options=options)
        self._environ = environ or {}
        self._pass_fds = pass_fds
        self.log: list[dict[str, Any]] = []
        self.start()

    def configure(
        self, *, event_types: str | None = None, webhooks: str = "", options: str = ""
    ) -> None:
        """Writes the configuration file."""
        types = shipped_event_types() if event_types is None else event_types
        text = CONFIG.format(event_types=types, webhooks=webhooks, options=options)
        self.config.write_text(text)

    def command(self) -> list[str]:
        run = [sys.executable, "-m", *self.program.split()]
        return [*run, "serve", "--config", str(self.config)]

    def close_hours_alone(self) -> None:
        """From the next start on: in the hours before midnight others would close with them."""
        text = self.config.read_text()
        alone = re.sub("^periods = .*", 'periods = ["hourly"]', text, flags=re.MULTILINE)
        self.config.write_text(alone)

    def start(self, until: str = "serving") -> None:
        """Returns when it has said that, with its URL: ``listening`` is before it has recovered."""
        self.process = subprocess.Popen(
            self.command(),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=self._pass_fds,
            env={
                **surroundings(),
                "METERD_API_KEY": KEY,
                "METERD_DATA_DIR": str(self.data),
                **self._environ,
            },
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url: str = self.wait_for(until)["url"][0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": line.rstrip()}
            self.log.append(entry)
            self._lines.put(entry)
        self._lines.put(None)

    def wait_for(self, event: str, seconds: float = START_SECONDS) -> dict[str, Any]:
        """The next log entry of that name."""
        while True:
            entry = self._lines.get(timeout=seconds)
            assert entry is not None, f"meterd ended before it said {event!r}: {self.log}"
            if entry["event"] == event:
                return entry

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = {"x-apikey": self.key, **kwargs.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=30, **kwargs)

    def trigger(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.request("POST", "/aggregations/trigger").json()
        return answer

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it with that signal and returns its exit code."""
        if self.process.poll() is None:
            self.send(number)
        code = self.process.wait(timeout=15)
        self._reader.join(timeout=15)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.stop(number)
        self.start()
