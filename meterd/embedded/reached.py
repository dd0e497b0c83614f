"""Thresholds that were reached: looked for in totals, written once, told with the same transaction.

Synchronous, inside one transaction each: what was found in a snapshot is written in another, which
asks again whether somebody else was first.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from meterd.domain.hierarchy import parts_of
from meterd.domain.javascript import exact_text
from meterd.domain.periods import period_at
from meterd.domain.thresholds import Reached, reached_delivery
from meterd.embedded import journal, keys, outbox, records, usage
from meterd.watching import Look

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from meterd.domain.periods import Period, PeriodType
    from meterd.domain.thresholds import Watched
    from meterd.embedded.transaction import Transaction


def find(
    txn: Transaction,
    parts: int,
    watched: Watched,
    looks: Iterable[Look],
    now_ms: int,
    endpoints: tuple[str, ...],
) -> list[Reached]:
    """What these customers have reached in these periods, and nobody has been told."""
    found: list[Reached] = []
    for look in looks:
        for period in look.periods:
            window = usage.read_customer_usage(txn, parts, look.customer_id, period).window
            found += (
                one
                for one in watched.reached(look.customer_id, window, now_ms, endpoints)
                if txn.get("reached", key_of(one, parts)) is None
            )
    return found


def write(txn: Transaction, parts: int, found: Sequence[Reached], due_ms: int) -> list[Reached]:
    """Writes those that nobody wrote before, each with its deliveries; returns these."""
    new = [one for one in found if txn.put_new("reached", key_of(one, parts), records.encode(one))]
    for reached in new:
        for endpoint_id in reached.endpoints:
            outbox.add(txn, reached_delivery(reached, endpoint_id, reached.reached_ms, due_ms))
    return new


def tell_also(
    txn: Transaction, parts: int, reached: Reached, endpoint_id: str, now_ms: int, due_ms: int
) -> None:
    """One that an endpoint was never told of; what was reached names all that have a delivery."""
    made_ms = max(now_ms, reached.reached_ms)
    outbox.add(txn, reached_delivery(reached, endpoint_id, made_ms, due_ms))
    if endpoint_id in reached.endpoints:
        return  # its delivery was forgotten since
    noted = msgspec.structs.replace(reached, endpoints=(*reached.endpoints, endpoint_id))
    txn.put("reached", key_of(reached, parts), records.encode(noted))


def key_of(reached: Reached, parts: int) -> bytes:
    part = keys.part_of(reached.customer_id, parts)
    text = exact_text(reached.threshold)
    return keys.reached_key(part, reached.customer_id, reached.period, reached.event_type, text)


def of_customer(
    txn: Transaction, part: int, customer_id: str, kinds: Iterable[PeriodType]
) -> Iterator[Reached]:
    """All of the customer's in periods of these types."""
    for kind in kinds:
        prefix = keys.reached_prefix(part, customer_id, kind)
        for _, payload in txn.forward("reached", prefix, prefix):
            yield records.decode_reached(payload)


def of_period(txn: Transaction, part: int, customer_id: str, period: Period) -> list[Reached]:
    """The customer's in that period, in the order in which they were reached."""
    prefix = keys.reached_period_prefix(part, customer_id, period)
    found = [records.decode_reached(one) for _, one in txn.forward("reached", prefix, prefix)]
    return sorted(found, key=attrgetter("reached_ms", "event_type", "threshold"))


def users(
    txn: Transaction,
    parts: int,
    watched: Watched,
    since_ms: Mapping[PeriodType, int],
    after: str | None,
    limit: int,
) -> list[Look]:
    """See ``Watching.users``."""
    first = 0 if after is None else keys.part_of(after, parts)
    for part in range(first, parts):
        stored = _stored(txn, part, watched, since_ms)
        periods = sorted(
            {
                period_at(kind, one.start_ms)
                for one in stored
                for kind in watched.kinds
                if kind is one.type or one in parts_of(period_at(kind, one.start_ms), [one])
            }
        )
        begin = after if part == first else None
        found = journal.customers_in_any(txn, part, stored, begin, limit)
        if found:
            return [
                Look(customer_id, tuple(one for one in periods if one.type in kinds))
                for customer_id in found
                for kinds in [watched.periods(customer_id, watched.operations)]
            ]
    return []


def _stored(
    txn: Transaction, part: int, watched: Watched, since_ms: Mapping[PeriodType, int]
) -> list[Period]:
    """Where totals stand that belong to periods that may be looked at: theirs, and those of hours
    and days that were not handed up yet.
    """
    found = set(journal.open_parts_in(txn, part))
    for kind in watched.kinds:
        prefix = keys.period_type_prefix(part, kind)
        last_closed_ms = period_at(kind, max(since_ms[kind] - 1, 0)).start_ms
        start = prefix + keys.hour(max(last_closed_ms, 0))  # the week of 1970 began before it
        while (key := txn.first_key("totals", start)) is not None and key.startswith(prefix):
            period = keys.totals_period(key)
            found.add(period)
            start = prefix + keys.hour(period.end_ms)
    return sorted(found)
