"""What must hold of deliveries and of what their receiver has got, alone and in batches.

What came is of a delivery, or a batch, that is stored, with its very bytes, signed. Nothing came
oftener than it was tried, or was taken oftener than once, but where the log says that an outcome is
unknown, or an operator asked for it. Nothing is called delivered that was not taken.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Self
from unittest import mock

import msgspec
import standardwebhooks

from meterd.domain.deliveries import BATCH, UNKNOWN, Delivery, DeliveryStatus, batch_id
from meterd.domain.endpoints import SCHEDULE_MS
from meterd.embedded import attempt_log, batches, keys, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd.embedded.transaction import Transaction
    from tests.system.torture.daemons.operators import Promise
    from tests.system.torture.daemons.sink import Arrival

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_SECOND_MS: Final = 1000


class Outbox(msgspec.Struct, frozen=True):
    """Deliveries and batches by id, of how many of its own attempts each does not know the outcome,
    and which batches hold the delivery of that endpoint and sequence.
    """

    deliveries: dict[str, Delivery]
    batches: dict[str, Delivery]
    unknown: dict[str, int]
    holding: dict[tuple[str, int], list[str]]

    def parcels_of(self, delivery: Delivery) -> list[str]:
        """What it was sent as: alone, and with others."""
        held = self.holding.get((delivery.endpoint_id, delivery.sequence), [])
        return [delivery.id, *held]


NOTHING: Final = Outbox({}, {}, {}, {})


def read_outbox(txn: Transaction, deliveries: dict[str, Delivery]) -> Outbox:
    """``deliveries`` of aggregations in the state that they have; those of thresholds are read."""
    found: dict[str, Delivery] = {}
    deliveries = deliveries.copy()
    for key, payload in txn.forward("deliveries", b"", b""):
        each = records.decode_delivery(payload)
        if keys.sequence_in(key) >= BATCH:
            found[each.id] = batches.with_body(txn, each)
        elif each.threshold is not None:
            deliveries[each.id] = each
    alone = {name: one for name, one in deliveries.items() if not _is_in_batch(txn, one)}
    unknown = {
        name: _unknown(txn, one.endpoint_id, one.sequence, is_in_air=False)
        for name, one in deliveries.items()
    }
    for name, one in {**alone, **found}.items():
        unknown[name] = _unknown(
            txn, one.endpoint_id, one.sequence, is_in_air=one.begun_ms is not None
        )
    holding: dict[tuple[str, int], list[str]] = {}
    for batch in found.values():
        for sequence in batch.sequences:
            holding.setdefault((batch.endpoint_id, sequence), []).append(batch.id)
    return Outbox(deliveries, found, unknown, holding)


def _is_in_batch(txn: Transaction, delivery: Delivery) -> bool:
    return batches.batch_of(txn, delivery) is not None


def _unknown(txn: Transaction, endpoint_id: str, number: int, *, is_in_air: bool) -> int:
    """Attempts that a kill cut off: those that a start has put back, and one in the air."""
    logged = attempt_log.of_number(txn, endpoint_id, number)
    return sum(attempt.outcome.error == UNKNOWN for attempt in logged) + is_in_air


def faults(
    outbox: Outbox,
    arrivals: dict[str, list[Arrival]],
    documents: dict[tuple[str, int], dict[str, Any]],
    times_asked_for: Callable[[Delivery], int],
    *,
    all_arrived: bool,
) -> Iterator[str]:
    """One line each; ``documents`` are aggregations by id and revision."""
    for name in arrivals.keys() - outbox.deliveries.keys() - outbox.batches.keys():
        yield f"{name} arrived and is not in the outbox"
    for name, delivery in outbox.deliveries.items():
        names = outbox.parcels_of(delivery)
        came = [arrival for parcel in names for arrival in arrivals.get(parcel, [])]
        unknown = sum(outbox.unknown[parcel] for parcel in names)
        asked = times_asked_for(delivery)
        yield from _of_delivery(delivery, came, unknown, asked, all_arrived=all_arrived)
        held = [batch_id(delivery.endpoint_id, one.number) for one in delivery.batches]
        if held != names[1:] or len(held) > 1:
            yield f"{name} is in {held}, and in the members of {names[1:]}"
        if what := _odd_body(delivery, documents):
            yield f"{name}: {what}"
    for parcel in (*outbox.deliveries.values(), *outbox.batches.values()):
        came = arrivals.get(parcel.id, [])
        if len(came) > parcel.attempts:
            yield f"{parcel.id} arrived {len(came)} times in {parcel.attempts} attempts"
        if what := _odd(parcel, came):
            yield f"{parcel.id}: {what}"
    yield from _gaps(outbox)


def broken_promises(
    outbox: Outbox, arrivals: dict[str, list[Arrival]], promises: list[Promise]
) -> Iterator[str]:
    """What was to be sent again has come since: a delivery alone or with others, a batch as one."""
    for promise in promises:
        delivery = outbox.deliveries.get(promise.name)
        names = [promise.name] if delivery is None else outbox.parcels_of(delivery)
        came_s = [arrival.at_s for name in names for arrival in arrivals.get(name, [])]
        if max(came_s, default=0) < promise.since_s:
            yield f"{promise.name} was to be sent again, and was not"


def _of_delivery(
    delivery: Delivery, came: list[Arrival], unknown: int, asked: int, *, all_arrived: bool
) -> Iterator[str]:
    name = delivery.id
    again = sum(arrival.taken for arrival in came) - 1
    if again > unknown + asked:
        yield f"{name} was taken {again} times more, flagged {unknown}, asked for {asked}"
    needless = _needless(sorted(came, key=_sent_ms))
    if len(needless) > asked:
        yield f"{name}, asked for {asked} times: {needless}"
    if delivery.status is DeliveryStatus.DELIVERED and again < 0:
        yield f"{name} counts as delivered and was never taken"
    is_parked = delivery.status is DeliveryStatus.PARKED
    if all_arrived and again < 0 and not is_parked:
        yield f"{name} never arrived: {delivery.last_error}"
    if is_parked and delivery.failures <= len(SCHEDULE_MS):
        yield f"{name} was given up early: {delivery}"


def _odd(parcel: Delivery, came: list[Arrival]) -> str:
    """What is wrong with its arrivals, if anything."""
    for arrival in came:
        if arrival.endpoint != parcel.endpoint_id:
            return f"arrived at {arrival.endpoint}, is for {parcel.endpoint_id}"
        if arrival.body != parcel.body:
            return f"two bodies: {arrival.body!r} arrived, {parcel.body!r} is stored"
        if not _verifies(arrival):
            return "its signature does not verify"
    return ""


def _odd_body(delivery: Delivery, documents: dict[tuple[str, int], dict[str, Any]]) -> str:
    data = msgspec.json.decode(delivery.body)["data"]
    if delivery.threshold is not None:
        is_reached = Decimal(data["exact"]["value"]) >= Decimal(data["exact"]["threshold"])
        return "" if is_reached else f"it says {data}"
    document = documents.get((data["id"], delivery.revision))
    if document is None:
        return f"it is about {data['id']}, which is not there"
    for member in ("exact", "eventCounts", "eventCount", "periodStart", "periodEnd"):
        if data[member] != document[member]:
            return f"it says {data}, the aggregation {document}"
    return ""


def _gaps(outbox: Outbox) -> Iterator[str]:
    """A receiver that counts misses nothing."""
    found: dict[str, list[int]] = {}
    for delivery in outbox.deliveries.values():
        found.setdefault(delivery.endpoint_id, []).append(delivery.sequence)
    for endpoint_id, sequences in found.items():
        if sorted(sequences) != list(range(1, len(sequences) + 1)):
            yield f"{endpoint_id} has the sequences {sorted(sequences)}"


def _needless(came: list[Arrival]) -> list[str]:
    """When it was sent again although it had been taken, by the same daemon."""
    return [
        f"taken at {_sent_ms(before)}, sent again at {_sent_ms(after)}"
        for before, after in pairwise(came)
        if before.taken and before.start == after.start
    ]


def _sent_ms(arrival: Arrival) -> int:
    """By the daemon's clock, to the second."""
    return int(arrival.headers["webhook-timestamp"]) * _SECOND_MS


def _verifies(arrival: Arrival) -> bool:
    """Whether Standard Webhooks' own library takes it, at the daemon's time."""

    class Then(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Self:
            return cls.fromtimestamp(float(arrival.headers["webhook-timestamp"]), tz)

    with mock.patch("standardwebhooks.webhooks.datetime", Then):
        try:
            standardwebhooks.Webhook(SECRET).verify(arrival.body, arrival.headers)
        except standardwebhooks.WebhookVerificationError:
            return False
    return True
