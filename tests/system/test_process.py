"""A real process, with real signals: start, reload, stop, kill."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.daemon_process import KEY, ROOT, DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLIENTS = 8
EVENT = {"customerId": "c", "value": 1}


def post(url: str, client: httpx.Client, customer: str) -> int | None:
    """The status, or None where no answer came."""
    try:
        answer = client.post(
            f"{url}/usage/api.calls",
            json={"customerId": customer, "value": 1},
            headers={"x-apikey": KEY},
        )
    except httpx.TransportError:
        return None
    return answer.status_code


class Load:
    """Clients that post single events, each for a customer of its own, until they are stopped."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._url = daemon.url
        self._stop = threading.Event()
        self._enough = threading.Semaphore(0)
        self.acknowledged = [0] * CLIENTS
        self.unanswered = [0] * CLIENTS
        self.refused: list[int] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]

    def _run(self, number: int) -> None:
        with httpx.Client(timeout=10) as client:
            while not self._stop.is_set():
                status = post(self._url, client, f"customer_{number}")
                if status is None:
                    self.unanswered[number] += 1
                    return
                if status == 201:
                    self.acknowledged[number] += 1
                    self._enough.release()
                else:
                    self.refused.append(status)

    def during(self, events: int, act: Callable[[], Any]) -> None:
        """Acts when that many events are acknowledged, and waits until all clients are through."""
        for thread in self._threads:
            thread.start()
        for _ in range(events):
            assert self._enough.acquire(timeout=30)
        act()
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)


def counted(daemon: DaemonProcess) -> dict[str, int]:
    """Each customer's total of api.calls over the running month."""
    daemon.trigger()
    found = daemon.request("GET", "/aggregations?period=monthly&limit=1000").json()
    return {a["customerId"]: int(a["exact"].get("api.calls", 0)) for a in found}


def test_who_is_told_twice_to_stop_says_all(daemon: DaemonProcess) -> None:
    """A second signal, as of who is impatient, cuts nothing short."""
    daemon.send(signal.SIGTERM)
    daemon.wait_for("stopping")
    daemon.send(signal.SIGTERM)
    daemon.wait_for("stopped")
    assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_answers_what_it_accepted(
    daemon: DaemonProcess, number: signal.Signals
) -> None:
    """Exit code 0 within 10 seconds; every acknowledged event is there, and no other."""
    load = Load(daemon)
    codes: list[int] = []
    load.during(200, lambda: codes.append(daemon.stop(number)))
    assert codes == [0]
    assert load.refused == []
    daemon.start()
    stored = counted(daemon)
    for client in range(CLIENTS):
        assert stored[f"customer_{client}"] == load.acknowledged[client]


def test_a_kill_loses_nothing_that_was_acknowledged(daemon: DaemonProcess) -> None:
    """SIGKILL under load: acknowledged <= stored <= sent, for each client."""
    load = Load(daemon)
    load.during(200, lambda: daemon.stop(signal.SIGKILL))
    daemon.start()
    stored = counted(daemon)
    for client in range(CLIENTS):
        acknowledged = load.acknowledged[client]
        sent = acknowledged + load.unanswered[client]
        assert acknowledged <= stored[f"customer_{client}"] <= sent


def taken_away(data: Path) -> None:
    shutil.rmtree(data)


def moved(data: Path) -> None:
    data.rename(data.with_name("elsewhere"))


def replaced(data: Path) -> None:
    moved(data)
    shutil.copytree(data.with_name("elsewhere"), data)


@pytest.mark.parametrize("happens", [taken_away, moved, replaced])
def test_nothing_is_acknowledged_without_its_folder(
    daemon: DaemonProcess, happens: Callable[[Path], None]
) -> None:
    """Deleted, moved or replaced under a running meterd: the next event ends it with 70."""
    assert daemon.request("POST", "/usage/api.calls", json=EVENT).status_code == 201
    happens(daemon.data)
    with httpx.Client() as client:
        assert post(daemon.url, client, "c") in {None, 503}
    assert daemon.process.wait(timeout=15) == 70
    assert daemon.stop() == 70
    [said] = [entry for entry in daemon.log if entry.get("level") == "critical"]
    assert said["event"].startswith("the data folder was deleted, moved or replaced")
    assert said["data"] == str(daemon.data)
    assert str(daemon.data / "store" / "data.mdb") in said["error"]


def test_a_reload_under_load_drops_no_request(daemon: DaemonProcess) -> None:
    """SIGHUP: a new event type and another operation are in force at once."""
    load = Load(daemon)

    def reload() -> None:
        daemon.configure(
            event_types='[events."api.calls"]\nop = "max"\n[events."new.type"]\nop = "sum"'
        )
        daemon.send(signal.SIGHUP)
        daemon.wait_for("configuration reloaded")

    load.during(100, reload)
    assert load.refused == []
    assert sum(load.unanswered) == 0
    new = daemon.request("POST", "/usage/new.type", json={"customerId": "n", "value": 2})
    assert new.status_code == 201
    gone = daemon.request("POST", "/usage/test.min", json={"customerId": "n", "value": 2})
    assert gone.json()["error"].endswith("Must be one of: api.calls, new.type")
    stored = counted(daemon)
    # The greatest of many ones is one, also of those that came before.
    assert {stored[f"customer_{client}"] for client in range(CLIENTS)} == {1}


def test_an_invalid_reload_changes_nothing_and_says_where(daemon: DaemonProcess) -> None:
    """The log names the line; the old configuration stays in force."""
    daemon.configure(event_types='[events."api.calls"]\nop = "summ"')
    daemon.send(signal.SIGHUP)
    entry = daemon.wait_for("configuration not reloaded: the old one stays")
    [fault] = entry["faults"]
    assert "systemconfig.toml: line " in fault
    assert "summ" in fault
    answer = daemon.request("POST", "/usage/test.min", json={"customerId": "n", "value": 2})
    assert answer.status_code == 201


def test_a_changed_address_is_reported_as_needing_a_restart(daemon: DaemonProcess) -> None:
    """And the rest of the file is taken over."""
    text = daemon.config.read_text().replace("127.0.0.1:0", "127.0.0.1:1")
    daemon.config.write_text(text)
    daemon.send(signal.SIGHUP)
    assert "needs a restart" in daemon.wait_for("a change needs a restart")["change"]
    daemon.wait_for("configuration reloaded")
    assert daemon.request("GET", "/config").status_code == 200


def test_the_first_start_makes_a_key_and_keeps_its_hash_only(tmp_path: Path) -> None:
    """Printed once, to stdout; it lets in, and is in no file and not in the log."""
    daemon = DaemonProcess(tmp_path, environ={"METERD_API_KEY": ""})
    assert daemon.process.stdout is not None
    printed = [daemon.process.stdout.readline() for _ in range(3)]
    daemon.key = printed[2].strip()
    assert daemon.key.startswith("mk_")
    assert daemon.request("GET", "/config").status_code == 200
    assert daemon.stop() == 0
    assert daemon.key not in str(daemon.log)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert daemon.key.encode() not in path.read_bytes(), path
    daemon.start()
    assert daemon.request("GET", "/config").status_code == 200
    daemon.stop()


def test_the_data_folder_is_its_owners_alone(daemon: DaemonProcess) -> None:
    """Nobody else on the machine reads usage."""
    daemon.request("POST", "/usage/api.calls", json={"customerId": "c", "value": 1})
    for path in [daemon.data, *daemon.data.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path}: {mode:o}"


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        env={
            **os.environ,
            "METERD_DATA_DIR": str(folder / "data"),
            "METERD_API_KEY": KEY,
            **environ,
        },
    )


def test_two_daemons_never_share_a_folder(daemon: DaemonProcess, tmp_path: Path) -> None:
    """The second ends at once with exit code 1 and says why."""
    second = run(tmp_path, "-m", "meterd", "serve", "--config", str(daemon.config))
    assert second.returncode == 1
    assert "another meterd has" in second.stderr
    assert "Traceback" not in second.stderr


def test_an_address_in_use_is_one_line(daemon: DaemonProcess, tmp_path: Path) -> None:
    """Exit code 1, the address, and why."""
    elsewhere = str(tmp_path / "elsewhere")
    bind = daemon.url.removeprefix("http://")
    second = run(
        tmp_path,
        *("-m", "meterd", "serve", "--config", str(daemon.config)),
        METERD_DATA_DIR=elsewhere,
        METERD_BIND=bind,
    )
    assert second.returncode == 1
    assert f"cannot listen on {bind}: Address already in use" in second.stderr
    assert "Traceback" not in second.stderr


def test_meterd_does_not_run_without_assertions(daemon: DaemonProcess, tmp_path: Path) -> None:
    """Python -O would take away what keeps totals right."""
    without = run(tmp_path, "-O", "-m", "meterd", "serve", "--config", str(daemon.config))
    assert without.returncode == 1
    assert "does not run with python -O" in without.stderr


def test_a_start_without_a_store_says_that_it_made_one(daemon: DaemonProcess) -> None:
    """Where the disk is not mounted that has it, nothing else would tell."""
    [told] = [entry for entry in daemon.log if entry["event"].startswith("there was no store")]
    assert told["data"] == str(daemon.data.resolve())
    daemon.log.clear()
    daemon.restart()
    assert daemon.log
    assert not [entry for entry in daemon.log if entry["event"].startswith("there was no store")]
