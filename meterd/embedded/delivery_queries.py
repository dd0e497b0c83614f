"""Reads deliveries: newest first or as a stream, by endpoint, customer, period and status.

Within an endpoint, sequences are the order of making, so each endpoint is one range read backward,
or the sequences that another table names, greatest first; the ranges are merged by when deliveries
were made. Synchronous, inside one short transaction; a long answer is many pages.

A batch is how deliveries go: they are listed, in the state that it gives them, and it is not.
"""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Final

from meterd.domain.deliveries import (
    BATCH,
    Delivery,
    DeliveryStatus,
    as_batch,
    batch_id,
    delivery_id,
)
from meterd.domain.endpoints import ENDPOINT_ID_MAX
from meterd.domain.event_fields import CUSTOMER_ID_MAX_BYTES
from meterd.domain.periods import PeriodType
from meterd.domain.thresholds import reached_delivery_id
from meterd.embedded import attempt_log, batches, journal, keys, lines, outbox, reached, records
from meterd.ledger import (
    ATTEMPTS_AT_ONCE,
    COUNTED_MAX,
    DeliveryHistory,
    DeliveryPlace,
    DeliveryQuery,
    EndpointSummary,
    LoggedAttempt,
    place_of_delivery,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meterd.embedded.transaction import Transaction

# So many pending or parked ones of an endpoint are put into order, in some ten milliseconds. Where
# there are more, most that the endpoint got last are likely to be among them.
_PUT_INTO_ORDER_MAX: Final = 10_000


def read_deliveries(
    txn: Transaction, parts: int, query: DeliveryQuery, limit: int, after: DeliveryPlace | None
) -> list[Delivery]:
    """See ``Ledger.deliveries``."""
    return list(islice(_matching(txn, parts, query, after), limit))


def deliveries_page_end(
    txn: Transaction, parts: int, query: DeliveryQuery, limit: int, after: DeliveryPlace | None
) -> DeliveryPlace | None:
    """See ``Ledger.deliveries_page_end``."""
    behind_page = list(islice(_matching(txn, parts, query, after), limit - 1, limit + 1))
    return place_of_delivery(behind_page[0]) if len(behind_page) == 2 else None


def read_history(txn: Transaction, delivery_id: str, skip: int = 0) -> DeliveryHistory | None:
    """See ``Ledger.delivery``."""
    delivery = outbox.find(txn, delivery_id)
    if delivery is None:
        return None
    batch = None if delivery.is_batch else batches.batch_of(txn, delivery)
    attempts = _attempts(txn, delivery)
    end = max(len(attempts) - skip, 0)
    return DeliveryHistory(
        delivery,
        tuple(attempts[max(end - ATTEMPTS_AT_ONCE, 0) : end]),
        outbox.endpoint_state(txn, delivery.endpoint_id),
        _behind(txn, delivery, batch),
        None if batch is None else batch.id,
        len(attempts),
    )


def _attempts(txn: Transaction, delivery: Delivery) -> list[LoggedAttempt]:
    """Of the delivery, alone and with each batch that it was in; the earliest first."""
    endpoint_id = delivery.endpoint_id
    found = [
        LoggedAttempt(one, one.number)
        for one in attempt_log.of_number(txn, endpoint_id, delivery.sequence)
    ]
    for was_in in delivery.batches:
        name = batch_id(endpoint_id, was_in.number)
        found += [
            LoggedAttempt(one, was_in.attempts + one.number, name, one.number)
            for one in attempt_log.of_number(txn, endpoint_id, was_in.number)
        ]
    return sorted(found, key=lambda one: one.number)


def _behind(txn: Transaction, delivery: Delivery, batch: Delivery | None) -> str | None:
    if delivery.status is not DeliveryStatus.PENDING or delivery.begun_ms is not None:
        return None
    before = lines.waits_for(txn, delivery if batch is None else batch)
    return None if before is None else outbox.get(txn, delivery.endpoint_id, before).id


def read_endpoints(txn: Transaction) -> list[EndpointSummary]:
    """See ``Ledger.endpoints``."""
    return [
        EndpointSummary(
            endpoint_id,
            outbox.endpoint_state(txn, endpoint_id),
            _count(txn, "outbox_by_customer", endpoint_id),
            _count(txn, "parked", endpoint_id),
        )
        for endpoint_id in _known_endpoints(txn)
    ]


def _count(txn: Transaction, table: str, endpoint_id: str) -> int:
    prefix = keys.endpoint_prefix(endpoint_id)
    return sum(1 for _ in islice(txn.keys_forward(table, prefix, prefix), COUNTED_MAX))


def _known_endpoints(txn: Transaction) -> list[str]:
    return [key.decode() for key in txn.keys_forward("endpoints", b"", b"")]


def _matching(
    txn: Transaction, parts: int, query: DeliveryQuery, after: DeliveryPlace | None
) -> Iterator[Delivery]:
    """The query's deliveries in the order of reading."""
    if not _may_find(query):
        return
    if query.after_sequence is not None:
        assert query.endpoint_id is not None, "a sequence is of an endpoint"
        start = max(query.after_sequence, 0 if after is None else after.sequence)
        found: Iterable[Delivery] = _onward(txn, query.endpoint_id, start)
    else:
        known = _known_endpoints(txn) if query.endpoint_id is None else [query.endpoint_id]
        of_customer = _of_customer(txn, parts, query, known)
        ranges = [
            _backward(txn, endpoint_id, query, of_customer, _bound(txn, endpoint_id, after))
            for endpoint_id in known
        ]
        found = merge(*ranges, key=_order)
    for delivery in found:
        if _matches(delivery, query):
            yield delivery


def _may_find(query: DeliveryQuery) -> bool:
    """Whether there may be anything under these names."""
    return (
        query.customer_id is None or keys.may_be_stored(query.customer_id, CUSTOMER_ID_MAX_BYTES)
    ) and (query.endpoint_id is None or keys.may_be_stored(query.endpoint_id, ENDPOINT_ID_MAX))


def _matches(delivery: Delivery, query: DeliveryQuery) -> bool:
    return (
        query.status in {None, delivery.status}
        and query.period_type in {None, delivery.period_type}
        and query.customer_id in {None, delivery.customer_id}
    )


def _order(delivery: Delivery) -> tuple[int, str, int]:
    return -delivery.created_ms, delivery.endpoint_id, -delivery.sequence


class _Shown:
    """Deliveries in the state that they have; of neighbours in one batch, that is read once."""

    def __init__(self, txn: Transaction, endpoint_id: str) -> None:
        self._txn = txn
        self._prefix = keys.endpoint_prefix(endpoint_id)
        self._number = b""
        self._batch: Delivery

    def read(self, sequence: int) -> Delivery:
        key = self._prefix + sequence.to_bytes(8, "big")
        payload = self._txn.get("deliveries", key)
        assert payload is not None, f"there is no such delivery: {key!r}"
        return self.decode(key, payload)

    def decode(self, key: bytes, payload: bytes) -> Delivery:
        delivery = records.decode_delivery(payload)
        number = self._txn.get("batched", key)
        if number is None:
            return delivery
        if number != self._number:
            found = self._txn.get("deliveries", self._prefix + number)
            assert found is not None, f"a delivery is in a batch that is not there: {key!r}"
            self._number, self._batch = number, records.decode_delivery(found)
        return as_batch(delivery, self._batch)


def _onward(txn: Transaction, endpoint_id: str, after: int) -> Iterator[Delivery]:
    shown = _Shown(txn, endpoint_id)
    start = keys.delivery_key(endpoint_id, min(after + 1, BATCH))
    for key, payload in txn.forward("deliveries", start, keys.endpoint_prefix(endpoint_id)):
        if keys.sequence_in(key) >= BATCH:
            return
        yield shown.decode(key, payload)


def _backward(
    txn: Transaction,
    endpoint_id: str,
    query: DeliveryQuery,
    of_customer: dict[str, list[int]] | None,
    bound: int,
) -> Iterator[Delivery]:
    """The endpoint's deliveries before that sequence, the last first: at least those asked for."""
    shown = _Shown(txn, endpoint_id)
    sequences: list[int] | None = None
    if of_customer is not None:
        sequences = sorted(of_customer.get(endpoint_id, ()), reverse=True)
    elif query.status is DeliveryStatus.PARKED:
        sequences = _in_order(_parked(txn, endpoint_id))
    elif query.status is DeliveryStatus.PENDING:
        sequences = _in_order(_pending(txn, endpoint_id))
    if sequences is not None:
        for sequence in sequences:
            if sequence < bound:
                yield shown.read(sequence)
        return
    end = keys.delivery_key(endpoint_id, bound)
    for key, payload in txn.backward("deliveries", end, keys.endpoint_prefix(endpoint_id)):
        delivery = shown.decode(key, payload)
        if _matches(delivery, query):
            yield delivery


def _in_order(sequences: Iterable[int]) -> list[int] | None:
    """The greatest first; None where they are too many."""
    found = list(islice(sequences, _PUT_INTO_ORDER_MAX + 1))
    return sorted(found, reverse=True) if len(found) <= _PUT_INTO_ORDER_MAX else None


def _pending(txn: Transaction, endpoint_id: str) -> Iterator[int]:
    prefix = keys.endpoint_prefix(endpoint_id)
    for _, sequence in txn.forward("outbox_by_customer", prefix, prefix):
        yield keys.sequence_in(sequence)


def _parked(txn: Transaction, endpoint_id: str) -> Iterator[int]:
    prefix = keys.endpoint_prefix(endpoint_id)
    for key in txn.keys_forward("parked", prefix, prefix):
        yield keys.sequence_in(key)


def _of_customer(
    txn: Transaction, parts: int, query: DeliveryQuery, endpoints: list[str]
) -> dict[str, list[int]] | None:
    """The sequences of the customer's deliveries to each endpoint; None where none is asked for."""
    if query.customer_id is None:
        return None
    found: dict[str, list[int]] = {endpoint_id: [] for endpoint_id in endpoints}
    if query.status is DeliveryStatus.PENDING:
        for endpoint_id, sequences in found.items():
            for prefix_of in (keys.outbox_customer_prefix, keys.outbox_thresholds_prefix):
                prefix = prefix_of(endpoint_id, query.customer_id)
                waiting = txn.forward("outbox_by_customer", prefix, prefix)
                sequences.extend(keys.sequence_in(payload) for _, payload in waiting)
        return found
    kinds = tuple(PeriodType) if query.period_type is None else (query.period_type,)
    for key in _delivery_keys(
        txn, keys.part_of(query.customer_id, parts), query.customer_id, kinds
    ):
        endpoint_id = key[: -len(keys.END) - 8].decode()
        if endpoint_id in found:
            found[endpoint_id].append(keys.sequence_in(key))
    return found


def _delivery_keys(
    txn: Transaction, part: int, customer_id: str, kinds: tuple[PeriodType, ...]
) -> Iterator[bytes]:
    """Those of every revision of every aggregation of the customer, and of what it reached."""
    for one in reached.of_customer(txn, part, customer_id, kinds):
        for endpoint_id in one.endpoints:
            name = reached_delivery_id(one, endpoint_id)
            if (found := txn.get("delivery_ids", bytes.fromhex(name[4:]))) is not None:
                yield found
    for kind in kinds:
        prefix = keys.customer_periods_prefix(part, customer_id, kind)
        for key in txn.keys_forward("customer_periods", prefix, prefix):
            start_ms = keys.start_of(key[len(prefix) :])
            newest = keys.aggregation_key(part, kind, start_ms, customer_id)
            for aggregation in journal.read_revisions(txn, newest):
                for endpoint_id in aggregation.endpoints:
                    name = delivery_id(endpoint_id, aggregation.id, aggregation.revision)
                    found = txn.get("delivery_ids", bytes.fromhex(name[4:]))
                    if found is not None:
                        yield found


def _bound(txn: Transaction, endpoint_id: str, after: DeliveryPlace | None) -> int:
    """All that follows the place, of the endpoint, stands before this sequence."""
    if after is None:
        return BATCH
    if endpoint_id == after.endpoint_id:
        return after.sequence
    later = endpoint_id > after.endpoint_id
    return _first_made(txn, endpoint_id, after.created_ms + 1 if later else after.created_ms)


def _first_made(txn: Transaction, endpoint_id: str, at_ms: int) -> int:
    """The sequence of the endpoint's first delivery that was made then or later."""
    last = txn.last_key("deliveries", keys.delivery_key(endpoint_id, BATCH - 1))
    if last is None or not last.startswith(keys.endpoint_prefix(endpoint_id)):
        return 0
    low, high = 0, keys.sequence_in(last) + 1
    while low < high:
        middle = (low + high) // 2
        found = next(_onward(txn, endpoint_id, middle - 1), None)
        if found is None or found.created_ms >= at_ms:
            high = middle
        else:
            low = found.sequence + 1
    return low
