"""Turns what came of an attempt into a Verdict: delivered, try again at, or parked.

A delivery is one closed aggregation on its way to one endpoint. Its id is made of the two, so it is
the same after a restart, and a receiver can tell a repeat by it. Its body never changes.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.periods import PeriodType

if TYPE_CHECKING:
    from meterd.domain.aggregations import Aggregation
    from meterd.domain.outcomes import Outcome

_SECOND: Final = 1000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE

# How long after a failed attempt the next one follows: ten tries over three days, so that a
# receiver that breaks on a Friday evening is still waited for on Monday.
RETRY_AFTER_MS: Final = (
    5 * _SECOND,
    5 * _MINUTE,
    30 * _MINUTE,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
# Each wait is spread by a fifth either way: receivers that failed together are not hit together.
JITTER: Final = Fraction(1, 5)

# How long an attempt may be in the air before another may begin: longer than any attempt lasts.
LEASE_MS: Final = 5 * _MINUTE


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    PARKED = "parked"


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """One body on its way to one endpoint. ``next_attempt_ms`` holds while it is pending."""

    id: str
    endpoint_id: str
    customer_id: str
    period_type: PeriodType
    start_ms: int
    revision: int
    body: bytes
    created_ms: int
    next_attempt_ms: int
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    delivered_ms: int | None = None
    dry_run: bool = False
    last_error: str | None = None
    last_attempt_ms: int | None = None


def delivery_id(endpoint_id: str, aggregation_id: str, revision: int) -> str:
    """``msg_`` and 32 hexadecimal digits; the ``webhook-id`` of Standard Webhooks."""
    # Length-prefixed, since customers choose their ids and could otherwise make two tuples look
    # alike.
    parts = (endpoint_id, aggregation_id, str(revision))
    named = "".join(f"{len(part)}:{part}" for part in parts)
    return "msg_" + hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def first_attempt(aggregation: Aggregation, endpoint_id: str, body: bytes, now_ms: int) -> Delivery:
    """The delivery of a closed aggregation, due at once."""
    return Delivery(
        delivery_id(endpoint_id, aggregation.id, aggregation.revision),
        endpoint_id,
        aggregation.customer_id,
        aggregation.period_type,
        aggregation.start_ms,
        aggregation.revision,
        body,
        now_ms,
        now_ms,
    )


def begin_attempt(delivery: Delivery, now_ms: int) -> Delivery:
    """The delivery as it stands on disk while an attempt is in the air.

    It counts as tried, and comes due again when the lease ends: if the process dies meanwhile,
    whether the receiver got it is unknown, and it is sent again under the same id.
    """
    return msgspec.structs.replace(
        delivery,
        attempts=delivery.attempts + 1,
        last_attempt_ms=now_ms,
        next_attempt_ms=now_ms + LEASE_MS,
    )


def after_outcome(stored: Delivery, settled: Delivery) -> Delivery | None:
    """The delivery as it is to be stored after that attempt; None if its outcome is no news.

    An attempt that outlived its lease may be settled after a later one has begun: that it failed is
    no news then, that it arrived is, and what has arrived stays so. The later attempt was made all
    the same, and still counts.
    """
    if stored.status is not DeliveryStatus.PENDING:
        return None
    if settled.attempts >= stored.attempts:
        return settled
    if settled.status is not DeliveryStatus.DELIVERED:
        return None
    return msgspec.structs.replace(
        stored,
        status=settled.status,
        delivered_ms=settled.delivered_ms,
        dry_run=settled.dry_run,
    )


def settle_attempt(begun: Delivery, outcome: Outcome, now_ms: int, jitter: Fraction) -> Delivery:
    """The delivery after its attempt; ``jitter`` lies in [-1, 1] and spreads the next try."""
    if outcome.error is None:
        return msgspec.structs.replace(
            begun, status=DeliveryStatus.DELIVERED, delivered_ms=now_ms, dry_run=outcome.dry_run
        )
    if begun.attempts > len(RETRY_AFTER_MS):
        return msgspec.structs.replace(
            begun, status=DeliveryStatus.PARKED, last_error=outcome.error
        )
    wait_ms = round(RETRY_AFTER_MS[begun.attempts - 1] * (1 + JITTER * jitter))
    return msgspec.structs.replace(
        begun, last_error=outcome.error, next_attempt_ms=now_ms + wait_ms
    )
