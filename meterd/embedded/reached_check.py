"""Holds thresholds that were reached against their keys, and their deliveries against them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from meterd.domain.alerts import WATCHABLE
from meterd.domain.thresholds import Reached, reached_delivery, reached_delivery_id
from meterd.embedded import keys, reached, records
from meterd.embedded.differences import Difference, at_key, period_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.deliveries import Delivery
    from meterd.embedded.made_check import MadeCheck
    from meterd.embedded.transaction import Transaction


def check_reached(txn: Transaction, parts: int, made: MadeCheck) -> Iterator[Difference]:
    """Every difference. What a figure is by now says nothing: it may have gone on since."""
    for key, payload in txn.forward("reached", b"", b""):
        one = records.decode_reached(payload)
        if key != reached.key_of(one, parts) or one.operation not in WATCHABLE:
            yield at_key("reached", key, "record", f"another's, of {one.customer_id}", "its own")
            continue
        if one.value < one.threshold:
            yield at_key("reached", key, "value", str(one.value), f"{one.threshold} at least")
        for endpoint_id in one.endpoints:
            should = reached_delivery(one, endpoint_id, one.reached_ms)
            yield from made.run(should, [should.body], partial(_of, one))


def is_of_reached(txn: Transaction, parts: int, delivery: Delivery) -> bool:
    """Whether a delivery that says so is one of a threshold that was reached."""
    assert delivery.threshold is not None
    part = keys.part_of(delivery.customer_id, parts)
    found = (
        one
        for one in reached.of_period(txn, part, delivery.customer_id, delivery.period)
        if delivery.endpoint_id in one.endpoints
    )
    return any(reached_delivery_id(one, delivery.endpoint_id) == delivery.id for one in found)


def _of(one: Reached, table: str, what: str, stands: str, should: str) -> Difference:
    period = period_name(one.period)
    return Difference(table, what, stands, should, one.customer_id, period, one.event_type)
