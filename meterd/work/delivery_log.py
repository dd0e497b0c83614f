"""What the log says of deliveries and of their endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.instants import format_instant

if TYPE_CHECKING:
    from meterd.domain.deliveries import Delivery
    from meterd.domain.outcomes import Outcome
    from meterd.domain.standing import Standing

# Each of these is written: they are what a dry run is for.
DRY_RUN: Final = "dry run: this would be sent"

_log = structlog.get_logger("delivery")


def tell_settled(settled: Delivery, outcome: Outcome, held_until_ms: int) -> None:
    log = _log.bind(endpoint=settled.endpoint_id, delivery=settled.id, attempt=settled.attempts)
    if settled.status is DeliveryStatus.DELIVERED:
        log.info("delivered", dry_run=outcome.dry_run)
    elif settled.status is DeliveryStatus.PARKED:
        log.error("delivery parked: every attempt failed", error=outcome.error)
    else:
        log.warning(
            "attempt failed",
            error=outcome.error,
            next=format_instant(max(settled.next_attempt_ms, held_until_ms)),
        )


def tell_change(before: Standing, now: Standing) -> None:
    log = _log.bind(endpoint=now.endpoint.id)
    if now.is_gone and not before.is_gone:
        log.error("endpoint is gone (410) and disabled until its URL changes or it is enabled")
    if now.paused_until_ms > before.paused_until_ms:
        log.warning("endpoint asks to wait", until=format_instant(now.paused_until_ms))
    if now.breaker.is_open and not before.breaker.is_open:
        log.warning("endpoint fails: what failed before is sent one at a time")
    if now.breaker.is_down and not before.breaker.is_down:
        log.warning("endpoint is down: one attempt at a time")
    elif before.breaker.is_open and not now.breaker.is_open:
        log.info("endpoint is back")
