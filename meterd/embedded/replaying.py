"""Has an endpoint sent again what it was sent, and sent what it never was: closed aggregations
whose periods ended within two moments, and what thresholds their customers reached in them.

A page of it is one transaction, and begins where the last one ended. Periods come in the order of
closing, and so do each customer's deliveries in the outbox; what is there already keeps its id.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from meterd.domain.aggregations import Aggregation, completed_body
from meterd.domain.deliveries import delivery_id, first_attempt
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.thresholds import reached_delivery_id
from meterd.embedded import keys, outbox, reached, records
from meterd.ledger import AggregationPlace, Replay, Replayed, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.thresholds import Reached
    from meterd.embedded.transaction import Transaction

_BEHIND_CUSTOMERS = b"\xff"  # begins no UTF-8


def run(
    txn: Transaction,
    parts: int,
    replay: Replay,
    after: AggregationPlace | None,
    limit: int,
    now_ms: int,
    due_ms: int,
) -> Replayed:
    """One page; all of it comes due then."""
    done, page = _page(txn, parts, replay, after, limit, now_ms)
    for aggregation in page:
        for one in _reached_in(txn, parts, aggregation):
            delivery = outbox.find(txn, reached_delivery_id(one, replay.endpoint_id))
            if delivery is None:
                reached.tell_also(txn, parts, one, replay.endpoint_id, now_ms, due_ms)
            else:
                outbox.replay(txn, delivery, due_ms)
        name = delivery_id(replay.endpoint_id, aggregation.id, aggregation.revision)
        delivery = outbox.find(txn, name)
        if delivery is not None:
            outbox.replay(txn, delivery, due_ms)
            continue
        body = completed_body(aggregation)
        # Not before what it carries, though a clock stepped back.
        made_ms = max(now_ms, aggregation.computed_ms)
        outbox.add(txn, first_attempt(aggregation, replay.endpoint_id, body, made_ms, due_ms))
        _note_endpoint(txn, parts, aggregation, replay.endpoint_id)
    return done


def count(
    txn: Transaction,
    parts: int,
    replay: Replay,
    after: AggregationPlace | None,
    limit: int,
    now_ms: int,
) -> Replayed:
    """What ``run`` would do."""
    return _page(txn, parts, replay, after, limit, now_ms)[0]


def _page(
    txn: Transaction,
    parts: int,
    replay: Replay,
    after: AggregationPlace | None,
    limit: int,
    now_ms: int,
) -> tuple[Replayed, list[Aggregation]]:
    # What is to end yet is not closed; and no calendar reaches as far as a bound may.
    ended = msgspec.structs.replace(replay, to_ms=min(replay.to_ms, now_ms))
    found = list(islice(_ended(txn, parts, ended, after), limit + 1))
    page = [aggregation for aggregation in found[:limit] if aggregation.closed]
    names = [delivery_id(replay.endpoint_id, one.id, one.revision) for one in page]
    names += [
        reached_delivery_id(one, replay.endpoint_id)
        for aggregation in page
        for one in _reached_in(txn, parts, aggregation)
    ]
    again = sum(txn.get("delivery_ids", bytes.fromhex(name[4:])) is not None for name in names)
    more = place_of(found[limit - 1]) if len(found) > limit else None
    return Replayed(again, len(names) - again, more), page


def _reached_in(txn: Transaction, parts: int, aggregation: Aggregation) -> list[Reached]:
    """The thresholds that its customer reached in its period."""
    part = keys.part_of(aggregation.customer_id, parts)
    return reached.of_period(txn, part, aggregation.customer_id, aggregation.period)


def _note_endpoint(
    txn: Transaction, parts: int, aggregation: Aggregation, endpoint_id: str
) -> None:
    """The aggregation names every endpoint that it has a delivery to."""
    if endpoint_id in aggregation.endpoints:
        return  # its delivery was forgotten since
    noted = msgspec.structs.replace(aggregation, endpoints=(*aggregation.endpoints, endpoint_id))
    part = keys.part_of(noted.customer_id, parts)
    key = keys.aggregation_key(part, noted.period_type, noted.start_ms, noted.customer_id)
    txn.put("aggregations", key, records.encode(noted))


def _ended(
    txn: Transaction, parts: int, replay: Replay, after: AggregationPlace | None
) -> Iterator[Aggregation]:
    """By period in the order of closing, then by part and customer."""
    last = None if after is None else period_at(after.period_type, after.start_ms)
    first_ms = replay.from_ms if last is None else max(replay.from_ms, last.end_ms)
    for period in _periods(txn, parts, first_ms, replay.to_ms):
        if last is not None and period < last:
            continue
        begin = (0, b"")
        if after is not None and period == last:
            customer = after.customer_id.encode()
            begin = (keys.part_of(after.customer_id, parts), customer + keys.END)
        for part in range(begin[0], parts):
            prefix = keys.period_type_prefix(part, period.type) + keys.newest_first(period.start_ms)
            start = prefix + begin[1] if part == begin[0] else prefix
            for _, payload in txn.forward("aggregations", start, prefix):
                yield records.decode_aggregation(payload)


def _periods(txn: Transaction, parts: int, from_ms: int, to_ms: int) -> Iterator[Period]:
    """Those with aggregations that ended within these bounds."""
    if from_ms > to_ms:
        return
    coming: dict[PeriodType, Period] = {}
    for kind in PeriodType:
        first = period_at(kind, max(from_ms - 1, 0))  # the first that ends then, or later
        if (found := _next_period(txn, parts, kind, max(first.start_ms, 0))) is not None:
            coming[kind] = found
    while coming:
        period = min(coming.values())
        if period.end_ms > to_ms:
            return
        yield period
        following = _next_period(txn, parts, period.type, period.end_ms)
        if following is None:
            del coming[period.type]
        else:
            coming[period.type] = following


def _next_period(txn: Transaction, parts: int, kind: PeriodType, start_ms: int) -> Period | None:
    """The first with an aggregation among those that start then or later."""
    starts = []
    for part in range(parts):
        prefix = keys.period_type_prefix(part, kind)
        at_most = prefix + keys.newest_first(start_ms) + _BEHIND_CUSTOMERS
        key = txn.last_key("aggregations", at_most)
        if key is not None and key.startswith(prefix):
            starts.append(keys.start_of(key[len(prefix) : len(prefix) + 4]))
    return period_at(kind, min(starts)) if starts else None
