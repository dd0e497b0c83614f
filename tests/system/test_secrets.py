"""Keys and secrets, after a busy hour with everything that may go wrong: they are nowhere.

The daemon is real and says all that it can (log level debug). Each secret is looked for in every
byte of its data folder, of its log and of its answers, as it is and in the encodings that would
keep it readable.
"""

from __future__ import annotations

import base64
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.daemon_process import KEY, ROOT, DaemonProcess
from tests.edge.encrypted import certificate_in
from tests.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE64_SECRET: Final = base64.b64encode(bytes(range(32))).decode()
# No number, so that the searches below find nothing by chance.
MARKS: Final = {
    "the key of the environment": KEY,
    "a wrong key": "wrong-key-that-may-be-a-right-one-elsewhere",
    "the webhook's secret": f"whsec_{BASE64_SECRET}",
    "its bytes": BASE64_SECRET,
    "the second secret": "another-secret-of-the-webhook",
    "the secret in the webhook's URL": "token-within-the-url",
    "a body that was taken": "taken-metadata-of-a-customer",
    "a body that was refused": "refused-metadata-of-a-customer",
    "a cookie": "cookie-of-somebody",
    "a TLS key": "bm90LXJlYWxseS1hLWtleS1idXQtaXQtbG9va3MtbGlrZS1vbmU",
}
STORED: Final = {"a body that was taken"}
WEBHOOK: Final = """
[[webhooks]]
id = "billing"
url = "{url}?token={token}"
secret = ["{first}", "{second}"]
allow_private = ["127.0.0.0/8"]
"""


def readable(secret: str) -> set[bytes]:
    """The secret as it may stand somewhere and be read by whoever finds it."""
    raw = secret.encode()
    return {
        raw,
        raw.hex().encode(),
        raw[::-1],
        quote(secret, safe="").encode(),
        base64.b64encode(raw)[:-4],
        base64.urlsafe_b64encode(raw)[:-4],
        secret.encode("utf-16-le"),
    }


def found_in(text: bytes, marks: dict[str, str]) -> set[str]:
    return {
        name
        for name, secret in marks.items()
        if any(form in text for form in readable(secret) if form)
    }


def test_the_search_finds_secrets() -> None:
    """In each of their forms; else the test below could not fail."""
    for name, secret in MARKS.items():
        for form in readable(secret):
            assert name in found_in(b"<" + form + b">", MARKS)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def test_secrets_are_nowhere(tmp_path: Path, receiver: Receiver) -> None:
    """Not in the data folder, the log or an answer; nor are bodies and cookies in the log."""
    webhook = WEBHOOK.format(
        url=receiver.url,
        token=MARKS["the secret in the webhook's URL"],
        first=MARKS["the webhook's secret"],
        second=MARKS["the second secret"],
    )
    daemon = DaemonProcess(tmp_path, webhooks=webhook, options='grace = "0s"\nlog_level = "debug"')
    made = make_key(daemon)
    marks = {**MARKS, "a key that was made": made, "its random part": made.removeprefix("mk_")}
    try:
        answers = busy(daemon, made)
        deliver(daemon, receiver)
        answers += daemon.request("GET", "/aggregations").content
        store = b"".join(path.read_bytes() for path in daemon.data.rglob("*") if path.is_file())
        configuration = daemon.request("GET", "/config").content
        history = b"".join(
            daemon.request("GET", f"/deliveries/{delivery['id']}").content
            for delivery in daemon.request("GET", "/deliveries").json()
        )
    finally:
        daemon.stop()
    store += b"".join(path.read_bytes() for path in daemon.data.rglob("*") if path.is_file())
    log = "\n".join(map(str, daemon.log)).encode()
    assert len(store) > 10_000
    assert daemon.log[-1]["event"] == "stopped"
    said = {entry["event"] for entry in daemon.log}
    assert said >= {"request refused", "request", "delivered"}, "not all was logged"
    assert b"Cannot POST: /webhooks/metering?token=***" in history, "it did not repeat its URL"
    assert found_in(history, marks) <= STORED
    assert found_in(log, marks) == set()
    assert found_in(configuration, marks) == set()
    assert found_in(store, marks) == STORED
    assert found_in(answers, marks) <= STORED  # GET /events gives back what was sent


def deliver(daemon: DaemonProcess, receiver: Receiver) -> None:
    """A webhook that is refused, and one that arrives after a restart, two hours later."""
    receiver.statuses = [500]
    daemon.program = "tests.system.hours_later 2"
    daemon.restart()
    receiver.wait_for(1)
    daemon.wait_for("attempt failed")
    daemon.program = "tests.system.hours_later 26"
    daemon.restart()
    daemon.wait_for("delivered")


def make_key(daemon: DaemonProcess) -> str:
    """By the command line; the daemon knows it from now on."""
    command = [sys.executable, "-m", "meterd", "keys", "create", "--config", str(daemon.config)]
    environ = {"METERD_DATA_DIR": str(daemon.data), "PATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    daemon.send(signal.SIGHUP)
    daemon.wait_for("configuration reloaded")
    return done.stdout.strip()


def busy(daemon: DaemonProcess, made: str) -> bytes:
    """All that was answered to right requests, to wrong ones and to broken ones."""
    event = {"customerId": "c", "value": 1, "metadata": {"note": MARKS["a body that was taken"]}}
    refused = {"customerId": MARKS["a body that was refused"] * 9, "value": "much"}
    answered = []

    def ask(method: str, path: str, key: str = made, **options: object) -> None:
        headers = {"x-apikey": key, "Cookie": MARKS["a cookie"]}
        answer = daemon.request(method, path, headers=headers, **options)
        answered.append(str(answer.headers).encode() + answer.content)

    for key in (made, KEY, MARKS["a wrong key"]):
        ask("POST", "/usage/api.calls", key, json=event)
        ask("POST", "/usage/api.calls", key, json=refused)
        ask("POST", "/usage/api.calls", key, content=f"{{{MARKS['a body that was refused']}")
        ask("POST", "/usagebatch", key, json=[{**event, "eventType": "api.calls"}, refused])
        for path in ("/", "/config", "/events", "/aggregations", "/ping", "/metrics", "/nowhere"):
            ask("GET", path, key)
        ask("GET", f"/events?apikey={key}&token={key}", key)
        ask("GET", "/events?limit=none&from=never", key)
        ask("POST", "/aggregations/trigger", key)
        answered.append(spoken(daemon, key))
    right = daemon.config.read_text()
    for broken in (right.replace("secret = ", 'url = "'), with_tls(right, daemon.config.parent)):
        daemon.config.write_text(broken)
        daemon.send(signal.SIGHUP)
        daemon.wait_for("configuration not reloaded: the old one stays")
    daemon.config.write_text(right)
    return b"".join(answered)


def with_tls(config: str, folder: Path) -> str:
    """The configuration, with a key that looks like one until it is used."""
    certificate, key = certificate_in(folder)
    text = MARKS["a TLS key"]
    Path(key).write_text(f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    options = f'[server]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    return config.replace("[server]\n", options)


def spoken(daemon: DaemonProcess, key: str) -> bytes:
    """Requests that no client library would send, each with the key in it."""
    address = urlsplit(daemon.url)
    assert address.hostname is not None
    assert address.port is not None
    line = b"POST /usage/api.calls HTTP/1.1\r\nHost: a\r\n"
    named = b"x-apikey: " + key.encode()
    answered = b""
    for raw in (
        line + named + b"\r\n" + named + b"\r\n\r\n",
        line + named + b"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        line + named + b"\x01\r\n\r\n",
        line + b"x-apikey:" + b"a" * 20_000 + key.encode() + b"\r\n\r\n",
        b"GET /" + key.encode() + b" HTTP/9.9\r\n\r\n",
        b"GET http://u:" + key.encode() + b"@a/ping HTTP/1.1\r\nHost: a\r\n\r\n",
        line + b"Authorization: Bearer " + key.encode() + b"\r\nContent-Length: 0\r\n\r\n",
        line + b"Authorization: Basic " + base64.b64encode(key.encode()) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + named * 100,
    ):
        with socket.create_connection((address.hostname, address.port), timeout=20) as client:
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            try:
                while data := client.recv(65536):
                    answered += data
            except ConnectionResetError:
                pass
    return answered


def test_a_key_in_a_url_is_none(daemon: DaemonProcess) -> None:
    """Whatever it is called there: URLs stand in histories, in logs and in Referer."""
    for name in ("key", "apikey", "api_key", "x-apikey", "token", "access_token"):
        assert httpx.get(f"{daemon.url}/events?{name}={daemon.key}").status_code == 401
    host = daemon.url.removeprefix("http://")
    assert httpx.get(f"http://x:{daemon.key}@{host}/events").status_code == 401
