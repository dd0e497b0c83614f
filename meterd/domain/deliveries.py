"""What becomes of a delivery: begun, delivered, tried again at, parked, asked for once more.

A delivery is one closed aggregation on its way to one endpoint, or that a threshold was reached
(``thresholds``). Its id is made of the two, so it is the same after a restart, and a receiver can
tell a repeat by it. Its sequence counts an endpoint's deliveries without a gap, from 1, and stands
in its body, so a receiver can tell that one is missing. Its body never changes.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.endpoints import SCHEDULE_MS
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import Period, PeriodType, period_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.aggregations import Aggregation

# Each wait is spread by a fifth either way: receivers that failed together are not hit together.
JITTER: Final = Fraction(1, 5)
# Who asks to come back at once, and is busy again, is asked for ever and spends nothing.
_PAUSE_MIN_MS: Final = 1000
# Answered so often in a row that it is to come later, while others arrive, a delivery is what its
# receiver does not want, and no sign of how busy that is. A receiver that has room for one in four
# says so five times to a quarter of them, who then have all of their schedule left.
BUSY_MAX: Final = 5
# What an attempt came to that the process did not live to see the end of.
UNKNOWN: Final = "outcome unknown: meterd ended during the attempt"


# Sequences are less, numbers of batches are not.
BATCH: Final = 1 << 63


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    PARKED = "parked"


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A delivery that is in a batch: ``place`` and ``customer_id`` say where it stands in the order
    of its customer's.
    """

    sequence: int
    place: bytes
    customer_id: str


class Membership(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """That a delivery is, or was, in the batch of that number; ``attempts`` were made before."""

    number: int
    attempts: int


class Threshold(msgspec.Struct, frozen=True, array_like=True):
    """Which of a customer's thresholds, of an event type, in a period."""

    event_type: str
    value: Decimal


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """One body on its way to one endpoint.

    Or a batch of them, its ``members``: then it is no customer's, its sequence is a number beyond
    ``BATCH``, and its body is theirs.

    ``next_attempt_ms`` holds while it is pending. ``attempts`` are all that were ever begun,
    ``failures`` those that count on the schedule since it last began. ``begun_ms`` is that of the
    attempt in the air. ``batches`` are the last that it was in, the earliest first; a batch has its
    attempts itself, and they count here when the delivery has left it. ``busy`` counts the answers
    in a row that asked to wait although others had arrived. ``threshold`` is what was reached,
    where the body says that, and no aggregation. New fields go to the end.
    """

    id: str
    endpoint_id: str
    sequence: int
    customer_id: str
    period_type: PeriodType
    start_ms: int
    revision: int
    body: bytes
    created_ms: int
    next_attempt_ms: int
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    failures: int = 0
    begun_ms: int | None = None
    delivered_ms: int | None = None
    dry_run: bool = False
    last_error: str | None = None
    last_attempt_ms: int | None = None
    members: tuple[Member, ...] = ()
    batches: tuple[Membership, ...] = ()
    busy: int = 0
    threshold: Threshold | None = None

    @property
    def has_failed(self) -> bool:
        """Whether one of its attempts did, or was told to come later while others arrived."""
        return self.failures > 0 or self.busy > 0

    @property
    def is_batch(self) -> bool:
        return self.sequence >= BATCH

    @property
    def sequences(self) -> tuple[int, ...]:
        """Of all that are delivered with it."""
        return tuple([one.sequence for one in self.members]) or (self.sequence,)

    @property
    def period(self) -> Period:
        return period_at(self.period_type, self.start_ms)


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """What the log keeps of one attempt: ``number`` of its delivery's, counted from 1.

    ``url`` is masked, ``headers`` are those sent. ``ended_ms`` is None where the process ended
    first.
    """

    endpoint_id: str
    sequence: int
    number: int
    begun_ms: int
    ended_ms: int | None
    outcome: Outcome
    url: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body_sha256: str = ""


def delivery_id(endpoint_id: str, aggregation_id: str, revision: int) -> str:
    """``msg_`` and 32 hexadecimal digits; the ``webhook-id`` of Standard Webhooks."""
    return named_id(endpoint_id, aggregation_id, str(revision))


def named_id(*parts: str) -> str:
    """The id of what is known by these texts, and by no others."""
    # Length-prefixed, since customers choose their ids and could otherwise make two tuples look
    # alike.
    named = "".join(f"{len(part)}:{part}" for part in parts)
    return "msg_" + hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def batch_id(endpoint_id: str, number: int) -> str:
    """That of the batch of that number."""
    return delivery_id(endpoint_id, f"batch {number}", 0)


def first_attempt(
    aggregation: Aggregation,
    endpoint_id: str,
    body: bytes,
    now_ms: int,
    due_ms: int | None = None,
) -> Delivery:
    """The delivery of a closed aggregation, due when it is made, which is ``now_ms``, or before;
    its sequence is given when it is stored.

    ``body`` is that of the aggregation: ``numbered`` makes it the delivery's.
    """
    return Delivery(
        delivery_id(endpoint_id, aggregation.id, aggregation.revision),
        endpoint_id,
        0,
        aggregation.customer_id,
        aggregation.period_type,
        aggregation.start_ms,
        aggregation.revision,
        body,
        now_ms,
        now_ms if due_ms is None else due_ms,
    )


def numbered(delivery: Delivery, sequence: int) -> Delivery:
    """With its sequence, which stands last in the body: JavaScript would leave it there."""
    body = b'%b,"sequence":%d}' % (delivery.body[:-1], sequence)
    return msgspec.structs.replace(delivery, sequence=sequence, body=body)


def first_of_batch(
    first: Delivery, sequence: int, members: Sequence[Member], now_ms: int
) -> Delivery:
    """A batch of deliveries of one period, this one first; due at once, and without its body."""
    return Delivery(
        batch_id(first.endpoint_id, sequence),
        first.endpoint_id,
        sequence,
        "",
        first.period_type,
        first.start_ms,
        0,
        b"",
        now_ms,
        now_ms,
        members=tuple(members),
    )


def batch_body(batch: Delivery, bodies: Sequence[bytes]) -> bytes:
    """Whole bodies, as each would be sent alone; JavaScript makes the same of it."""
    return b'{"type":"aggregation.batch","period":"%b","data":{"items":[%b]},"created":%d}' % (
        batch.period_type.encode(),
        b",".join(bodies),
        batch.created_ms // 1000,
    )


def as_batch(delivery: Delivery, batch: Delivery) -> Delivery:
    """The delivery as it is written, in the state that its batch has: its attempts go on."""
    membership = Membership(batch.sequence, delivery.attempts)
    return msgspec.structs.replace(
        delivery,
        next_attempt_ms=batch.next_attempt_ms,
        status=batch.status,
        attempts=delivery.attempts + batch.attempts,
        failures=batch.failures,
        begun_ms=batch.begun_ms,
        delivered_ms=batch.delivered_ms,
        dry_run=batch.dry_run,
        last_error=batch.last_error or delivery.last_error,
        last_attempt_ms=batch.last_attempt_ms or delivery.last_attempt_ms,
        batches=(*delivery.batches, membership),
        busy=batch.busy,
    )


def begin_attempt(delivery: Delivery, now_ms: int) -> Delivery:
    """The delivery as it stands on disk while an attempt is in the air.

    If the process ends meanwhile, whether the receiver got it is unknown: ``interrupted`` says what
    then becomes of it.
    """
    assert delivery.begun_ms is None, f"{delivery.id} is in the air already"
    return msgspec.structs.replace(
        delivery,
        attempts=delivery.attempts + 1,
        last_attempt_ms=now_ms,
        begun_ms=now_ms,
    )


def settle_attempt(
    begun: Delivery,
    outcome: Outcome,
    now_ms: int,
    jitter: Fraction,
    waits_ms: Sequence[int] = SCHEDULE_MS,
    *,
    others_arrive: bool = False,
) -> Delivery:
    """The delivery after its attempt.

    ``waits_ms`` say how long after each failed attempt the next follows, and so how many there are;
    ``jitter`` lies in [-1, 1] and spreads that. One that was told to come back later counts for
    nothing on that schedule and stays due: it is the endpoint that is paused, and what waits for a
    pause goes on when that ends, however it ends. But see ``is_unwanted``, with ``others_arrive``:
    that one fails, and waits as long as it was told at least.
    """
    if outcome.error is None:
        return msgspec.structs.replace(
            begun,
            begun_ms=None,
            status=DeliveryStatus.DELIVERED,
            delivered_ms=now_ms,
            dry_run=outcome.dry_run,
            busy=0,
        )
    asked_ms = pause_asked(outcome, now_ms)
    busy = 0 if asked_ms is None else min(begun.busy + others_arrive, BUSY_MAX)
    failed = msgspec.structs.replace(begun, begun_ms=None, last_error=outcome.error, busy=busy)
    if asked_ms is not None and not is_unwanted(begun, others_arrive=others_arrive):
        return msgspec.structs.replace(failed, next_attempt_ms=now_ms)
    if begun.failures >= len(waits_ms):
        return msgspec.structs.replace(
            failed, status=DeliveryStatus.PARKED, failures=begun.failures + 1
        )
    wait_ms = max(round(waits_ms[begun.failures] * (1 + JITTER * jitter)), asked_ms or 0)
    return msgspec.structs.replace(
        failed, failures=begun.failures + 1, next_attempt_ms=now_ms + wait_ms
    )


def is_unwanted(begun: Delivery, *, others_arrive: bool) -> bool:
    """Whether one more wish to wait is about this delivery, and not about the endpoint: while
    others arrive, it has been answered so again and again.
    """
    return others_arrive and begun.busy >= BUSY_MAX


def pause_asked(outcome: Outcome, now_ms: int) -> int | None:
    """How long the endpoint is left alone by its own wish; "not at all" is a second."""
    asked_ms = outcome.retry_after_ms(now_ms)
    return None if asked_ms is None else max(asked_ms, _PAUSE_MIN_MS)


def interrupted(begun: Delivery, now_ms: int) -> Delivery:
    """The delivery whose attempt nobody saw the end of: sent again at once, under the same id."""
    return msgspec.structs.replace(begun, begun_ms=None, last_error=UNKNOWN, next_attempt_ms=now_ms)


def attempt_interrupted(begun: Delivery) -> Attempt:
    """What the log says of it."""
    begun_ms = begun.begun_ms or begun.created_ms
    return Attempt(
        begun.endpoint_id, begun.sequence, begun.attempts, begun_ms, None, Outcome(UNKNOWN)
    )


def withdrawn(begun: Delivery) -> Delivery:
    """The delivery whose attempt was not made after all: as if it had never begun."""
    return msgspec.structs.replace(begun, attempts=begun.attempts - 1, begun_ms=None)


def once_more(delivery: Delivery, now_ms: int) -> Delivery:
    """What an operator asked to send, or to send again: due at once, its schedule from the start.

    One that is in the air stays as it is.
    """
    if delivery.begun_ms is not None:
        return delivery
    return msgspec.structs.replace(
        delivery,
        status=DeliveryStatus.PENDING,
        failures=0,
        next_attempt_ms=now_ms,
        delivered_ms=None,
        dry_run=False,
        busy=0,
    )
