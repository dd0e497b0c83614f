"""Requests made of the API's document, by thousands, are answered as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.daemon_process import KEY, DaemonProcess
from tests.receiver import Receiver

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# For each operation and phase. More find little more: most of the requests are those of its
# phase named coverage, which goes through the schemas and counts nothing.
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "15"))
# Always the same requests, so that who changes nothing sees no failure; any other finds others.
SEED = os.environ.get("SCHEMATHESIS_SEED", "7")
TYPES = '[events."api.calls"]\nop = "sum"\n[events."a/b"]\nop = "max"\n'


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """Neither an answer that is not described, nor one that a client could not foresee: by all of
    its checks, with valid data and with invalid, alone and following links.
    """
    with Receiver() as receiver:
        webhook = (
            f'[[webhooks]]\nid = "billing"\nurl = "{receiver.url}"\n'
            'secret = "whsec_secret"\nallow_private = ["127.0.0.0/8"]\n'
        )
        daemon = DaemonProcess(
            tmp_path, event_types=TYPES, webhooks=webhook, options='accept_past = "3650d"'
        )
        try:
            # A closed period, so that there are deliveries to be looked at.
            event = {"customerId": "customer_1", "value": 1, "timestamp": "2026-01-14"}
            assert daemon.request("POST", "/usage/api.calls", json=event).status_code == 201
            daemon.trigger()
            receiver.wait_for(4)
            said = run(daemon, tmp_path)
        finally:
            assert daemon.stop() == 0
    faults = [entry for entry in daemon.log if entry.get("level") in {"error", "critical"}]
    assert faults == []
    # It has asked: for every operation, and many times.
    assert re.search(r"Selected: (\d+)/\1\n\s+Tested: \1", said), said
    [generated] = re.findall(r"(\d+) generated", said)
    assert int(generated) > 1000, said


def run(daemon: DaemonProcess, folder: Path) -> str:
    """What it says; fails with that where it finds something."""
    program = [sys.executable, "-m", "schemathesis.cli"]
    config = ["--config-file", str(HERE / "schemathesis.toml")]
    options = [
        *("--continue-on-failure", "--max-examples", str(EXAMPLES)),
        *("--seed", SEED),
        *("-H", f"x-apikey: {KEY}", "--no-color", "--workers", "1"),
    ]
    done = subprocess.run(
        [*program, *config, "run", f"{daemon.url}/openapi.json", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.system.schemathesis_hooks",
        },
    )
    # Its last lines have the seed, which makes the same requests once more.
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout
