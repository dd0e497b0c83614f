"""A customer's usage from a real daemon, as a shell script or a spreadsheet gets it."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.daemon_process import DaemonProcess

PLANS = ("pro", "free", "=team,1")


def curl(daemon: DaemonProcess, path: str, *options: str) -> str:
    """What it prints."""
    command = ["curl", "--silent", "--show-error", "--fail-with-body", *options]
    command += ["-H", f"x-apikey: {daemon.key}", daemon.url + path]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def batch(random: Random, size: int) -> list[dict[str, Any]]:
    """Of two customers; values that no sum of doubles would get right."""
    return [
        {
            "eventType": "api.calls",
            "customerId": random.choice(("acme", "other")),
            "value": Fraction(random.randrange(10**6), 1000),
            "metadata": {"plan": random.choice(PLANS), "seats": random.randrange(3)},
        }
        for _ in range(size)
    ]


def sent(events: list[dict[str, Any]]) -> str:
    exact = [{**event, "value": float(event["value"])} for event in events]
    return json.dumps(exact)


def test_usage_is_what_was_acknowledged(daemon: DaemonProcess) -> None:
    """Behind every batch, behind a kill, in every form: running totals, windows, groups, CSV."""
    random = Random(7)
    events: list[dict[str, Any]] = []
    ours: list[dict[str, Any]] = []
    total = Fraction(0)
    for turn in range(4):
        some = batch(random, 300)
        assert daemon.request("POST", "/usagebatch", content=sent(some)).status_code == 201
        events += some
        ours = [event for event in events if event["customerId"] == "acme"]
        total = sum((event["value"] for event in ours), Fraction(0))
        live = daemon.request("GET", "/customers/acme/usage?period=yearly").json()
        calls = live["usage"]["api.calls"]
        assert (Fraction(calls["exact"]["sum"]), calls["count"]) == (total, len(ours))
        if turn == 2:
            daemon.restart(signal.SIGKILL)
    customers = daemon.request("GET", "/customers").json()
    assert [one["customerId"] for one in customers] == ["acme", "other"]

    [year] = lines(curl(daemon, "/usage?customerId=acme&window=yearly", "-H", "Accept: text/csv"))
    assert (Fraction(year["value"]), year["status"]) == (total, "open")
    assert Decimal(year["first"]) == Decimal(str(float(ours[0]["value"])))
    assert Decimal(year["last"]) == Decimal(str(float(ours[-1]["value"])))

    path = "/usage?customerId=acme&window=yearly&groupBy=metadata.plan&groupBy=metadata.seats"
    by_group: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for event in ours:
        by_group[event["metadata"]["plan"], str(event["metadata"]["seats"])] += event["value"]
    rows = json.loads(curl(daemon, path))
    assert {tuple(row["group"].values()): Fraction(row["exact"]["sum"]) for row in rows} == by_group
    found = lines(curl(daemon, path, "-H", "Accept: text/csv"))
    assert {row["metadata.plan"] for row in found} == {"pro", "free", "'=team,1"}
    assert sum(Fraction(row["sum"]) for row in found) == total

    hours = lines(
        curl(
            daemon,
            "/usage?customerId=acme&window=hourly&filter.metadata.plan=%3Dteam,1",
            *("-H", "Accept: text/csv"),
        )
    )
    assert sum(int(row["count"]) for row in hours) == sum(
        event["metadata"]["plan"] == "=team,1" for event in ours
    )
