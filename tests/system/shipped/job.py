"""The main job, against a meterd as it is shipped: event, total, verified webhook, restart."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from standardwebhooks import Webhook

from tests.daemon_process import shipped_event_types

if TYPE_CHECKING:
    from tests.daemon_process import DaemonProcess
    from tests.receiver import Receiver

SECRET = "whsec_b2YgdGhlIHJlY2VpdmVyIG9mIHdoYXQgaXMgc2hpcHBlZA=="


def webhook_to(receiver: Receiver) -> str:
    return f"""
[[webhooks]]
id = "billing"
url = "{receiver.url}"
secret = "{SECRET}"
allow_private = ["127.0.0.0/8"]
"""


def does_its_job(daemon: DaemonProcess, receiver: Receiver) -> None:
    """From a start over an empty folder on."""
    two_hours_ago = datetime.now(UTC) - timedelta(hours=2)
    event = {"customerId": "acme", "value": 0.1, "timestamp": two_hours_ago.isoformat()}
    for key in ("a", "b", "a"):
        sent = daemon.request("POST", "/usage/api.calls", json={**event, "idempotencyKey": key})
        assert sent.status_code in {200, 201}, sent.text
    daemon.trigger()
    webhook, *_ = receiver.wait_for(1)  # behind midnight those of the day before follow
    payload = Webhook(SECRET).verify(webhook.body, webhook.headers)
    assert (payload["customerId"], payload["period"]) == ("acme", "hourly")
    assert payload["data"]["events"] == {"api.calls": 0.2}

    daemon.restart()
    assert len(daemon.request("GET", "/events").json()) == 2
    daemon.restart(signal.SIGKILL)
    assert len(daemon.request("GET", "/events").json()) == 2


def reloads(daemon: DaemonProcess, receiver: Receiver) -> None:
    """A new event type is taken from SIGHUP on, and not before."""
    event = {"customerId": "acme", "value": 1}
    assert daemon.request("POST", "/usage/new.type", json=event).status_code == 400
    types = shipped_event_types() + '\n[events."new.type"]\nop = "sum"'
    daemon.configure(event_types=types, webhooks=webhook_to(receiver))
    daemon.send(signal.SIGHUP)
    daemon.wait_for("configuration reloaded")
    assert daemon.request("POST", "/usage/new.type", json=event).status_code == 201


def stops(daemon: DaemonProcess) -> None:
    """SIGTERM ends it in good time, and well."""
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 10
