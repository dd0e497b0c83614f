"""What a real meterd logs: in which form, of which request, and how much of a flood."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import select
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

from meterd.log_repeats import WRITTEN_MAX
from meterd.log_thinning import LEFT_OUT
from tests.daemon_process import KEY, ROOT, DaemonProcess
from tests.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENT: Final = b'{"customerId":"c","value":1}'
CUSTOMERS: Final = 3 * WRITTEN_MAX
WEBHOOK: Final = """
[[webhooks]]
id = "billing"
url = "{url}"
secret = "a-secret"
allow_private = ["127.0.0.0/8"]
"""
# So many lines fill a page.
PIPE_FULL: Final = 40
# At a flood, beside what a quiet daemon says.
LINES_MAX: Final = 20


def request(*fields: bytes, key: bytes = KEY.encode()) -> bytes:
    head = [b"POST /usage/api.calls HTTP/1.1", b"Host: a", b"x-apikey: " + key]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(EVENT), *fields, b"", EVENT])


def exchange(daemon: DaemonProcess, raw: bytes, answers: int = 1) -> bytes:
    """Sends it and reads until so many answers have come, or the end."""
    address = urlsplit(daemon.url)
    answered = b""
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 20) as client:
        client.sendall(raw)
        while answered.count(b"HTTP/1.1 ") < answers and (data := client.recv(1 << 20)):
            answered += data
    return answered


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def reload_with(daemon: DaemonProcess, options: str) -> None:
    daemon.configure(options=options)
    daemon.send(signal.SIGHUP)


def test_requests_are_told_from_a_reload_on(daemon: DaemonProcess) -> None:
    """At debug, in both lanes, under the names that they have in their answers."""
    exchange(daemon, request(b"X-Request-Id: unheard"))
    reload_with(daemon, 'log_level = "debug"')
    daemon.wait_for("configuration reloaded")
    named = exchange(daemon, request(b"X-Request-Id: web-1"))
    assert b"\r\nx-request-id: web-1\r\n" in named
    read = daemon.request("GET", "/events?limit=1&customerId=c")
    missing = daemon.request("GET", "/nowhere")
    refused = exchange(daemon, b"GET / HTTP/9.9\r\nHost: a\r\n\r\n")
    reload_with(daemon, 'log_level = "info"')
    daemon.wait_for("configuration reloaded")
    exchange(daemon, request(b"X-Request-Id: unheard"))
    assert daemon.stop() == 0
    told = [entry for entry in daemon.log if entry["event"] == "request"]
    assert [(e["method"], e["path"], e["status"], e["lane"]) for e in told] == [
        ("POST", "/usage/api.calls", 201, "plain"),
        ("GET", "/events", 200, "full"),
        ("GET", "/nowhere", 404, "full"),
    ]
    assert {entry["logger"] for entry in told} == {"http"}
    assert {entry["key"] for entry in told} == {"METERD_API_KEY"}
    assert {entry["peer"] for entry in told} == {"127.0.0.1"}
    assert [told[0]["received"], told[1]["sent"]] == [len(EVENT), len(read.content)]
    assert told[0]["request_id"] == "web-1"
    assert "x-request-id" not in read.headers
    assert told[2]["request_id"] == missing.headers["x-request-id"]
    [entry] = [entry for entry in daemon.log if entry["event"] == "request refused"]
    assert b"\r\nx-request-id: %b\r\n" % entry["request_id"].encode() in refused
    assert len({entry["request_id"] for entry in told} | {entry["request_id"]}) == 4


def test_a_flood_of_requests_is_hardly_logged(daemon: DaemonProcess) -> None:
    """Broken ones, those of wrong keys, and those that find the disk full: it would be fuller."""
    before = len(daemon.log)
    for _ in range(50):
        exchange(daemon, b"GET / HTTP/9.9\r\nHost: a\r\n\r\n")
        exchange(daemon, request(key=b"wrong"))
    size = (daemon.data / "store" / "data.mdb").stat().st_size
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        refused = b""
        while b" 507 " not in refused:
            refused = exchange(daemon, request())
        refused = exchange(daemon, request() * 2000, answers=2000)
        assert refused.count(b"HTTP/1.1 507 ") > 1000
    finally:
        most = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, most)
    daemon.wait_for("the disk has room again: events are taken")
    assert daemon.stop() == 0
    said = [entry["event"] for entry in daemon.log[before:]]
    assert "the disk is full: events are refused" in said
    assert "request not served" in said
    assert len(said) < LINES_MAX, said


def test_deliveries_that_repeat_each_other_are_counted(tmp_path: Path, receiver: Receiver) -> None:
    """Twenty are told; the number of the others at the end, if not before."""
    webhook = WEBHOOK.format(url=receiver.url)
    daemon = DaemonProcess(tmp_path, webhooks=webhook, options='grace = "0s"')
    batch = [
        {"eventType": "api.calls", "customerId": f"c{number}", "value": 1}
        for number in range(CUSTOMERS)
    ]
    assert daemon.request("POST", "/usagebatch", json=batch).status_code == 201
    daemon.program = "tests.system.hours_later 2"
    daemon.restart()
    receiver.wait_for(CUSTOMERS)
    daemon.stop()
    told = [entry for entry in daemon.log if entry["event"] == "delivered"]
    assert len(told) == WRITTEN_MAX
    [left_out] = [entry for entry in daemon.log if entry["event"] == LEFT_OUT]
    assert left_out["of"] == "delivered"
    assert (left_out["logger"], left_out["level"]) == ("delivery", "info")
    assert (left_out["endpoint"], left_out["seconds"]) == ("billing", 60)
    # Those of the last slots may have been cut off by the stop before they were told.
    assert left_out["repeated"] > CUSTOMERS - WRITTEN_MAX - 10


def spoken_until(terminal: int, text: bytes) -> bytes:
    """What a terminal has shown when that is there."""
    shown = b""
    ends_at = time.monotonic() + 20
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], ends_at - time.monotonic())
        assert ready, shown
        shown += os.read(terminal, 65536)
    return shown


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_a_terminal_is_spoken_to_for_people(tmp_path: Path, variables: dict[str, str]) -> None:
    """In colours unless they are not wanted, and in JSON from a reload on that says so."""
    daemon = DaemonProcess(tmp_path)
    daemon.stop()
    ours, theirs = pty.openpty()
    environ = {"METERD_API_KEY": KEY, "METERD_DATA_DIR": str(daemon.data), "TERM": "xterm"}
    usual = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        daemon.command(), cwd=ROOT, stderr=theirs, env={**usual, **environ, **variables}
    )
    os.close(theirs)
    try:
        shown = spoken_until(ours, b"serving")
        assert (b"\x1b[" in shown) == (not variables)
        assert b'{"' not in shown
        daemon.configure(options='log_format = "json"')
        process.send_signal(signal.SIGHUP)
        line = spoken_until(ours, b"configuration reloaded").strip().splitlines()[-1]
        entry: dict[str, Any] = json.loads(line)
        assert (entry["event"], entry["logger"]) == ("configuration reloaded", "meterd")
        process.send_signal(signal.SIGTERM)
        spoken_until(ours, b'"stopped"')
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize("hangs", [False, True], ids=["ended", "hangs"])
def test_a_log_that_nobody_reads_any_more_costs_nothing(tmp_path: Path, *, hangs: bool) -> None:
    """A reader that ended closes the pipe, one that hangs leaves it full: meterd serves on, and
    ends as it is told. Whoever reads again is told how many lines there were.
    """
    daemon = DaemonProcess(tmp_path, options='log_level = "debug"')
    daemon.stop()
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    environ = {"METERD_API_KEY": KEY, "METERD_DATA_DIR": str(daemon.data)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        bind = "127.0.0.1:{1}".format(*free.getsockname())
    process = subprocess.Popen(
        daemon.command(),
        cwd=ROOT,
        stderr=writing,
        env={**os.environ, **environ, "METERD_BIND": bind},
    )
    os.close(writing)
    try:
        spoken_until(reading, b'"serving"')
        if not hangs:
            os.close(reading)
        daemon.url = f"http://{bind}"
        assert daemon.request("GET", "/events").status_code == 200
        for _ in range(PIPE_FULL):
            assert exchange(daemon, request()).startswith(b"HTTP/1.1 201 ")
        if hangs:
            spoken_until(reading, b'"request"')
            exchange(daemon, request())
            spoken_until(reading, b'"lines_lost": ')
            for _ in range(PIPE_FULL):
                assert exchange(daemon, request()).startswith(b"HTTP/1.1 201 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.wait()
