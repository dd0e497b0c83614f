"""The dashboard and the alerts: every name in them is exported by a daemon that runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.daemon_process import ROOT, DaemonProcess
from tests.docs.reading import DOCS, blocks_of
from tests.receiver import Receiver
from tests.system.promql import Used, used
from tests.system.scraping import scraped
from tests.system.torture.hindered import skip_if

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGING: Final = ROOT / "packaging"
DASHBOARD: Final[dict[str, Any]] = json.loads((PACKAGING / "grafana-dashboard.json").read_text())
ALERTS: Final[dict[str, Any]] = yaml.safe_load((PACKAGING / "alerts.yml").read_text())
# What Prometheus itself adds to every series, and what it makes of a scrape.
OF_EVERY_SERIES: Final = {"job", "instance"}
OF_SCRAPES: Final = {"up"}
ROWS: Final = ["Ingest", "Closing", "Delivery", "Store", "Process"]
WEBHOOK: Final = """
[[webhooks]]
id = "billing"
url = "{url}"
secret = "whsec_of_some_length"
allow_private = ["127.0.0.0/8"]
"""


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DASHBOARD["panels"]
    return found


def expressions() -> dict[str, str]:
    """All of both files, by where they stand."""
    of_alerts = {rule["alert"]: rule["expr"] for rule in rules()}
    of_panels = {
        f"{panel['title']}, {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel.get("targets", ())
    }
    annotations = {one["name"]: one["expr"] for one in DASHBOARD["annotations"]["list"]}
    return {**of_alerts, **of_panels, **annotations}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of each metric of a daemon that has delivered a webhook, by name."""
    with Receiver() as receiver:
        folder = tmp_path_factory.mktemp("exported")
        daemon = DaemonProcess(folder, webhooks=WEBHOOK.format(url=receiver.url))
        try:
            event = {"customerId": "a", "value": 1}
            assert daemon.request("POST", "/usage/api.calls", json=event).status_code == 201
            daemon.stop()
            daemon.program = "tests.system.hours_later 2"
            daemon.start()
            receiver.wait_for(1)
            found = scraped(daemon, until=lambda page: page.has("meterd_attempts_total"))
        finally:
            daemon.stop()
    return found.labels()


# -- what they name -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", expressions())
def test_every_metric_and_label_is_exported(exported: dict[str, set[str]], place: str) -> None:
    """A panel or an alert with a name that is not would be empty, and silent, for ever."""
    found = used(expressions()[place])
    assert found.metrics
    assert found.metrics <= exported.keys() | OF_SCRAPES
    for metric, label in found.selected:
        assert label in exported.get(metric, set()) | OF_EVERY_SERIES, f"{metric} has no {label}"
    labels = set.union(*(exported.get(metric, set()) for metric in found.metrics))
    assert found.grouped <= labels | OF_EVERY_SERIES


def test_values_of_labels_are_exported_too(exported: dict[str, set[str]]) -> None:
    """States that alerts select are states that there are."""
    from meterd.edge.metric_families import ENDPOINT_STATES

    selected = {
        state
        for expression in expressions().values()
        for states in re.findall(r'meterd_endpoint_state\{[^}]*state=~?"([^"]*)"', expression)
        for state in states.split("|")
    }
    assert selected
    assert selected <= set(ENDPOINT_STATES)
    assert exported["meterd_endpoint_state"] == {"endpoint", "state"}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a > 1", Used(frozenset("a"), frozenset(), frozenset())),
        (
            'sum by (x, le) (rate(a_b{c="d{e",f=~"g|h"}[5m])) / b offset 1h or inf',
            Used(
                frozenset(("a_b", "b")),
                frozenset((("a_b", "c"), ("a_b", "f"))),
                frozenset(("x", "le")),
            ),
        ),
        (
            "histogram_quantile(0.99, sum by (le)\n(rate(a_bucket[$__rate_interval]))) < 2e9",
            Used(frozenset(("a_bucket",)), frozenset(), frozenset(("le",))),
        ),
    ],
)
def test_names_are_found_in_expressions(expression: str, expected: Used) -> None:
    """Neither functions, nor words, nor what stands in strings and ranges."""
    assert used(expression) == expected


# -- alerts ---------------------------------------------------------------------------------------


def test_alerts_say_what_is_at_stake() -> None:
    """Each has a name of its own, how grave it is, and what to do."""
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) >= 10
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))


def test_labels_in_texts_are_those_of_the_result() -> None:
    """Else a gap would stand in the message that wakes somebody."""
    for rule in rules():
        found = used(rule["expr"])
        texts = " ".join(rule["annotations"].values())
        for label in re.findall(r"\$labels\.(\w+)", texts):
            grouped = found.grouped or OF_EVERY_SERIES | {"endpoint", "route", "status"}
            assert label in grouped, f"{rule['alert']} has no {label}"


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    skip_if(None if program else "promtool is not installed (Debian: prometheus)")
    assert program is not None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    """As its own tool says."""
    assert f"{len(rules())} rules found" in promtool("check", "rules", PACKAGING / "alerts.yml")


def test_prometheus_takes_the_configuration_of_the_page(tmp_path: Path) -> None:
    """And its job is the one that the alerts are about."""
    [block] = blocks_of(DOCS / "monitoring.md", "yaml")
    [job] = yaml.safe_load(block.text)["scrape_configs"]
    named = {name for rule in rules() for name in re.findall(r'job="(\w+)"', rule["expr"])}
    assert named == {job["job_name"]}
    path = tmp_path / "prometheus.yml"
    path.write_text(block.text)
    promtool("check", "config", "--syntax-only", path)


SERIES: Final = 'job="meterd",instance="a:8080"'
ENDPOINT: Final = f'endpoint="crm",{SERIES}'
# Series as promtool writes them, with the alerts that they raise within the time.
RAISED: Final = {
    "nothing wrong": (
        {
            f"up{{{SERIES}}}": "1x120",
            f"meterd_ready{{{SERIES}}}": "1x120",
            f"meterd_closing_lag_seconds{{{SERIES}}}": "0x120",
            f"meterd_disk_room_bytes{{{SERIES}}}": "50e9x120",
            f'meterd_requests_total{{status="201",{SERIES}}}': "0+600x120",
            f'meterd_requests_total{{status="503",{SERIES}}}': "0x120",
            f"meterd_deliveries_parked_total{{{ENDPOINT}}}": "3x120",
            f'meterd_endpoint_state{{state="failing",{ENDPOINT}}}': "0x120",
            f"process_start_time_seconds{{{SERIES}}}": "1000x120",
        },
        set[str](),
    ),
    "not there": ({f"up{{{SERIES}}}": "0x120"}, {"MeterdDown"}),
    "starts for long": (
        {
            f"meterd_ready{{{SERIES}}}": "0x120",
            f'meterd_requests_total{{route="/readyz",status="503",{SERIES}}}': "0+6x120",
        },
        {"MeterdNotReady"},
    ),
    "refuses": (
        {f'meterd_requests_total{{route="/usagebatch",status="503",{SERIES}}}': "0+6x120"},
        {"MeterdRequestsRefused"},
    ),
    "ends again and again": (
        {f"process_start_time_seconds{{{SERIES}}}": "1000+300x120"},
        {"MeterdRestarts"},
    ),
    "parked": (
        {f"meterd_deliveries_parked_total{{{ENDPOINT}}}": "0x100 1x20"},
        {"MeterdDeliveriesParked"},
    ),
    "failing": (
        {f'meterd_endpoint_state{{state="down",{ENDPOINT}}}': "0x60 1x60"},
        {"MeterdEndpointFailing"},
    ),
    "not closed": (
        {f"meterd_closing_lag_seconds{{{SERIES}}}": "0+60x120"},
        {"MeterdClosingLags"},
    ),
    "disk": (
        {
            f"meterd_disk_room_bytes{{{SERIES}}}": "1e9x120",
            f"meterd_disk_full{{{SERIES}}}": "0x119 1",
            f'meterd_requests_total{{status="507",{SERIES}}}': "0x100 0+5x20",
        },
        {"MeterdDiskNearlyFull", "MeterdDiskFull", "MeterdRequestsRefused"},
    ),
    "disk fills": (
        {f"meterd_disk_room_bytes{{{SERIES}}}": "90e9-90e6x120"},
        {"MeterdDiskNearlyFull"},
    ),
    "busy": (
        {
            f'meterd_loop_lag_seconds_bucket{{le="{bound}",{SERIES}}}': f"0+{count}x120"
            for bound, count in (("0.1", 1), ("1.0", 200), ("+Inf", 200))
        },
        {"MeterdLoopLags"},
    ),
}


@pytest.mark.parametrize("case", RAISED)
def test_what_raises_which_alert(tmp_path: Path, case: str) -> None:
    """After two hours of it, sampled each minute: these, and no others."""
    series, raised = RAISED[case]
    test = {
        "rule_files": [str(PACKAGING / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": "2h",
                        "exp_samples": [
                            {"labels": f'{{alertname="{name}"}}', "value": 1}
                            for name in sorted(raised)
                        ],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(test))
    promtool("test", "rules", path)


# -- the dashboard --------------------------------------------------------------------------------


def test_the_dashboard_can_be_imported() -> None:
    """It names no data source of somebody else's, and its ids are its own."""
    assert DASHBOARD["title"] == "meterd"
    assert "id" not in DASHBOARD
    assert DASHBOARD["schemaVersion"] >= 36
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    sources = {
        target["datasource"]["uid"] for panel in panels() for target in panel.get("targets", ())
    }
    assert sources == {"${datasource}"}
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
    ]


def test_its_rows() -> None:
    """Each has panels, each panel has something to show, and none lies on another."""
    rows: dict[str, int] = {}
    for panel in panels():
        if panel["type"] == "row":
            rows[panel["title"]] = 0
        else:
            rows[list(rows)[-1]] += 1
            assert panel["targets"], panel["title"]
    assert list(rows) == ROWS
    assert min(rows.values()) >= 3
    cells = list(_cells())
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def _cells() -> Iterator[tuple[int, int]]:
    for panel in panels():
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                yield x, y
