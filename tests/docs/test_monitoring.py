"""docs/monitoring.md is followed to the letter, and the log that it shows is what is logged."""

from __future__ import annotations

import json
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from tests.daemon_process import KEY, DaemonProcess
from tests.docs.at_work import at_work
from tests.docs.reading import DOCS, ROOT, blocks_of
from tests.docs.shell import free_address, in_place, pieces
from tests.docs.terminal import Terminal
from tests.receiver import Receiver
from tests.system.torture.hindered import skip_if

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docs.at_work import AtWork

PAGE = DOCS / "monitoring.md"
FOR_PEOPLE = """
periods = ["hourly"]
log_format = "console"
[events."api.calls"]
op = "sum"
[[webhooks]]
id = "billing"
url = "{url}"
secret = "whsec_of_some_length"
allow_private = ["127.0.0.1/32"]
"""


def test_the_key_that_is_made_reads_metrics(tmp_path: Path) -> None:
    """As a bearer token, which is how Prometheus sends it, and nothing else."""
    with at_work(tmp_path) as meterd:
        key = key_of(meterd)
        token = {"authorization": f"Bearer {key}"}
        answers = {
            path: httpx.get(meterd.daemon.url + path, headers=token).status_code
            for path in ("/metrics", "/events")
        }
        assert answers == {"/metrics": 200, "/events": 403}


def key_of(meterd: AtWork) -> str:
    """The key that the page makes."""
    [script] = pieces(PAGE)
    [key] = re.findall(r"mk_[\w-]+", meterd.follow(script))
    meterd.daemon.wait_for("configuration reloaded")
    return str(key)


def test_prometheus_scrapes_as_the_page_has_it(tmp_path: Path) -> None:
    """With the key of the page, and with the alerts; each second, so that it is soon."""
    program = shutil.which("prometheus")
    skip_if(None if program else "prometheus is not installed")
    [block] = blocks_of(PAGE, "yaml")
    shutil.copy(ROOT / "packaging" / "alerts.yml", tmp_path / "meterd-alerts.yml")
    with at_work(tmp_path) as meterd:
        (tmp_path / "meterd.key").write_text(key_of(meterd))
        there = {
            "127.0.0.1:8080": meterd.daemon.url.removeprefix("http://"),
            "/etc/prometheus/meterd.key": str(tmp_path / "meterd.key"),
        }
        text = in_place(block.text, there)
        (tmp_path / "prometheus.yml").write_text(f"global: {{scrape_interval: 1s}}\n{text}")
        address = free_address()
        script = (
            "exec prometheus --config.file=prometheus.yml --storage.tsdb.path=series"
            f" --web.listen-address={address}"
        )
        with (
            Terminal(script, tmp_path, {}) as terminal,
            httpx.Client(base_url=f"http://{address}/api/v1") as client,
        ):
            terminal.wait_for("Server is ready to receive web requests")
            while not (found := asked(client, "/query?query=meterd_ready")["result"]):
                time.sleep(0.05)  # Prometheus tells nobody when it has scraped
            groups = asked(client, "/rules")["groups"]
    assert [one["value"][1] for one in found] == ["1"]
    assert [one["metric"]["job"] for one in found] == ["meterd"]
    assert sum(len(group["rules"]) for group in groups) >= 10


def asked(client: httpx.Client, path: str) -> Any:
    answer = client.get(path).raise_for_status().json()
    assert answer["status"] == "success"
    return answer["data"]


def test_the_line_for_people_is_one(tmp_path: Path) -> None:
    """But for its moments, and the id of the delivery."""
    [shown] = blocks_of(PAGE, "text")
    bind = free_address()
    event = {"customerId": "c", "value": 1, "timestamp": datetime.now(UTC) - timedelta(hours=3)}
    environ = {"METERD_BIND": bind, "METERD_API_KEY": KEY}
    with Receiver() as receiver:
        receiver.statuses.append(500)
        (tmp_path / "systemconfig.toml").write_text(FOR_PEOPLE.format(url=receiver.url))
        with (
            Terminal("meterd serve", tmp_path, environ) as terminal,
            httpx.Client(base_url=f"http://{bind}", headers={"x-apikey": KEY}) as client,
        ):
            terminal.wait_for("serving")
            client.post("/usage/api.calls", content=msgspec.json.encode(event)).raise_for_status()
            client.post("/aggregations/trigger").raise_for_status()
            terminal.wait_for("attempt failed")
    [line] = [line for line in terminal.said.splitlines() if "attempt failed" in line]
    assert without_moments(line) == without_moments(shown.text.rstrip())


def without_moments(line: str) -> str:
    return re.sub(r"\bmsg_\w+", "msg", re.sub(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z", "moment", line))


def test_the_line_of_a_request_is_one(tmp_path: Path) -> None:
    """Field by field, in their order."""
    [block] = blocks_of(PAGE, "json")
    shown = json.loads(block.text)
    daemon = DaemonProcess(tmp_path, options='log_level = "debug"')
    try:
        headers = {"X-Request-Id": shown["request_id"]}
        event = {"customerId": "c", "value": 1}
        sent = daemon.request(shown["method"], shown["path"], json=event, headers=headers)
        assert sent.status_code == shown["status"]
        while (entry := daemon.wait_for("request")).get("request_id") != shown["request_id"]:
            pass
    finally:
        daemon.stop()
    assert list(entry) == list(shown)
    assert {name: type(value) for name, value in entry.items()} == {
        name: type(value) for name, value in shown.items()
    }
    for name in ("level", "logger", "event", "method", "path", "status", "lane"):
        assert entry[name] == shown[name]
