"""Why a delivery waits, and until when."""

from __future__ import annotations

import msgspec
import pytest

from meterd.domain.deliveries import Delivery, DeliveryStatus
from meterd.domain.endpoint_states import EndpointState, disabled, paused
from meterd.domain.endpoints import Endpoint
from meterd.domain.periods import PeriodType
from meterd.edge.holds import Hold, endpoint_hold, held, next_attempt
from tests.fake_clock import ms

NOW_MS = ms("2026-03-10T10:00:00Z")
WAITING = Delivery("msg_1", "billing", 7, "c", PeriodType.DAILY, 0, 1, b"{}", 5, NOW_MS - 5000)
DONE = msgspec.structs.replace(WAITING, status=DeliveryStatus.DELIVERED)
BEGUN = msgspec.structs.replace(WAITING, begun_ms=5)
BILLING = Endpoint("billing", "http://b.test/", ("whsec_first",))
OFF = msgspec.structs.replace(BILLING, enabled=False)
MOVED = msgspec.structs.replace(BILLING, url="http://new.test/")
ON = EndpointState()
GONE = disabled(ON, BILLING.url, NOW_MS)
BUSY = paused(ON, NOW_MS + 1)


@pytest.mark.parametrize(
    ("delivery", "state", "endpoint", "behind", "reason"),
    [
        (WAITING, ON, BILLING, None, None),
        (WAITING, ON, BILLING, "msg_0", "behind"),
        (WAITING, BUSY, BILLING, "msg_0", "paused"),
        (WAITING, paused(ON, NOW_MS), BILLING, None, None),
        (WAITING, GONE, BILLING, "msg_0", "gone"),
        (WAITING, GONE, MOVED, None, None),
        (WAITING, GONE, OFF, None, "off"),
        (WAITING, GONE, None, "msg_0", "removed"),
        (BEGUN, BUSY, BILLING, None, None),
        (DONE, GONE, None, None, None),
        (msgspec.structs.replace(DONE, status=DeliveryStatus.PARKED), GONE, None, None, None),
    ],
)
def test_why_it_waits(
    delivery: Delivery,
    state: EndpointState,
    endpoint: Endpoint | None,
    behind: str | None,
    reason: str | None,
) -> None:
    """What concerns the whole endpoint first; nothing for what is done or in the air."""
    found = held(delivery, endpoint_hold("billing", state, endpoint, NOW_MS), behind)
    assert (found and found.reason) == reason
    assert found is None or found.message


@pytest.mark.parametrize(
    ("state", "endpoint", "enable"),
    [
        (GONE, BILLING, "POST /webhooks/billing/enable"),
        (BUSY, BILLING, "POST /webhooks/billing/enable"),
        (GONE, OFF, None),
        (GONE, None, None),
    ],
)
def test_what_enabling_ends(
    state: EndpointState, endpoint: Endpoint | None, enable: str | None
) -> None:
    """What the endpoint said itself, and not what the configuration says."""
    found = endpoint_hold("billing", state, endpoint, NOW_MS)
    assert found is not None
    assert found.enable == enable


@pytest.mark.parametrize(
    ("delivery", "hold", "at"),
    [
        (WAITING, None, "2026-03-10T09:59:55.000Z"),
        (WAITING, Hold("gone", ""), None),
        (WAITING, Hold("behind", "", behind="msg_0"), None),
        (WAITING, Hold("paused", "", until="2026-03-10T10:01:00.000Z"), "2026-03-10T10:01:00.000Z"),
        (WAITING, Hold("paused", "", until="2026-03-10T09:00:00.000Z"), "2026-03-10T09:59:55.000Z"),
        (BEGUN, None, None),
        (DONE, None, None),
    ],
)
def test_when_it_is_sent(delivery: Delivery, hold: Hold | None, at: str | None) -> None:
    """Never said to be in the past because of what holds it."""
    assert next_attempt(delivery, hold) == at
