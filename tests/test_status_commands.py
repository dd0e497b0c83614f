"""meterd status: how a daemon that runs is doing, and what is said where none does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from meterd.cli import main
from tests.daemon_process import KEY, ROOT, DaemonProcess, shipped_event_types
from tests.edge.encrypted import certificate_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEBHOOK = """
[[webhooks]]
id = "off"
url = "http://127.0.0.1:9/"
secret = "whsec_of_the_billing_receiver"
enabled = false
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    started = DaemonProcess(tmp_path_factory.mktemp("status"), webhooks=WEBHOOK)
    try:
        event = {"customerId": "c", "value": 1}
        assert started.request("POST", "/usage/api.calls", json=event).status_code == 201
        yield started
    finally:
        started.stop()


def run(url: str, *arguments: str, key: str | None = KEY) -> Result:
    whole = ["status", "--url", url, "--interval", "100ms", *arguments]
    result = CliRunner().invoke(main, whole, env={"METERD_API_KEY": key})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_how_it_is_doing(daemon: DaemonProcess) -> None:
    """Readiness, version, time up, events and rates, closing, outbox, webhooks and disk."""
    result = run(daemon.url)
    assert (result.exit_code, result.stderr) == (0, "")
    names = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert names == [
        *("meterd", "state", "up", "events", "now", "closing", "outbox", "webhooks"),
        *("disk", "memory"),
    ]
    told = json.loads(run(daemon.url, "--json").stdout)
    assert (told["ready"], told["url"]) == (True, daemon.url)
    measured = told["measured"]
    assert measured["events"] == {"stored": 1, "duplicate": 0, "conflict": 0, "refused": 0}
    assert measured["eventsPerSecond"] == 0
    assert measured["requestsPerSecond"] > 0
    assert 0 < measured["uptimeSeconds"] < 600
    assert measured["webhooks"] == [
        {"id": "off", "state": "off", "pending": 0, "held": 0, "parked": 0}
    ]
    assert min(measured["storeBytes"], measured["diskRoomBytes"], measured["memoryBytes"]) > 0


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_without_a_key_readiness_and_version_are_shown(
    daemon: DaemonProcess, key: str | None
) -> None:
    """For a script that waits for a start; what shows more is said."""
    result = run(daemon.url, key=key)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["meterd", "state"]
    assert "a key with the scope metrics shows more" in result.stderr
    assert ("the key is not known" in result.stderr) == (key == "wrong")
    assert "measured" not in json.loads(run(daemon.url, "--json", key=key).stdout)


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Starting(Quiet):
    """A meterd that counts yet."""

    def do_GET(self) -> None:
        said = {
            "/": (200, {"version": "9"}),
            "/readyz": (503, {"status": "starting", "reason": "counting"}),
        }
        status, content = said.get(self.path, (401, {"error": "Unauthorized"}))
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(handler: type[Quiet]) -> Iterator[str]:
    """The URL of one that answers so."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_meterd_that_is_not_ready_is_exit_code_1() -> None:
    """With the reason."""
    with serving(Starting) as url:
        result = run(url)
    assert result.exit_code == 1
    assert [line.split() for line in result.stdout.splitlines()[1:]] == [
        ["state", "not", "ready"],
        ["reason", "counting"],
    ]


def test_no_meterd_is_exit_code_1(daemon: DaemonProcess) -> None:
    """Where nobody answers, or somebody else."""
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        result = run(f"http://127.0.0.1:{bound.getsockname()[1]}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no meterd answers at" in result.stderr
    result = run(f"{daemon.url}/elsewhere")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "HTTP 404: is that a meterd?" in result.stderr


def test_it_can_be_watched(daemon: DaemonProcess) -> None:
    """An object for each look, until Ctrl-C."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "meterd", "status", "--url", daemon.url),
            *("--watch", "--interval", "100ms", "--json"),
        ],
        cwd=ROOT,
        env={**os.environ, "METERD_API_KEY": KEY},
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        seen = [json.loads(watching.stdout.readline()) for _ in range(3)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=20) == 130
    assert all(one["ready"] for one in seen)


def health(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["healthcheck", "--url", url, *arguments])


def test_one_that_answers_is_healthy(daemon: DaemonProcess) -> None:
    """Without a key."""
    result = health(daemon.url)
    assert (result.exit_code, result.stdout) == (0, f"{daemon.url} answers\n")
    told = json.loads(health(daemon.url, "--json").stdout)
    assert told == {"url": daemon.url, "answers": True}


def test_one_with_a_certificate_that_nobody_here_trusts_is_healthy(tmp_path: Path) -> None:
    """It is asked by its address, and the certificate is for whom it serves."""
    certificate, key = certificate_in(tmp_path)
    tls = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    encrypted = DaemonProcess(tmp_path, event_types=tls + shipped_event_types())
    try:
        assert encrypted.url.startswith("https://")
        assert health(encrypted.url).exit_code == 0
        assert run(encrypted.url).exit_code == 1, "a key is shown to no stranger"
    finally:
        encrypted.stop()


def test_one_that_says_nothing_is_not_healthy() -> None:
    """It accepts, as a process does that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = health(f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "200ms")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "did not answer in time" in result.stderr


def test_it_may_be_waited_for_in_silence() -> None:
    """Behind a start: the first who asks gets no answer, and nobody is told. What does not come in
    time is one line.
    """

    class Late(Quiet):
        asked = 0

        def do_GET(self) -> None:
            Late.asked += 1
            if Late.asked > 1:
                self.send_response(200)
                self.end_headers()

    with serving(Late) as url:
        result = health(url, "--wait", "30s")
    assert (result.exit_code, result.output) == (0, f"{url} answers\n")
    assert Late.asked == 2
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        result = health(f"http://127.0.0.1:{bound.getsockname()[1]}", "--wait", "300ms")
    assert (result.exit_code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    said, _, tried = line.partition(" (tried ")
    assert said.startswith("no meterd answers at")
    assert tried in {"0s)", "1s)", "2s)"}, "for as long as it was told"


def test_where_nobody_is_or_another_it_is_not_healthy(daemon: DaemonProcess) -> None:
    """Exit code 1, with the reason."""
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        result = health(f"http://127.0.0.1:{bound.getsockname()[1]}")
    assert (result.exit_code, "no meterd answers at" in result.stderr) == (1, True)
    with serving(Starting) as url:
        result = health(url)
    assert (result.exit_code, "/healthz: HTTP 401" in result.stderr) == (1, True)
