"""A meterd that runs as the pages suppose it does, and the shell of somebody who follows them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.daemon_process import DaemonProcess
from tests.docs.shell import STRICT_CURL, follow
from tests.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# The pages tell of January 2026, and do not wait a minute for revisions. What fails once is parked.
OPTIONS = 'accept_past = "3650d"\nidempotency_window = "3650d"\nrevise_after = "0s"'
WEBHOOK = """
[[webhooks]]
id = "{name}"
url = "{url}"
secret = "whsec_of_some_length"
allow_private = ["127.0.0.1/32"]
schedule = []
"""
NAMES = ("billing", "crm", "example-receiver")
IN_JANUARY = "2026-01-14T10:20:00Z"


class AtWork:
    """Has events of ``customer_1`` of now, and of ``acme`` of January 2026, which is closed and
    delivered; but for what is parked.
    """

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self.folder = folder
        self.receiver = receiver
        self.webhooks = "".join(WEBHOOK.format(name=name, url=receiver.url) for name in NAMES)
        self.daemon = DaemonProcess(folder, webhooks=self.webhooks, options=OPTIONS)
        receiver.statuses.append(500)
        common = {"value": 3, "metadata": {"endpoint": "/api/users"}}
        for own in ({"customerId": "customer_1"}, {"customerId": "acme", "timestamp": IN_JANUARY}):
            sent = self.daemon.request("POST", "/usage/api.calls", json={**common, **own})
            assert sent.status_code == 201, sent.text
        self.daemon.trigger()
        # An hour, a day, a week and a month, to each webhook; what is behind the one that was
        # refused comes when that is parked.
        receiver.wait_for(3 * 4)

    def parked(self) -> str:
        """The delivery that was refused."""
        [delivery] = self.daemon.request("GET", "/deliveries?status=parked").json()
        return str(delivery["id"])

    def follow(self, script: str, replaced: Mapping[str, str] | None = None) -> str:
        """What it says, in the folder with the configuration."""
        environ = {
            "API_KEY": self.daemon.key,
            "BASE_URL": self.daemon.url,
            "METERD_API_KEY": self.daemon.key,
            "METERD_BIND": self.daemon.url.removeprefix("http://"),
            "METERD_DATA_DIR": str(self.daemon.data),
        }
        return follow(f"{STRICT_CURL}\n{script}", self.folder, replaced, environ)


@contextmanager
def at_work(folder: Path) -> Iterator[AtWork]:
    with Receiver() as receiver:
        working = AtWork(folder, receiver)
        try:
            yield working
        finally:
            working.daemon.stop()
