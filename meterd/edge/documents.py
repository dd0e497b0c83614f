"""Events and aggregations as the API shows them: keys and order of the contract, section 4."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain import javascript
from meterd.domain.aggregations import as_number, exact_figures
from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.event_ids import to_text
from meterd.domain.events import sent_key
from meterd.domain.instants import format_instant
from meterd.domain.periods import week_key

if TYPE_CHECKING:
    from decimal import Decimal

    from meterd.domain.deliveries import Delivery
    from meterd.domain.stored_events import StoredEvent
    from meterd.ledger import DeliveredAggregation

_MINUTE_MS: Final = 60_000


def event_document(stored: StoredEvent) -> bytes:
    event = stored.event
    document: dict[str, Any] = {
        "_id": to_text(stored.id),
        "eventType": event.event_type,
        "customerId": event.customer_id,
        "value": msgspec.Raw(javascript.exact_text(event.value).encode()),
        # As it was sent, but for the white space between its tokens.
        "metadata": msgspec.Raw(msgspec.json.format(event.metadata, indent=-1)),
        "receivedAt": format_instant(stored.received_ms),
        **_calendar(stored.received_ms // _MINUTE_MS),
    }
    if event.timestamp_ms is not None:
        document["timestamp"] = format_instant(event.timestamp_ms)
    if event.idempotency_key:
        document["idempotencyKey"], place = sent_key(event.idempotency_key)
        if place is not None:
            document["idempotencyItem"] = place
    if stored.void is not None:
        voided_at = format_instant(stored.void.voided_ms)
        document["void"] = {"reason": stored.void.reason, "voidedAt": voided_at}
    return msgspec.json.encode(document)


@lru_cache(maxsize=256)
def _calendar(minute: int) -> dict[str, str]:
    moment = dt.datetime.fromtimestamp(minute * 60, dt.UTC)
    return {
        "minute": f"{moment:%Y%m%d%H%M}",
        "hour": f"{moment:%Y%m%d%H}",
        "day": f"{moment:%Y%m%d}",
        "week": week_key(moment),
        "month": f"{moment:%Y%m}",
        "year": f"{moment:%Y}",
    }


def aggregation_document(found: DeliveredAggregation) -> bytes:
    aggregation = found.aggregation
    period = aggregation.period
    figures = aggregation.figures
    document: dict[str, Any] = {
        "_id": aggregation.id,
        "customerId": aggregation.customer_id,
        "period": aggregation.period_type,
        "periodStart": format_instant(period.start_ms),
        "periodEnd": format_instant(period.last_ms),
        "periodKey": period.key,
        "timestamp": format_instant(aggregation.computed_ms),
        "events": {event_type: number(figure.value) for event_type, figure in figures.items()},
        "eventCounts": {event_type: figure.count for event_type, figure in figures.items()},
        "webhookStatus": _webhook_status(found.deliveries),
        "eventCount": aggregation.event_count,
        "createdAt": format_instant(aggregation.created_ms),
        "status": "closed" if aggregation.closed else "open",
        "revision": aggregation.revision,
        "exact": exact_figures(aggregation),
    }
    if aggregation.previous:
        document["digest"] = aggregation.digest.hex()
    return msgspec.json.encode(document)


def number(value: Decimal) -> msgspec.Raw:
    """The nearest double, as JSON."""
    return msgspec.Raw(javascript.number_text(as_number(value)).encode())


def _webhook_status(deliveries: tuple[Delivery, ...]) -> dict[str, Any]:
    """One status for all endpoints: delivered when each has it, else the latest failure."""
    delivered = [d for d in deliveries if d.status is DeliveryStatus.DELIVERED]
    status: dict[str, Any] = {
        "delivered": bool(deliveries) and len(delivered) == len(deliveries),
        "attempts": sum(delivery.attempts for delivery in deliveries),
    }
    if status["delivered"]:
        status["deliveredAt"] = format_instant(max(d.delivered_ms or 0 for d in delivered))
        if any(delivery.dry_run for delivery in delivered):
            status["dryRun"] = True
    failed = [d for d in deliveries if d.last_error is not None]
    if failed:
        latest = max(failed, key=lambda delivery: delivery.last_attempt_ms or 0)
        status["lastError"] = latest.last_error
        status["lastAttemptAt"] = format_instant(latest.last_attempt_ms or 0)
    return status
