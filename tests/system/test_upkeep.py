"""`meterd backup` and `meterd verify` beside a real daemon under load, and behind its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from meterd.embedded import keys, records
from tests.daemon_process import ROOT, DaemonProcess
from tests.embedded.sample_store import spoil

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

CUSTOMERS = 40


class Load:
    """Batches of a client that is never done; ``acknowledged`` events so far."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self._is_over = threading.Event()
        self.acknowledged = 0
        self.some = threading.Event()
        self.thread = threading.Thread(target=self._send)

    def stop(self) -> None:
        self._is_over.set()
        self.thread.join()

    def _send(self) -> None:
        headers = {"x-apikey": self._daemon.key}
        with httpx.Client(base_url=self._daemon.url, headers=headers, timeout=30) as client:
            for batch in count():
                if self._is_over.is_set():
                    return
                body = [
                    {
                        "eventType": "api.calls",
                        "customerId": f"customer_{number % CUSTOMERS}",
                        "value": 1,
                        "idempotencyKey": f"{batch}-{number}",
                    }
                    for number in range(100)
                ]
                try:
                    answer = client.post("/usagebatch", json=body)
                except httpx.HTTPError:
                    return  # it was killed
                assert answer.status_code == 201, answer.text
                self.acknowledged += len(body)
                self.some.set()


@contextmanager
def load_on(daemon: DaemonProcess) -> Iterator[Load]:
    load = Load(daemon)
    load.thread.start()
    try:
        assert load.some.wait(20)
        yield load
    finally:
        load.stop()


def meterd(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meterd", *arguments, "--config", str(daemon.config)]
    environ = {**os.environ, "METERD_DATA_DIR": str(daemon.data)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)


def events_in(finished: subprocess.CompletedProcess[str]) -> int:
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stdout
    events: int = json.loads(finished.stdout.splitlines()[-1])["checked"]["events"]
    return events


def change_a_total(txn: Transaction) -> tuple[str, str]:
    """One more than the events come to; whose it is, and of which hour."""
    key, payload = next(txn.forward("totals", b"", b""))
    totals = records.decode_totals(payload)
    name, found = next(iter(totals.by_type.items()))
    changed = msgspec.structs.replace(found, sum=found.sum + 1)
    wrong = msgspec.structs.replace(totals, by_type={**totals.by_type, name: changed})
    txn.put("totals", key, records.encode(wrong))
    return keys.totals_customer(key), f"hourly {keys.totals_period(key).key}, {name}: sum"


@pytest.mark.timeout(300)
def test_beside_a_daemon_and_behind_it(daemon: DaemonProcess, tmp_path: Path) -> None:
    """Under load both find nothing wrong, and a backup has what was acknowledged before it began;
    nor is anything wrong behind kill -9. A changed total is found, and whose it is.
    """
    saved = tmp_path / "saved"
    with load_on(daemon) as load:
        before = load.acknowledged
        assert events_in(meterd(daemon, "backup", str(saved), "--json")) >= before
        before = load.acknowledged
        assert events_in(meterd(daemon, "verify", "--json")) >= before
        assert load.thread.is_alive(), "the load ended by itself"
        refused = meterd(daemon, "compact")
        assert refused.returncode == 1
        assert "another meterd has" in refused.stderr
        refused = meterd(daemon, "restore", str(saved))
        assert refused.returncode == 1
        assert "another meterd has" in refused.stderr
        assert daemon.request("GET", "/events?customerId=customer_1").status_code == 200
        daemon.stop(signal.SIGKILL)
    acknowledged = load.acknowledged
    assert events_in(meterd(daemon, "verify", "--json")) >= acknowledged
    assert events_in(meterd(daemon, "verify", str(saved), "--json")) > 0
    customer_id, place = spoil(daemon.data, change_a_total)
    found = meterd(daemon, "verify")
    assert found.returncode == 1
    assert f"totals: customer {customer_id}, {place}: stands " in found.stdout


def test_a_daemon_goes_on_from_what_was_restored(daemon: DaemonProcess, tmp_path: Path) -> None:
    """The same events and keys: what is sent again is known."""
    event = {"customerId": "c", "value": 3, "idempotencyKey": "once"}
    assert daemon.request("POST", "/usage/api.calls", json=event).status_code == 201
    events_in(meterd(daemon, "backup", str(tmp_path / "saved"), "--json"))
    daemon.stop(signal.SIGKILL)
    daemon.data.rename(tmp_path / "lost")
    assert meterd(daemon, "restore", str(tmp_path / "saved")).returncode == 0
    daemon.start()
    assert daemon.request("POST", "/usage/api.calls", json=event).status_code == 200
    daemon.stop()
    assert events_in(meterd(daemon, "verify", "--json")) == 1
    assert meterd(daemon, "compact").returncode == 0
    daemon.start()
    (found,) = daemon.request("GET", "/events?customerId=c").json()
    assert found["value"] == 3
