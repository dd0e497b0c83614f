"""webhook_receiver.py where something is sent beside first aggregations: revisions, thresholds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.examples.receiver_example import Receiver
from tests.examples.test_webhook_receiver import SECRET, revision_of, signed

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver(WEBHOOK_SECRET=SECRET)
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.mark.parametrize(
    ("events", "before", "shown", "acted"),
    [
        (
            {"api.calls": 5000, "a": 1.5},
            {"api.calls": 2000},
            ["  api.calls: 5000 (was 2000)", "  a: 1.5 (was none)"],
            ["   💰 Billing: 5000 API calls, 2000 billed before: charge $3.00"],
        ),
        (
            {},
            {"api.calls": 2000},
            ["  api.calls: none (was 2000)"],
            ["   💰 Billing: 0 API calls, 2000 billed before: credit $2.00"],
        ),
        (
            {"api.calls": 2000},
            {"a": 1},
            ["  a: none (was 1)", "  api.calls: 2000 (was none)"],
            ["   💰 Billing: 2000 API calls = $2.00"],
        ),
    ],
)
def test_of_a_revision_the_difference_is_billed(
    receiver: Receiver,
    events: dict[str, Any],
    before: dict[str, Any],
    shown: list[str],
    acted: list[str],
) -> None:
    """Or credited, where events were taken back, all of a type perhaps."""
    body = revision_of(events, before)
    assert receiver.post(body, signed(body))[0] == 200
    told, done = receiver.stop().split("💡 Processing daily aggregation for customer_1\n")
    assert "\nWebhook Type: aggregation.revised\n" in told
    assert "\nRevision: 2, in place of 1\n" in told
    assert [line for line in told.splitlines() if "(was " in line] == shown
    assert done.splitlines() == acted


REACHED: dict[str, Any] = {
    "type": "usage.threshold.reached",
    "customerId": "customer_1",
    "period": "monthly",
    "data": {
        "periodStart": "2026-01-01T00:00:00.000Z",
        "periodEnd": "2026-01-31T23:59:59.999Z",
        "periodKey": "202601",
        "timestamp": "2026-01-14T11:15:00.000Z",
        "alert": "monthly-3f2a9c01",
        "eventType": "api.calls",
        "operation": "sum",
        "threshold": 800,
        "value": 803.5,
        "eventCount": 412,
        "exact": {"threshold": "800", "value": "803.5"},
    },
    "created": 1768389300,
    "sequence": 7,
}


def test_a_threshold_is_told_once(receiver: Receiver) -> None:
    """Whichever webhook it comes with; another threshold is another."""
    exact = {"threshold": "1000", "value": "1003"}
    higher = {**REACHED["data"], "eventCount": 1, "exact": exact}
    for number, webhook in enumerate((REACHED, REACHED, {**REACHED, "data": higher})):
        body = json.dumps(webhook).encode()
        assert receiver.post(body, signed(body, webhook_id=f"msg_{number}"))[0] == 200
    said = receiver.stop()
    assert "\nThreshold: 800 of api.calls (sum)\n  Value: 803.5, of 412 events\n" in said
    assert "\n  Value: 1003, of 1 event\n" in said
    assert said.count("🔔 customer_1 has reached 800 of api.calls\n") == 1
    assert said.count("🔔 customer_1 has reached 1000 of api.calls\n") == 1
    assert said.count("🔁 Repeat of customer_1 monthly 202601 api.calls 800:") == 1
    assert "💰" not in said
