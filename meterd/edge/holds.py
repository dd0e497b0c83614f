"""Why a delivery is not sent, and what ends that; computed when it is asked for, never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.instants import format_instant

if TYPE_CHECKING:
    from meterd.domain.deliveries import Delivery
    from meterd.domain.endpoint_states import EndpointState
    from meterd.domain.endpoints import Endpoint


class Hold(msgspec.Struct, frozen=True, omit_defaults=True):
    """As the API shows it: ``until`` is an instant, ``behind`` the id of another delivery, and
    ``enable`` the request that ends it.
    """

    reason: str
    message: str
    until: str | None = None
    behind: str | None = None
    enable: str | None = None


def state_of(state: EndpointState, endpoint: Endpoint | None, now_ms: int) -> str:
    """``removed`` and ``off`` by the configuration, ``gone`` and ``paused`` by its own answer, else
    ``on``.
    """
    if endpoint is None:
        return "removed"
    if not endpoint.enabled:
        return "off"
    if state.is_disabled(endpoint.url):
        return "gone"
    return "paused" if state.paused_until_ms > now_ms else "on"


def endpoint_hold(
    endpoint_id: str, state: EndpointState, endpoint: Endpoint | None, now_ms: int
) -> Hold | None:
    """What keeps everything from the endpoint, which is configured so."""
    enable = f"POST /webhooks/{endpoint_id}/enable"
    now = state_of(state, endpoint, now_ms)
    match now:
        case "removed":
            return Hold(now, f"{endpoint_id} is not configured: it is kept until it is")
        case "off":
            return Hold(now, f"{endpoint_id} has enabled = false in the configuration")
        case "gone":
            since = format_instant(state.disabled_ms or 0)
            return Hold(
                now,
                f"{endpoint_id} answered 410 at {since}: it gets nothing until its URL changes or"
                " it is enabled",
                enable=enable,
            )
        case "paused":
            until = format_instant(state.paused_until_ms)
            message = f"{endpoint_id} asked to be left alone until then, or until it is enabled"
            return Hold(now, message, until=until, enable=enable)
    return None


def held(delivery: Delivery, endpoint: Hold | None, behind: str | None = None) -> Hold | None:
    """What keeps the delivery; None where nothing but its time is to come.

    What concerns the whole endpoint comes first: nothing else matters until it is over.
    """
    if delivery.status is not DeliveryStatus.PENDING or delivery.begun_ms is not None:
        return None
    if endpoint is not None or behind is None:
        return endpoint
    return Hold("behind", "an earlier delivery of its customer goes first", behind=behind)


def next_attempt(delivery: Delivery, hold: Hold | None) -> str | None:
    """When the delivery is sent as far as that is known; ``hold`` is what keeps it."""
    if delivery.status is not DeliveryStatus.PENDING or delivery.begun_ms is not None:
        return None
    due = format_instant(delivery.next_attempt_ms)
    if hold is None:
        return due
    return None if hold.until is None else max(due, hold.until)  # their order is that of time
