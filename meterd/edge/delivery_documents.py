"""Deliveries, their attempts and webhooks as the API shows them: what was sent, what came of it,
and what is known of a webhook. No secret and no token of a URL is in any of it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.config import public_endpoint
from meterd.domain.deliveries import UNKNOWN
from meterd.domain.instants import format_instant
from meterd.domain.javascript import exact_text
from meterd.edge.holds import held, next_attempt, state_of
from meterd.ledger import COUNTED_MAX

if TYPE_CHECKING:
    from meterd.domain.deliveries import Attempt, Delivery
    from meterd.domain.endpoints import Endpoint
    from meterd.edge.holds import Hold
    from meterd.ledger import DeliveryHistory, EndpointSummary, LoggedAttempt
    from meterd.work.endpoint_worker import EndpointWorker

_TYPE: Final = re.compile(rb'\{"type":"([a-z.]+)"')
# Linux takes no argument of 128 KiB.
_CURL_BODY_MAX: Final = 64 * 1024


def delivery_document(
    delivery: Delivery, hold: Hold | None, *, with_payload: bool = False
) -> bytes:
    """An element of a listing, which ``hold`` keeps; with its payload, of an endpoint's stream."""
    shown = _delivery(delivery, hold)
    if with_payload:
        shown["payload"] = msgspec.Raw(delivery.body)
    return msgspec.json.encode(shown)


def _delivery(delivery: Delivery, hold: Hold | None) -> dict[str, Any]:
    period = delivery.period
    shown: dict[str, Any] = {
        "id": delivery.id,
        "endpoint": delivery.endpoint_id,
        "type": _type(delivery),
        "sequence": delivery.sequence,
        "customerId": delivery.customer_id,
        "period": delivery.period_type,
        "periodKey": period.key,
        "periodStart": format_instant(period.start_ms),
        "periodEnd": format_instant(period.last_ms),
        "revision": delivery.revision,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "createdAt": format_instant(delivery.created_ms),
        "nextAttemptAt": next_attempt(delivery, hold),
        "attemptBegunAt": _instant(delivery.begun_ms),
        "deliveredAt": _instant(delivery.delivered_ms),
        "dryRun": delivery.dry_run or None,
        "lastAttemptAt": _instant(delivery.last_attempt_ms),
        "lastError": delivery.last_error,
        "held": hold,
    }
    if delivery.threshold is not None:
        shown["eventType"] = delivery.threshold.event_type
        shown["threshold"] = exact_text(delivery.threshold.value)
        del shown["revision"]
    if delivery.is_batch:  # which is of many customers, in no place among deliveries
        shown["deliveries"] = len(delivery.members)
        for name in ("sequence", "customerId", "revision"):
            del shown[name]
    return _given(shown)


def _type(delivery: Delivery) -> str | None:
    """As its body says, first of all: by its revision it is not known, since a replay completes
    what it revised for others.
    """
    if delivery.is_batch:
        return "aggregation.batch"
    said = _TYPE.match(delivery.body)
    return None if said is None else said[1].decode()


def history_document(history: DeliveryHistory, endpoint: Hold | None) -> bytes:
    """A delivery with its body and every attempt; ``endpoint`` keeps all that goes there."""
    delivery = history.delivery
    sha256 = hashlib.sha256(delivery.body).hexdigest()
    shown = _delivery(delivery, held(delivery, endpoint, history.behind)) | _given(
        {
            "batch": history.batch,
            "body": delivery.body.decode(),
            "bodySha256": sha256,
            "attemptsKept": history.kept,
            "attemptLog": [
                _logged_document(one, delivery.body if one.attempt.body_sha256 == sha256 else None)
                for one in history.attempts
            ],
        }
    )
    return msgspec.json.encode(shown)


def _logged_document(logged: LoggedAttempt, body: bytes | None) -> dict[str, Any]:
    shown = {**attempt_document(logged.attempt, body), "number": logged.number}
    if logged.batch is None:
        return shown
    return {**shown, "batch": logged.batch, "batchAttempt": logged.in_batch}


def attempt_document(attempt: Attempt, body: bytes | None) -> dict[str, Any]:
    """``body`` is what was sent; None where that is not at hand, or too much for a command line."""
    outcome = attempt.outcome
    took_ms = None if attempt.ended_ms is None else attempt.ended_ms - attempt.begun_ms
    shown: dict[str, Any] = {
        "number": attempt.number,
        "startedAt": format_instant(attempt.begun_ms),
        "endedAt": _instant(attempt.ended_ms),
        "durationMs": took_ms,
        "outcomeUnknown": outcome.error == UNKNOWN or None,
        "dryRun": outcome.dry_run or None,
        "error": outcome.error,
        "errorClass": outcome.kind,
        "url": attempt.url or None,
        "address": outcome.address,
        "requestHeaders": attempt.headers or None,
        "bodySha256": attempt.body_sha256 or None,
        "status": outcome.status,
    }
    if outcome.status is not None:
        shown["responseHeaders"] = outcome.headers
        shown |= _answer_body(outcome.body)
        shown["responseCut"] = outcome.cut or None
    if attempt.headers and body is not None:
        shown["curl"] = curl(attempt, body)
    return _given(shown)


def _answer_body(body: bytes) -> dict[str, str]:
    try:
        return {"responseBody": body.decode()}
    except UnicodeDecodeError:
        return {"responseBodyBase64": base64.b64encode(body).decode()}


def curl(attempt: Attempt, body: bytes) -> str:
    """The line that makes the attempt once more, with its signature of then.

    Where the URL is masked, what is masked must be filled in; a long body must be put into a file.
    """
    words = ["curl", "-isS", "-X", "POST", attempt.url]
    for name, value in attempt.headers:
        words += ["-H", f"{name}: {value}"]
    given = body.decode() if len(body) <= _CURL_BODY_MAX else "@body.json"
    return shlex.join([*words, "--data-binary", given])


def webhook_document(
    summary: EndpointSummary,
    endpoint: Endpoint | None,
    worker: EndpointWorker | None,
    now_ms: int,
) -> dict[str, Any]:
    """A webhook as configured, or the id of one that was, with what is known of it."""
    state = summary.state
    now = state_of(state, endpoint, now_ms)
    shown = {
        **({"id": summary.endpoint_id} if endpoint is None else public_endpoint(endpoint)),
        "state": now,
        "pausedUntil": format_instant(state.paused_until_ms) if now == "paused" else None,
        "goneSince": format_instant(state.disabled_ms or 0) if now == "gone" else None,
        "lastSequence": state.next_sequence - 1,
        "pending": summary.pending,
        "parked": summary.parked,
        "countedTo": COUNTED_MAX,
        "statistics": None if worker is None else _statistics(worker),
    }
    return _given(shown)


def _statistics(worker: EndpointWorker) -> dict[str, Any]:
    found = worker.statistics
    return _given(
        {
            "attempts": found.attempts,
            "delivered": found.delivered,
            "failed": found.failed,
            "consecutiveFailures": found.failing,
            "oneAtATime": worker.is_failing,
            "inTheAir": worker.in_air,
            "lastSuccessAt": _instant(found.last_success_ms),
            "lastFailureAt": _instant(found.last_failure_ms),
            "lastError": found.last_error,
        }
    )


def _instant(instant_ms: int | None) -> str | None:
    return None if instant_ms is None else format_instant(instant_ms)


def _given(shown: dict[str, Any]) -> dict[str, Any]:
    """Without what there is not."""
    return {name: value for name, value in shown.items() if value is not None}
