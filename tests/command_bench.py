"""A real daemon with deliveries in every state, for the commands that ask one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner, Result

from meterd.cli import main
from tests.daemon_process import KEY, ROOT, DaemonProcess
from tests.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "whsec_of_the_billing_receiver"
# An address that nobody may be reached at: every attempt fails, and there is only one.
WEBHOOKS = """
[[webhooks]]
id = "billing"
url = "{url}?token=t0ps3cret"
secret = "{secret}"
allow_private = ["127.0.0.0/8"]
[[webhooks]]
id = "nowhere"
url = "http://127.0.0.1:9/"
secret = "{secret}"
schedule = []
[[webhooks]]
id = "off"
url = "{url}"
secret = "{secret}"
enabled = false
"""
NEW = """
[[webhooks]]
id = "new"
url = "{url}"
secret = "{secret}"
allow_private = ["127.0.0.0/8"]
"""
CUSTOMERS = ("acme", "b", "kunde é")


class Commands:
    """``run`` a command against the daemon; its receiver is that of ``billing``."""

    def __init__(self, daemon: DaemonProcess, receiver: Receiver) -> None:
        self.daemon = daemon
        self.receiver = receiver

    def run(self, *arguments: str, key: str = KEY, **environ: str) -> Result:
        result = CliRunner().invoke(main, self.whole(*arguments), env=self.environ(key, **environ))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        assert "Traceback" not in result.output
        return result

    def objects(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    def whole(self, *arguments: str) -> list[str]:
        return [*arguments, "--config", str(self.daemon.config), "--url", self.daemon.url]

    def environ(self, key: str = KEY, **more: str) -> dict[str, str]:
        return {"METERD_API_KEY": key, "METERD_DATA_DIR": str(self.daemon.data), **more}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """In a process of its own, to be interrupted."""
        return subprocess.Popen(
            [sys.executable, "-m", "meterd", *self.whole(*arguments)],
            cwd=ROOT,
            env={**os.environ, **self.environ(), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


@contextmanager
def commands(folder: Path) -> Iterator[Commands]:
    """Three customers' hour has closed: delivered to one webhook, parked at another."""
    with Receiver() as receiver:
        hooks = WEBHOOKS.format(url=receiver.url, secret=SECRET)
        daemon = DaemonProcess(folder, webhooks=hooks, options='grace = "0s"')
        try:
            for customer in CUSTOMERS:
                event = {"customerId": customer, "value": 1}
                assert daemon.request("POST", "/usage/api.calls", json=event).status_code == 201
            daemon.close_hours_alone()
            daemon.program = "tests.system.hours_later 1"
            daemon.restart()
            daemon.trigger()
            receiver.wait_for(len(CUSTOMERS))
            found = Commands(daemon, receiver)
            wait_until_settled(found)
            yield found
        finally:
            daemon.stop()


def wait_until_settled(bench: Commands, seconds: float = 20) -> None:
    """Until nothing waits any more."""
    until = time.monotonic() + seconds
    while bench.daemon.request("GET", "/deliveries?status=pending").json():
        assert time.monotonic() < until, "something still waits"
        time.sleep(0.05)
