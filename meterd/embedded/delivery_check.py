"""Holds aggregations against totals, and deliveries against aggregations.

Each is looked up from the one before; those of thresholds from what was reached
(``reached_check``). Where the sizes then differ, something stands there that nothing has asked for,
and is looked for. What a delivery's state says is ``outbox_check``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from meterd.domain.aggregations import (
    FIRST_REVISION,
    Aggregation,
    aggregation_id,
    completed_body,
    revised_body,
)
from meterd.domain.deliveries import delivery_id, first_attempt
from meterd.domain.periods import PeriodType
from meterd.domain.thresholds import threshold_delivery_id
from meterd.embedded import journal, keys, records
from meterd.embedded.differences import MISTAKES, NOTHING, Difference, at_key, period_name
from meterd.embedded.made_check import MadeCheck
from meterd.embedded.reached_check import check_reached, is_of_reached
from meterd.embedded.trail_check import TrailCheck

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.deliveries import Delivery
    from meterd.domain.totals import PeriodTotals
    from meterd.embedded.differences import Checking
    from meterd.embedded.transaction import Transaction

_PROGRESS_RECORDS: Final = 500


class DeliveryCheck:
    """See above."""

    def __init__(self, txn: Transaction, parts: int, checking: Checking) -> None:
        self._txn = txn
        self._parts = parts
        self._checking = checking
        self._found = {"customer_periods": 0, "superseded": 0}
        self._made = MadeCheck(txn)
        self._trail = TrailCheck(txn, parts)

    def run(self) -> Iterator[Difference]:
        """Every difference, in the order of aggregations."""
        count = self._txn.count("aggregations")
        for number, (key, payload) in enumerate(self._txn.forward("aggregations", b"", b"")):
            aggregation = records.decode_aggregation(payload)
            yield from self._aggregation(key, aggregation)
            if number % _PROGRESS_RECORDS == 0:
                self._checking.progress("aggregations", number, count)
        self._checking.progress("aggregations", count, count)
        self._checking.counts["aggregations"] += count
        self._checking.counts["deliveries"] += self._txn.count("deliveries")
        self._checking.counts["deliveries pending"] += self._txn.count("outbox_by_customer")
        yield from self._trail.finish()
        yield from check_reached(self._txn, self._parts, self._made)
        found = {**self._found, **self._made.found}
        for table, rest in (
            ("customer_periods", self._other_customer_periods),
            ("superseded", self._other_revisions),
            ("deliveries", self._other_deliveries),
            ("delivery_ids", self._other_names),
        ):
            if self._txn.count(table) != found[table]:
                yield from rest()

    def _aggregation(self, key: bytes, aggregation: Aggregation) -> Iterator[Difference]:
        customer_id, kind, start_ms = (
            aggregation.customer_id,
            aggregation.period_type,
            aggregation.start_ms,
        )
        part = keys.part_of(customer_id, self._parts)
        if key != keys.aggregation_key(part, kind, start_ms, customer_id):
            yield at_key("aggregations", key, "record", f"that of {aggregation.id}", "its own")
            return
        totals = journal.read_totals(self._txn, part, aggregation.period, customer_id)
        yield from _figure_faults(aggregation, totals)
        by_customer = keys.customer_periods_prefix(part, customer_id, kind)
        index_key = by_customer + keys.newest_first(start_ms)
        if self._txn.get("customer_periods", index_key) is None:
            yield at_key("customer_periods", index_key, "record", NOTHING, "there")
        else:
            self._found["customer_periods"] += 1
        earlier = None
        for revision in range(FIRST_REVISION, aggregation.revision):
            name = keys.superseded_key(key, revision)
            found = self._txn.get("superseded", name)
            if found is None:
                yield at_key("superseded", name, "record", NOTHING, "there")
                earlier = None
                continue
            self._found["superseded"] += 1
            one = records.decode_aggregation(found)
            if (one.id, one.revision, one.closed) != (aggregation.id, revision, True):
                yield at_key("superseded", name, "record", f"{one.revision} of {one.id}", "its own")
            self._trail.note(one)
            yield from self._deliveries(one, earlier)
            earlier = one
        self._trail.note(aggregation)
        yield from self._deliveries(aggregation, earlier)

    def _deliveries(
        self, aggregation: Aggregation, earlier: Aggregation | None
    ) -> Iterator[Difference]:
        """Of that revision of it, behind the earlier one, if there is one."""
        if not aggregation.endpoints:
            return
        bodies = [completed_body(aggregation)]  # a replay may make it of any revision
        if earlier is not None:
            bodies.append(revised_body(aggregation, earlier))
        for endpoint_id in aggregation.endpoints:
            made_ms = aggregation.computed_ms
            should = first_attempt(aggregation, endpoint_id, bodies[-1], made_ms)
            yield from self._made.run(should, bodies, partial(_of, aggregation))

    def _other_customer_periods(self) -> Iterator[Difference]:
        for key in self._txn.keys_forward("customer_periods", b"", b""):
            customer, rest = key[1:].split(keys.END, 1)
            found = None
            if len(rest) == 5 and rest[0] < len(PeriodType):
                kind, start_ms = tuple(PeriodType)[rest[0]], keys.start_of(rest[1:])
                name = keys.aggregation_key(key[0], kind, start_ms, customer.decode())
                found = self._txn.get("aggregations", name)
            if found is None:
                should = "nothing: there is no aggregation"
                yield at_key("customer_periods", key, "record", "there", should)

    def _other_deliveries(self) -> Iterator[Difference]:
        for key, payload in self._txn.forward("deliveries", b"", b""):
            delivery = records.decode_delivery(payload)
            if delivery.is_batch:
                continue
            own_key = keys.delivery_key(delivery.endpoint_id, delivery.sequence)
            if key != own_key or not self._is_of_something(delivery):
                stands = f"there, of {delivery.customer_id} to {delivery.endpoint_id}"
                should = "nothing: no aggregation has it"
                if delivery.threshold is not None:
                    should = "nothing: no threshold that was reached has it"
                yield at_key("deliveries", key, "delivery", stands, should)

    def _is_of_something(self, delivery: Delivery) -> bool:
        if delivery.threshold is not None:
            return is_of_reached(self._txn, self._parts, delivery)
        aggregation = self._revision_of(delivery)
        return aggregation is not None and delivery.id in [
            delivery_id(endpoint_id, aggregation.id, aggregation.revision)
            for endpoint_id in aggregation.endpoints
        ]

    def _revision_of(self, delivery: Delivery) -> Aggregation | None:
        """The aggregation that it delivers."""
        part = keys.part_of(delivery.customer_id, self._parts)
        key = keys.aggregation_key(
            part, delivery.period_type, delivery.start_ms, delivery.customer_id
        )
        found = self._txn.get("aggregations", key)
        if found is None:
            return None
        newest = records.decode_aggregation(found)
        if newest.revision == delivery.revision:
            return newest
        earlier = self._txn.get("superseded", keys.superseded_key(key, delivery.revision))
        return None if earlier is None else records.decode_aggregation(earlier)

    def _other_revisions(self) -> Iterator[Difference]:
        for key in self._txn.keys_forward("superseded", b"", b""):
            found = self._txn.get("aggregations", keys.superseded_by(key))
            revision = int.from_bytes(key[-4:], "big")
            if found is None or records.decode_aggregation(found).revision <= revision:
                should = "nothing: no later revision is there"
                yield at_key("superseded", key, "record", "there", should)

    def _other_names(self) -> Iterator[Difference]:
        for name, key in self._txn.forward("delivery_ids", b"", b""):
            payload = self._txn.get("deliveries", key)
            stands = None if payload is None else records.decode_delivery(payload)
            if stands is None or bytes.fromhex(stands.id[4:]) != name:
                should = "nothing: there is no such delivery"
                yield at_key("delivery_ids", name, "delivery", "there", should)


def whose(key: bytes, payload: bytes) -> tuple[str, str]:
    """Customer and period of a damaged delivery, where its id, made of both, says they are right;
    else empty.
    """
    try:
        delivery = records.decode_delivery(payload)
        period = delivery.period
        endpoint_id = key.split(keys.END, 1)[0].decode()
        aggregation = aggregation_id(delivery.customer_id, period)
    except MISTAKES:
        return "", ""
    if delivery.threshold is not None:
        own_id = threshold_delivery_id(
            endpoint_id, delivery.customer_id, period, delivery.threshold
        )
    else:
        own_id = delivery_id(endpoint_id, aggregation, delivery.revision)
    if delivery.id != own_id:
        return "", ""
    return delivery.customer_id, period_name(period)


def _figure_faults(aggregation: Aggregation, totals: PeriodTotals | None) -> Iterator[Difference]:
    """Of a closed one against its totals; a running one only says what was once."""
    is_closed = totals is not None and totals.closed
    if aggregation.closed != is_closed:
        stands, should = ("closed" if one else "open" for one in (aggregation.closed, is_closed))
        yield _of(aggregation, "aggregations", "state", stands, f"{should}, as its totals")
    if aggregation.revision != FIRST_REVISION and not aggregation.closed:
        yield _of(
            aggregation, "aggregations", "revision", str(aggregation.revision), str(FIRST_REVISION)
        )
    if not aggregation.closed and aggregation.endpoints:
        yield _of(aggregation, "aggregations", "endpoints", str(aggregation.endpoints), "none yet")
    # What came late is published a while later.
    if not aggregation.closed or totals is None or totals.late_since_ms:
        return
    if aggregation.previous and aggregation.contents != totals.chain:
        stands, should = aggregation.contents.hex(), totals.chain.hex()
        yield _of(aggregation, "aggregations", "digest", stands, should or NOTHING)
    for event_type, figure in aggregation.figures.items():
        found = totals.by_type.get(event_type)
        should = NOTHING if found is None else f"{found.read(figure.operation)} of {found.count}"
        if found is None or (figure.value, figure.count) != (
            found.read(figure.operation),
            found.count,
        ):
            stands = f"{figure.value} of {figure.count}"
            what = str(figure.operation)
            yield _of(aggregation, "aggregations", what, stands, should, event_type)


def _of(
    aggregation: Aggregation, table: str, what: str, stands: str, should: str, event_type: str = ""
) -> Difference:
    name = period_name(aggregation.period)
    return Difference(table, what, stands, should, aggregation.customer_id, name, event_type)
