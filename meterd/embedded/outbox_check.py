"""Holds what a delivery's state says against where it stands in the outbox and its indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meterd.domain.deliveries import BATCH, Delivery, DeliveryStatus
from meterd.embedded import keys, lines, records
from meterd.embedded.differences import NOTHING, Difference, at_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.embedded.differences import Checking
    from meterd.embedded.transaction import Transaction

# Each has a record for some deliveries, which its key names.
_TABLES: Final = ("outbox", "outbox_by_customer", "in_air", "parked", "batched")
_PROGRESS_RECORDS: Final = 1000
_BATCHES: Final = "batches of "


class OutboxCheck:
    """See above."""

    def __init__(self, txn: Transaction, checking: Checking) -> None:
        self._txn = txn
        self._checking = checking
        self._found = dict.fromkeys(_TABLES, 0)

    def run(self) -> Iterator[Difference]:
        """Every difference, in the order of endpoints and sequences."""
        count, last = self._txn.count("deliveries"), {"": 0}
        for number, (key, payload) in enumerate(self._txn.forward("deliveries", b"", b"")):
            delivery = records.decode_delivery(payload)
            yield from _state_faults(key, delivery)
            line = _BATCHES * delivery.is_batch + delivery.endpoint_id
            expected = last.get(line, BATCH * delivery.is_batch) + 1
            if delivery.sequence != expected:
                stands = str(delivery.sequence)
                yield at_key("deliveries", key, "sequence", stands, str(expected))
            last[line] = delivery.sequence
            yield from self._places(delivery)
            if number % _PROGRESS_RECORDS == 0:
                self._checking.progress("deliveries", number, count)
        self._checking.progress("deliveries", count, count)
        yield from self._endpoints(last)
        for table in _TABLES:
            if self._txn.count(table) != self._found[table]:
                yield from self._others(table)
        yield from self._attempts()

    def _places(self, delivery: Delivery) -> Iterator[Difference]:
        for table, (key, payload) in self._places_of(delivery).items():
            found = self._txn.get(table, key)
            self._found[table] += found is not None
            if found is None:
                yield at_key(table, key, "delivery", NOTHING, f"{delivery.id}, {delivery.status}")
            elif found != payload:
                yield at_key(table, key, "record", found.hex(), payload.hex() or "empty")

    def _places_of(self, delivery: Delivery) -> dict[str, tuple[bytes, bytes]]:
        """Where it must stand, with what there, and nowhere else."""
        key = keys.delivery_key(delivery.endpoint_id, delivery.sequence)
        batch = None if delivery.is_batch else self._batch_of(key)
        is_in_batch = batch is not None and delivery.sequence in batch.sequences
        where: dict[str, tuple[bytes, bytes]] = {}
        if batch is not None and is_in_batch:
            where["batched"] = key, batch.sequence.to_bytes(8, "big")
        status = batch.status if batch is not None and is_in_batch else delivery.status
        if status is DeliveryStatus.DELIVERED:
            return where
        if status is DeliveryStatus.PARKED:
            return where if delivery.is_batch else where | {"parked": (key, b"")}
        if not delivery.is_batch:
            line, place = lines.place_in_line(delivery)
            where["outbox_by_customer"] = line + place, delivery.sequence.to_bytes(8, "big")
        if delivery.begun_ms is not None:
            where["in_air"] = key, b""
        elif not is_in_batch and self._may_be_sent(delivery):
            where["outbox"] = lines.record_of(delivery)
        return where

    def _batch_of(self, key: bytes) -> Delivery | None:
        number = self._txn.get("batched", key)
        found = None if not number else self._txn.get("deliveries", key[:-8] + number)
        return None if found is None else records.decode_delivery(found)

    def _may_be_sent(self, delivery: Delivery) -> bool:
        end = delivery.endpoint_id
        waiting_in = [
            keys.outbox_customer_prefix(end, one.customer_id) for one in delivery.members
        ] or [lines.place_in_line(delivery)[0]]
        return all(
            self._goes_first(end, line, sequence)
            for line, sequence in zip(waiting_in, delivery.sequences, strict=True)
        )

    def _goes_first(self, endpoint_id: str, line: bytes, sequence: int) -> bool:
        """Whether it is the first in its line, and none in there is in the air."""
        endpoint = keys.endpoint_prefix(endpoint_id)
        waiting = [found for _, found in self._txn.forward("outbox_by_customer", line, line)]
        return waiting[:1] == [sequence.to_bytes(8, "big")] and all(
            self._txn.get("in_air", endpoint + (self._txn.get("batched", endpoint + one) or one))
            is None
            for one in waiting
        )

    def _endpoints(self, last: dict[str, int]) -> Iterator[Difference]:
        for key, payload in self._txn.forward("endpoints", b"", b""):
            state = records.decode_endpoint_state(payload)
            name = key.decode()
            expected = last.pop(name, 0) + 1, last.pop(f"{_BATCHES}{name}", BATCH) - BATCH + 1
            if (state.next_sequence, state.next_batch) != expected:
                stands = f"{state.next_sequence}, {state.next_batch}"
                should = f"{expected[0]}, {expected[1]}"
                yield at_key("endpoints", key, "next sequence and batch", stands, should)
        del last[""]
        for endpoint_id in last:
            yield at_key("endpoints", endpoint_id.encode(), "record", NOTHING, "there")

    def _others(self, table: str) -> Iterator[Difference]:
        for key, payload in self._txn.forward(table, b"", b""):
            endpoint_id = key.split(keys.END, 1)[0]
            sequence = payload if table == "outbox_by_customer" else key[-8:]
            found = self._txn.get("deliveries", endpoint_id + keys.END + sequence)
            delivery = None if found is None else records.decode_delivery(found)
            if delivery is None:
                should = "nothing: there is no such delivery"
            elif self._places_of(delivery).get(table, (b"", b""))[0] != key:
                should = f"nothing: {delivery.id} is {delivery.status} and does not stand there"
            else:
                continue
            yield at_key(table, key, "delivery", "there", should)

    def _attempts(self) -> Iterator[Difference]:
        """Each once by its delivery and once by its time."""
        for key, payload in self._txn.forward("attempts", b"", b""):
            attempt = records.decode_attempt(payload)
            by_time = attempt.begun_ms.to_bytes(8, "big") + key
            named = keys.attempt_key(attempt.endpoint_id, attempt.sequence, attempt.number)
            if key != named or self._txn.get("attempts_by_time", by_time) is None:
                yield at_key("attempts_by_time", by_time, "attempt", NOTHING, "there")
        if self._txn.count("attempts_by_time") != self._txn.count("attempts"):
            for by_time in self._txn.keys_forward("attempts_by_time", b"", b""):
                if self._txn.get("attempts", by_time[8:]) is None:
                    should = "nothing: there is no such attempt"
                    yield at_key("attempts_by_time", by_time, "attempt", "there", should)


def _state_faults(key: bytes, delivery: Delivery) -> Iterator[Difference]:
    """What cannot be, whatever was done."""
    is_delivered = delivery.status is DeliveryStatus.DELIVERED
    if (delivery.delivered_ms is not None) != is_delivered:
        yield at_key("deliveries", key, "delivered at", str(delivery.delivered_ms), "as its status")
    if delivery.status is not DeliveryStatus.PENDING and not delivery.attempts:
        yield at_key("deliveries", key, "attempts", "0", f"one at least: it is {delivery.status}")
    if delivery.begun_ms is not None and delivery.status is not DeliveryStatus.PENDING:
        yield at_key("deliveries", key, "attempt", "in the air", f"none: it is {delivery.status}")
