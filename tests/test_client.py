"""Speaking to a meterd: what goes wrong, said in a line that tells what to do."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meterd.cli import main
from meterd.client import Client, Receiver
from meterd.domain.errors import MeterdError, NoAnswerError
from tests import receiver
from tests.daemon_process import KEY, DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    started = DaemonProcess(tmp_path_factory.mktemp("client"))
    yield started
    started.stop()


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_what_is_asked_is_answered(daemon: DaemonProcess) -> None:
    """Parameters that are None are not sent; a trailing slash of the URL does no harm."""
    with Client(f"{daemon.url}/", KEY) as client:
        assert client.get("/ping")["status"] == "ok"
        assert client.get("/events", customerId=None, limit=5) == []
        assert client.get_text("/events") == b"[]"
        assert client.post("/aggregations/trigger")["jobsQueued"] == 0


def test_a_proxy_of_the_environment_is_not_asked(
    daemon: DaemonProcess, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would see the key."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    with Client(daemon.url, KEY) as client:
        assert client.get("/ping")["status"] == "ok"


@pytest.mark.parametrize(
    ("path", "key", "message"),
    [
        ("/config", "wrong", "does not know the key: give another with METERD_API_KEY or --key"),
        ("/events?limit=0", KEY, "limit must be a whole number from 1 to 100000"),
        ("/nowhere", KEY, "Not found"),
    ],
)
def test_a_refusal_says_what_it_lacks(
    daemon: DaemonProcess, path: str, key: str, message: str
) -> None:
    """In the daemon's own words, where it has some."""
    with Client(daemon.url, key) as client, pytest.raises(MeterdError, match=re.escape(message)):
        client.get(path)


def test_a_key_without_the_scope(daemon: DaemonProcess) -> None:
    """Which one is needed for what."""
    made = CliRunner().invoke(
        main,
        ["keys", "create", "--scope", "ingest", "--config", str(daemon.config)],
        env={"METERD_DATA_DIR": str(daemon.data)},
    )
    daemon.send(signal.SIGHUP)
    daemon.wait_for("configuration reloaded")
    with (
        Client(daemon.url, made.stdout.strip()) as client,
        pytest.raises(MeterdError, match="the key lacks the scope read: "),
    ):
        client.get("/events")
    with (
        Client(daemon.url, made.stdout.strip()) as client,
        pytest.raises(MeterdError, match="the key lacks the scope admin: "),
    ):
        client.post("/webhooks/billing/test")


def test_nobody_answers(closed_port: int) -> None:
    """Where it was looked for, and how to say where it is."""
    url = f"http://127.0.0.1:{closed_port}"
    with (
        Client(url, KEY) as client,
        pytest.raises(MeterdError, match=rf"no meterd answers at {url} .*--url says where"),
    ):
        client.get("/ping")


def test_somebody_else_answers() -> None:
    """Who speaks HTTP, and is no meterd."""
    with (
        receiver.Receiver() as other,
        Client(other.url, KEY) as client,
        pytest.raises(MeterdError, match=r"HTTP 501 .* 127\.0\.0\.1 is no meterd"),
    ):
        client.get("/ping")


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://a/", "http://", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    """With what it takes."""
    with pytest.raises(MeterdError, match="--url must be http:// or https://"):
        Client(url, KEY)


@pytest.mark.parametrize("url", ["http://[::1", "http://a:b/", "http://\x00/"])
def test_a_url_that_is_broken_is_no_traceback(url: str) -> None:
    """It cannot be asked."""
    with pytest.raises(MeterdError, match="--url must be a URL: "):
        Client(url, KEY)


@pytest.mark.parametrize("key", ["schlüssel", "a\nb: c"])
def test_a_key_that_is_none(key: str) -> None:
    """And cannot be sent in a header."""
    with pytest.raises(MeterdError, match="visible ASCII"):
        Client("http://127.0.0.1:1", key)


def test_a_receiver_answers_in_a_line(closed_port: int) -> None:
    """Whatever comes of it; a redirect is an answer."""
    with receiver.Receiver() as other, Receiver(other.url) as forward:
        other.statuses += [204, 302]
        assert forward.post({"a": "b"}, b"{}") == "204 No Content"
        assert forward.post({"a": "b"}, b"{}") == "302 Found"
        assert [one.headers["a"] for one in other.received] == ["b", "b"]
    for url in (f"http://127.0.0.1:{closed_port}/", "nonsense", "http://a:b/"):
        with Receiver(url) as forward:
            assert forward.post({}, b"").startswith("not received: ")


def test_long_answers_are_pages(daemon: DaemonProcess) -> None:
    """From the first to the last, or from a cursor; nothing is left out between them."""
    for number in range(5):
        event = {"customerId": "paged", "value": number}
        assert daemon.request("POST", "/usage/api.calls", json=event).status_code == 201
    with Client(daemon.url, KEY) as client:
        first = client.page("/events", customerId="paged", order="oldest", limit=2)
        assert [one["value"] for one in json.loads(first.content)] == [0, 1]
        assert first.pruned_until is None
        asked: dict[str, str | int] = {"customerId": "paged", "order": "oldest", "limit": 2}
        rest = [
            json.loads(one.content) for one in client.pages("/events", cursor=first.cursor, **asked)
        ]
        assert [one["value"] for page in rest for one in page] == [2, 3, 4]
        assert client.page("/events", **asked, cursor=None, to="2020-01-01").cursor is None


def test_what_is_sent_is_answered_whatever_it_is(daemon: DaemonProcess) -> None:
    """But for a key that may not send, which no repetition mends."""
    with Client(daemon.url, KEY) as client:
        assert client.send("/usagebatch", b"[]").status == 400
        assert client.send("/usagebatch", b"{").content == b'{"error":"Malformed JSON"}'
        sent = b'[{"eventType":"api.calls","customerId":"c","value":1},{}]'
        assert client.send("/usagebatch", sent, Prefer="handling=lenient").status == 207
    with Client(daemon.url, None) as client:
        assert client.look("/ping").status == 200
        assert client.look("/events").status == 401
        with pytest.raises(MeterdError, match="does not know the key"):
            client.send("/usagebatch", b"[]")


def test_a_change_says_whether_it_was_made_before(daemon: DaemonProcess) -> None:
    """By its status; what is not done is told in commands' words."""
    sent = {"customerId": "v", "value": 1}
    assert daemon.request("POST", "/usage/api.calls", json=sent).status_code == 201
    [event] = daemon.request("GET", "/events?customerId=v").json()
    with Client(daemon.url, KEY) as client:
        for status in (201, 200):
            changed = client.change(f"/events/{event['_id']}/void", {"reason": "twice"})
            assert (changed.status, b"twice" in changed.content) == (status, True)
        nobodys = "00000000-0000-7000-8000-000000000000"
        with pytest.raises(MeterdError, match="; meterd events shows them, each with its _id"):
            client.change(f"/events/{nobodys}/void", {"reason": "twice"})


class Busy(BaseHTTPRequestHandler):
    """Says when to come again."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.send_header("Retry-After", self.path[1:])
        self.send_header("Content-Length", "25")
        self.end_headers()
        self.wfile.write(b'{"error":"Overloaded: x"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("said", "waits_s"), [("7", 7), ("3600", 30), ("Thu", 0)])
def test_who_cannot_answer_yet_may_be_asked_again(said: str, waits_s: float) -> None:
    """When it says, and within half a minute: somebody waits."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with (
            Client(f"http://127.0.0.1:{server.server_port}", KEY) as client,
            pytest.raises(NoAnswerError, match=r"^Overloaded: x$") as busy,
        ):
            client.get(f"/{said}")
        server.shutdown()
        thread.join()
    assert busy.value.retry_after_s == waits_s
