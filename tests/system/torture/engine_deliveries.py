"""What must hold of the deliveries in a store: of all that was published, and of each threshold
that was reached, each endpoint has one: the very body, in the state that its receiver knows of.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from zlib import crc32

from meterd.domain.aggregations import completed_body, revised_body
from meterd.domain.deliveries import DeliveryStatus, batch_body, delivery_id
from meterd.domain.thresholds import reached_body, reached_delivery_id
from meterd.embedded import keys
from tests.system.torture.engine_contents import decode_aggregation, decode_delivery
from tests.system.torture.engine_scenario import ENDPOINTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.deliveries import Delivery
    from meterd.domain.periods import Period
    from tests.system.torture.engine_contents import Contents
    from tests.system.torture.engine_heard import Heard


def delivery_faults(found: Contents, heard: Heard) -> Iterator[str]:
    """One line each."""
    expected = dict(_expected(found))
    stored = found.deliveries
    if stored.keys() != expected.keys():
        yield f"deliveries {stored.keys() ^ expected.keys()}"
    if found.doubled:
        yield f"two deliveries have the id {found.doubled}"
    for name, delivery in stored.items():
        fault = _body_fault(delivery, expected.get(name), heard)
        if fault := fault or _state_fault(found.state_of(delivery), heard):
            yield f"{name} {fault}"
    for name, batch in found.batches.items():
        if fault := _batch_fault(batch, found, heard) or _state_fault(batch, heard):
            yield f"batch {name} {fault}"
    if found.tables["outbox"].keys() != _queued(found):
        yield "the queue is another"


def _expected(found: Contents) -> Iterator[tuple[str, bytes]]:
    """Ids and bodies, these without the sequence."""
    for payloads in found.revisions:
        for before, payload in pairwise((b"", *payloads)):
            made, body = decode_aggregation(payload), _body(payload, before)
            for endpoint_id in ENDPOINTS:
                yield delivery_id(endpoint_id, made.id, made.revision), body
    for reached in found.reached:
        body = _reached_body(reached)
        for endpoint_id in ENDPOINTS:
            yield reached_delivery_id(reached, endpoint_id), body


# The same records are looked at after each of a thousand kills.
_remembered: Final = lru_cache(maxsize=1 << 14)


@_remembered
def _body(payload: bytes, before: bytes) -> bytes:
    """What is delivered of the aggregation in that record, which took the place of the other."""
    made = decode_aggregation(payload)
    return revised_body(made, decode_aggregation(before)) if before else completed_body(made)


@_remembered
def _numbered(body: bytes, sequence: int) -> bytes:
    return body[:-1] + b',"sequence":%d}' % sequence


_reached_body: Final = _remembered(reached_body)


def _queued(found: Contents) -> set[bytes]:
    """By when due, what is first of each line of pending ones; a start left none in the air."""
    first: dict[tuple[str, str, bool], Delivery] = {}
    waiting: dict[str, list[bool]] = defaultdict(list)
    sent_as: dict[str, Delivery] = {}
    for each in sorted(found.deliveries.values(), key=_place):
        state = found.state_of(each)
        if state.status is DeliveryStatus.PENDING:
            line = (each.endpoint_id, each.customer_id, each.threshold is not None)
            waiting[state.id].append(first.setdefault(line, each) is each)
            sent_as[state.id] = state
    return {
        keys.outbox_key(
            state.endpoint_id, state.next_attempt_ms, state.sequence, is_repeat=state.has_failed
        )
        for state in sent_as.values()
        if all(waiting[state.id])
    }


def _place(delivery: Delivery) -> tuple[int, Period, int]:
    """In its line: of what closed, as it closed; of thresholds, as they were reached."""
    behind = delivery.sequence if delivery.threshold is not None else 0
    return behind, delivery.period, delivery.revision


def _body_fault(delivery: Delivery, body: bytes | None, heard: Heard) -> str | None:
    if body is not None and delivery.body != _numbered(body, delivery.sequence):
        return "has a body that is not its aggregation's"
    if delivery.id in heard.sent and crc32(delivery.body) != heard.sent[delivery.id]:
        return "has another body than was sent"
    return None


def _batch_fault(batch: Delivery, found: Contents, heard: Heard) -> str | None:
    prefix = keys.endpoint_prefix(batch.endpoint_id)
    members = [
        decode_delivery(found.tables["deliveries"][prefix + number.to_bytes(8, "big")])
        for number in batch.sequences
    ]
    body = batch_body(batch, [each.body for each in members])
    if batch.id in heard.sent and crc32(body) != heard.sent[batch.id]:
        return "has another body than was sent"
    if len({each.period for each in members}) > 1:
        return "is of several periods"
    return None


def _state_fault(state: Delivery, heard: Heard) -> str | None:
    is_delivered = state.status is DeliveryStatus.DELIVERED
    if state.id in heard.delivered and not is_delivered:
        return "was settled as delivered, and is not any more"
    if is_delivered and state.id not in heard.arrived:
        return "counts as delivered, and never arrived"
    return None
