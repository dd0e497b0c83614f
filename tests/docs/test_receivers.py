"""The programs of docs/receivers.md, taken out of it: they take what a real meterd sends, once, and
refuse all else.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from meterd.domain import javascript
from meterd.domain.signatures import sign
from tests.daemon_process import DaemonProcess
from tests.docs.at_work import OPTIONS, at_work
from tests.docs.reading import DOCS, blocks_of
from tests.docs.shell import pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = DOCS / "receivers.md"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
PLAIN = "whsec_is-not-base64"  # as the template's users have them
PROGRAMS = {
    "receiver.py": [sys.executable, "receiver.py"],
    "library_receiver.py": [sys.executable, "library_receiver.py"],
    "receiver.mjs": ["node", "receiver.mjs"],
}
SECONDS_MAX = 30.0
# Nothing of the caller's but where programs are; a port of the system's choosing.
PATHS = {"PATH": os.environ["PATH"], "PORT": "0"}
WEBHOOK = """
[[webhooks]]
id = "{name}"
url = "{url}"
secret = {secrets}
allow_private = ["127.0.0.1/32"]
"""


def programs() -> dict[str, str]:
    """By their names, which their first lines say."""
    found = {}
    for block in (*blocks_of(PAGE, "python"), *blocks_of(PAGE, "javascript")):
        named = re.match(r'(?:"""|// )([\w.]+): ', block.text)
        assert named, block.text[:80]
        found[named[1]] = block.text
    assert found.keys() == PROGRAMS.keys()
    return found


class Program:
    """One of them in a process of its own."""

    def __init__(
        self, name: str, folder: Path, *secrets: str, file_blocks: str = "unlimited"
    ) -> None:
        for each, text in programs().items():
            (folder / each).write_text(text)
        run = f"ulimit -f {file_blocks}; exec {shlex.join(PROGRAMS[name])}"
        self.process = subprocess.Popen(
            ["bash", "-c", run],
            cwd=folder,
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "PORT": "0",
                "WEBHOOK_SECRET": " ".join(secrets),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # So that a receiver that says nothing fails the test instead of stopping it for ever.
        self._watchdog = threading.Timer(SECONDS_MAX, self.process.kill)
        self._watchdog.start()
        port = self.said().removeprefix("listening on port ")
        self.url = f"http://127.0.0.1:{port}/"

    def said(self) -> str:
        """The next line."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "it has ended"
        return line.rstrip("\n")

    def stop(self) -> str:
        """Ends it, and returns what it has said since it was last read."""
        if self.process.returncode is not None:
            return ""
        self.process.terminate()
        said, _ = self.process.communicate(timeout=SECONDS_MAX)
        self._watchdog.cancel()
        return said

    def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(self.url, content=body, headers=headers, trust_env=False)

    def take(self, webhook: dict[str, Any], *, message_id: str = "msg_1") -> None:
        """What is signed well is acknowledged."""
        body = javascript.encode(webhook)
        assert self.post(body, signed(body, message_id=message_id)).status_code == 200


@pytest.fixture(params=PROGRAMS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(name: str, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts the program; whatever runs at the end of the test is ended."""
    with ExitStack() as running:

        def started(*secrets: str, **limits: str) -> Program:
            program = Program(name, tmp_path, *secrets or (SECRET,), **limits)
            running.callback(program.stop)
            return program

        yield started


def signed(body: bytes, *secrets: str, age_s: int = 0, message_id: str = "msg_1") -> dict[str, str]:
    now_s = int(time.time()) - age_s
    return sign(body, message_id=message_id, timestamp_s=now_s, secrets=secrets or (SECRET,))


def aggregation(revision: int, calls: str, customer: str = "c", **more: Any) -> dict[str, Any]:
    data = {"id": f"{customer}_hourly_1", "revision": revision, "exact": {"api.calls": calls}}
    return {"type": "aggregation.completed", "customerId": customer, "data": {**data, **more}}


@pytest.mark.parametrize("secrets", [(SECRET,), (SECRET, OTHER), (PLAIN,)])
def test_what_meterd_sends_is_booked(tmp_path: Path, secrets: tuple[str, ...]) -> None:
    """A test, a closed hour, and its revision by a late event, of which the difference is told."""
    with ExitStack() as running:
        receivers = {}
        for name in PROGRAMS:
            folder = tmp_path / name
            folder.mkdir()
            receivers[name] = Program(name, folder, *secrets)
            running.callback(receivers[name].stop)
        webhooks = [
            WEBHOOK.format(name=name, url=receiver.url, secrets=json.dumps(secrets))
            for name, receiver in receivers.items()
        ]
        daemon = DaemonProcess(tmp_path, webhooks="".join(webhooks))
        running.callback(daemon.stop)
        for name, receiver in receivers.items():
            tested = daemon.request("POST", f"/webhooks/{name}/test")
            assert tested.json()["delivered"], tested.text
            assert receiver.said().startswith("webhook.test: {")
        late = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
        for revision, value, change in ((1, 2, r"\+2"), (2, 0.5, r"\+0.5")):
            event = {"customerId": "c", "value": value, "timestamp": late}
            assert daemon.request("POST", "/usage/api.calls", json=event).status_code == 201
            daemon.trigger()
            told = rf"c_hourly_\d{{10}} revision {revision}: api.calls {change}"
            for receiver in receivers.values():
                while not (said := receiver.said()).startswith("c_hourly_"):
                    pass  # a day may have ended since, or more
                assert re.fullmatch(told, said)


def refused_requests() -> dict[str, tuple[bytes, dict[str, str]]]:
    """By what is wrong with each."""
    good = signed(b"{}")
    found = {
        "forged": (b"{}", signed(b"{}", OTHER)),
        "altered": (b'{"a":2}', signed(b'{"a":1}')),
        "old": (b"{}", signed(b"{}", age_s=310)),
        "ahead": (b"{}", signed(b"{}", age_s=-400)),
        "without headers": (b"{}", {}),
        "another id": (b"{}", {**good, "webhook-id": "msg_2"}),
        "no UTF-8": (b"\xff", signed(b"\xfe")),
    }
    for header, text in good.items():
        without = {one: other for one, other in good.items() if one != header}
        found[f"{header} altered"] = (b"{}", {**good, header: text[:-3] + "AAA"})
        found[f"{header} nonsense"] = (b"{}", {**good, header: "v1 v1,, =="})
        found[f"{header} empty"] = (b"{}", {**good, header: ""})
        found[f"without {header}"] = (b"{}", without)
    return found


def test_what_meterd_did_not_sign_now_is_refused(start: Callable[..., Program]) -> None:
    """Forged, altered, old, ahead, with each header altered, missing or no signature at all."""
    program = start()
    requests = refused_requests()
    answers = {what: program.post(*request).status_code for what, request in requests.items()}
    assert answers == dict.fromkeys(requests, 401)
    program.take(aggregation(1, "1"))
    assert program.stop() == "c_hourly_1 revision 1: api.calls +1\n"


def test_what_was_on_its_way_for_a_while_is_taken(start: Callable[..., Program]) -> None:
    """And what a clock is off."""
    program = start()
    for age_s in (250, -250):
        body = javascript.encode(aggregation(1, "1"))
        assert program.post(body, signed(body, age_s=age_s)).status_code == 200


def test_what_comes_again_is_booked_once(name: str, start: Callable[..., Program]) -> None:
    """Also behind a restart, by another id, in a batch, and when a newer revision is booked."""
    program = start()
    program.take(aggregation(1, "10"))
    program.take(aggregation(1, "10"), message_id="msg_2")
    program.take(aggregation(3, "7.5", previous={"revision": 2, "exact": {"api.calls": "99"}}))
    first = program.stop()
    assert first.splitlines() == [
        "c_hourly_1 revision 1: api.calls +10",
        "c_hourly_1 revision 3: api.calls -2.5",
    ]
    again = start()
    again.take(aggregation(2, "99"))
    items = [aggregation(3, "7.5"), aggregation(1, "4", customer="d")]
    again.take({"type": "aggregation.batch", "period": "hourly", "data": {"items": items}})
    again.take({"type": "usage.threshold.reached", "data": {"threshold": 1}}, message_id="msg_t")
    again.take({"type": "usage.threshold.reached", "data": {"threshold": 1}}, message_id="msg_t")
    again.take({"type": "of.tomorrow", "data": {}}, message_id="msg_u")
    assert again.stop().splitlines() == [
        "d_hourly_1 revision 1: api.calls +4",
        'usage.threshold.reached: {"threshold": 1}'
        if name.endswith("py")
        else 'usage.threshold.reached: {"threshold":1}',
        "of.tomorrow: {}",
    ]


def test_what_cannot_be_booked_is_to_come_again(start: Callable[..., Program]) -> None:
    """With Retry-After, so that no attempt is spent; and is booked when it can be."""
    full = start(file_blocks="0")
    body = javascript.encode(aggregation(1, "10"))
    answer = full.post(body, signed(body))
    assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "30")
    assert "revision" not in full.stop()
    program = start()
    program.take(aggregation(1, "10"))
    assert program.stop() == "c_hourly_1 revision 1: api.calls +10\n"


def test_a_body_without_end_is_not_kept(start: Callable[..., Program]) -> None:
    """What is longer than any webhook is refused before it is verified."""
    program = start()
    body = bytes(9 * 1024 * 1024)
    try:
        assert program.post(body, signed(body)).status_code == 413
    except httpx.HTTPError:  # it may have closed while that was on its way
        pass
    program.take(aggregation(1, "1"))


def test_one_is_tried(tmp_path: Path) -> None:
    """By the commands at the end of the page, in a meterd that had another webhook before."""
    [script] = pieces(PAGE)
    (tmp_path / "receiver").mkdir()
    program = Program("receiver.py", tmp_path / "receiver", SECRET)
    with ExitStack() as running:
        running.callback(program.stop)
        meterd = running.enter_context(at_work(tmp_path))
        billing = WEBHOOK.format(name="billing", url=program.url, secrets=json.dumps(SECRET))
        meterd.daemon.configure(webhooks=billing, options=OPTIONS)
        said = meterd.follow(script)
        assert program.said().startswith("webhook.test: {")
        assert said.rpartition("+ meterd deliveries list")[2].count("delivered") >= 3
