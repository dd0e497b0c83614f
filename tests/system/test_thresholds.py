"""A real meterd tells a receiver of thresholds: once, through kills and reloads, and verifies."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook

from meterd.embedded.verification import verify
from tests.daemon_process import DaemonProcess
from tests.receiver import Receiver, receiving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "whsec_" + "A" * 43 + "="
WEBHOOK = """
[[webhooks]]
id = "billing"
url = "{url}"
secret = "{secret}"
allow_private = ["127.0.0.0/8"]
{options}
[[alerts]]
event = "api.calls"
period = "yearly"
thresholds = {thresholds}
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    yield from receiving()


def webhooks(receiver: Receiver, thresholds: str, options: str = "") -> str:
    return WEBHOOK.format(url=receiver.url, secret=SECRET, thresholds=thresholds, options=options)


def use(daemon: DaemonProcess, value: float, *, posted: bool = True) -> None:
    """Sends an event, and has it posted: of whom usage is asked is posted at once."""
    body = {"customerId": "acme", "value": value}
    assert daemon.request("POST", "/usage/api.calls", json=body).status_code == 201
    if posted:
        assert daemon.request("GET", "/customers/acme/usage?period=yearly").status_code == 200


def told(receiver: Receiver, count: int) -> list[tuple[str, str]]:
    """Thresholds and figures, as text, once so many came; each is signed."""
    found = []
    for one in receiver.wait_for(count):
        payload: dict[str, Any] = Webhook(SECRET).verify(one.body, one.headers)
        assert payload["type"] == "usage.threshold.reached"
        assert payload["customerId"] == "acme"
        found.append((payload["data"]["exact"]["threshold"], payload["data"]["exact"]["value"]))
    return found


def test_each_threshold_is_told_once(tmp_path: Path, receiver: Receiver) -> None:
    """By events, behind a kill that came before anybody could tell, and by a reload; also to a
    webhook that takes batches.
    """
    hook = webhooks(receiver, "[1, 2.5, 4]", "batch = 10")
    daemon = DaemonProcess(tmp_path, webhooks=hook)
    try:
        use(daemon, 1)
        assert told(receiver, 1) == [("1", "1")]
        use(daemon, 0.5)
        use(daemon, 1, posted=False)
        daemon.restart(signal.SIGKILL)
        assert told(receiver, 2)[1:] == [("2.5", "2.5")]
        daemon.configure(webhooks=webhooks(receiver, '["0.1", 1, 2.5, 4]'))
        daemon.send(signal.SIGHUP)
        assert told(receiver, 3)[2:] == [("0.1", "2.5")]
        use(daemon, 2)
        assert told(receiver, 4)[3:] == [("4", "4.5")]
        listed = daemon.request("GET", "/deliveries?customerId=acme").json()
        assert [(one["eventType"], one["threshold"]) for one in listed] == [
            ("api.calls", number) for number in ("4", "0.1", "2.5", "1")
        ]
        assert all("revision" not in one for one in listed)
        retried = daemon.request("POST", f"/deliveries/{listed[0]['id']}/retry")
        assert retried.status_code < 300
        again = receiver.wait_for(5)
        assert again[4].body == again[3].body
        assert again[4].headers["webhook-id"] == again[3].headers["webhook-id"]
        daemon.restart()
        use(daemon, 1)
    finally:
        daemon.stop()
    assert len(receiver.received) == 5
    assert list(verify(daemon.data)) == []
