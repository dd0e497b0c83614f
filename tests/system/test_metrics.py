"""A real daemon is scraped: its figures are what was sent, and what came of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meterd import __version__
from meterd.cli import main
from meterd.domain.credentials import Scope
from tests.daemon_process import DaemonProcess
from tests.receiver import Receiver
from tests.system.scraping import scraped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CUSTOMERS = [f"customer_{number}" for number in range(7)]
WEBHOOKS = """
[[webhooks]]
id = "billing"
url = "{billing}"
secret = "whsec_of_some_length"
allow_private = ["127.0.0.0/8"]
[[webhooks]]
id = "crm"
url = "{crm}"
secret = "whsec_of_some_length"
allow_private = ["127.0.0.0/8"]
schedule = []
batch = 100
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    started = DaemonProcess(tmp_path)
    yield started
    started.stop()


def test_what_was_sent_is_what_is_counted(daemon: DaemonProcess) -> None:
    """Requests, events and transactions, to the last one."""
    event = {"customerId": "a", "value": 1}
    item = {**event, "eventType": "api.calls"}
    for _ in range(4):
        daemon.request("POST", "/usage/api.calls", json=event)
    for _ in range(3):
        daemon.request("POST", "/usage/api.calls", json={**event, "idempotencyKey": "k"})
    daemon.request("POST", "/usage/none.such", json=event)
    daemon.request("POST", "/usagebatch", json=[{**item, "customerId": c} for c in CUSTOMERS])
    daemon.request("GET", "/events?customerId=a")
    page = scraped(daemon)
    usage = {"lane": "plain", "method": "POST", "route": "/usage/{eventType}"}
    assert page.value("meterd_requests_total", **usage, status="201") == 5
    assert page.value("meterd_requests_total", **usage, status="200") == 2
    assert page.value("meterd_requests_total", **usage, status="400") == 1
    batch = {"lane": "plain", "method": "POST", "route": "/usagebatch", "status": "201"}
    assert page.value("meterd_requests_total", **batch) == 1
    read = {"lane": "full", "method": "GET", "route": "/events", "status": "200"}
    assert page.value("meterd_requests_total", **read) == 1
    outcomes = {"stored": 12, "duplicate": 2, "conflict": 0, "refused": 1}
    for outcome, count in outcomes.items():
        assert page.value("meterd_events_total", outcome=outcome) == count
    assert page.value("meterd_transaction_events_sum") == 12
    by_one = page.value("meterd_transaction_events_bucket", le="1.0")
    none = page.value("meterd_transaction_events_bucket", le="0.0")
    assert by_one - none == 5
    assert page.value("meterd_customers_awake") == 8
    assert page.value("meterd_events_in_flight") == 0
    assert page.value("meterd_ready") == 1
    file = daemon.data / "store" / "data.mdb"
    assert page.value("meterd_store_size_bytes") == file.stat().st_size


def test_the_process_and_what_it_is_made_of(daemon: DaemonProcess) -> None:
    """The loop is looked at, and the figures of the process are this one's."""
    page = scraped(daemon, lambda page: page.value("meterd_loop_lag_seconds_count") >= 3)
    [build] = [one.labels for one in page.samples if one.name == "meterd_build_info"]
    assert build["version"] == __version__
    assert set(build) == {"version", "commit", "python", "lmdb"}
    status = f"/proc/{daemon.process.pid}/status"
    with open(status) as lines:  # noqa: PTH123
        [resident] = [line.split()[1] for line in lines if line.startswith("VmRSS")]
    shown = page.value("process_resident_memory_bytes") / 1024
    assert shown == pytest.approx(int(resident), rel=0.1)
    assert page.value("process_open_fds") >= 8
    assert page.value("meterd_connections", state="busy") == 1


def test_what_became_of_webhooks(tmp_path: Path) -> None:
    """Delivered to one; the other refuses its batch, whose deliveries are parked, each counted."""
    with Receiver() as billing, Receiver() as crm:
        crm.statuses = [404]
        webhooks = WEBHOOKS.format(billing=billing.url, crm=crm.url)
        daemon = DaemonProcess(tmp_path, webhooks=webhooks)
        try:
            for customer in CUSTOMERS:
                event = {"customerId": customer, "value": 1}
                daemon.request("POST", "/usage/api.calls", json=event)
            # Nothing has become of anything, and all of it begins at 0.
            page = scraped(daemon)
            for endpoint in ("billing", "crm"):
                assert page.value("meterd_deliveries_parked_total", endpoint=endpoint) == 0
                assert page.value("meterd_endpoint_state", endpoint=endpoint, state="on") == 1
            daemon.stop()
            daemon.close_hours_alone()
            daemon.program = "tests.system.hours_later 2"
            daemon.start()
            billing.wait_for(len(CUSTOMERS))
            crm.wait_for(1)
            parked = {"endpoint": "crm", "state": "parked"}
            page = scraped(
                daemon,
                lambda page: (
                    page.value("meterd_endpoint_deliveries", **parked) == len(CUSTOMERS)
                    and page.value("meterd_deliveries", state="pending") == 0
                ),
            )
            attempts = {"endpoint": "billing", "outcome": "2xx"}
            assert page.value("meterd_attempts_total", **attempts) == len(CUSTOMERS)
            assert page.value("meterd_attempts_total", endpoint="crm", outcome="4xx") == 1
            assert page.value("meterd_deliveries_parked_total", endpoint="crm") == len(CUSTOMERS)
            assert page.value("meterd_deliveries_parked_total", endpoint="billing") == 0
            assert page.value("meterd_deliveries", state="parked") == len(CUSTOMERS)
            assert page.value("meterd_closing_lag_seconds") == 0
        finally:
            daemon.stop()


def test_a_key_of_its_own(daemon: DaemonProcess) -> None:
    """Whoever watches meterd needs to see nobody's usage, and a key for usage shows no metrics."""
    environ = {"METERD_DATA_DIR": str(daemon.data), "METERD_CONFIG": str(daemon.config)}
    keys = {}
    for scope in Scope:
        made = CliRunner().invoke(main, ["keys", "create", "--scope", scope.value], env=environ)
        assert made.exit_code == 0, made.output
        keys[scope] = made.stdout.strip()
    daemon.send(signal.SIGHUP)
    daemon.wait_for("configuration reloaded")
    for scope, key in keys.items():
        expected = 200 if scope == Scope.METRICS else 403
        answer = daemon.request("GET", "/metrics", headers={"x-apikey": key})
        assert answer.status_code == expected
    watcher = {"x-apikey": keys[Scope.METRICS]}
    assert daemon.request("GET", "/events", headers=watcher).status_code == 403
