"""Holds totals against what they are made of: each longer period against its closed parts, and the
list of customers against all totals.

The ranges of a period and of its parts are in the order of customers, so they are merged, and
nothing is held but one customer.
"""

from __future__ import annotations

from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeVar

from meterd.domain.digests import STALE, UNKNOWN, digest_of_parts
from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.domain.hierarchy import HANDS_UP_TO
from meterd.domain.instants import format_instant
from meterd.domain.periods import HOUR_MS, RANK, Period, PeriodType, period_at
from meterd.domain.totals import PeriodTotals, Totals, merge_types
from meterd.embedded import journal, keys, records
from meterd.embedded.differences import NOTHING, Difference, at_key, period_name
from meterd.embedded.marks import check_closed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from meterd.embedded.differences import Checking
    from meterd.embedded.marks import Marks
    from meterd.embedded.transaction import Transaction

# When somebody was first seen of whom no event is left.
_GONE: Final = 0
_BEHIND_ALL: Final = b"\xff" * ID_BYTES
A = TypeVar("A")
B = TypeVar("B")

# What each longer period is made of.
_PART_OF: Final = {taker: giver for giver, takers in HANDS_UP_TO.items() for taker in takers}

CustomerTotals = tuple[bytes, PeriodTotals]


def starts(txn: Transaction, part: int, kind: PeriodType, from_ms: int = 0) -> Iterator[Period]:
    """The periods of that type that have totals in the part, found with one seek for each."""
    prefix = keys.period_type_prefix(part, kind)
    start = prefix + keys.hour(from_ms)
    while (key := txn.first_key("totals", start)) is not None and key.startswith(prefix):
        period = keys.totals_period(key)
        yield period
        start = prefix + keys.hour(period.end_ms)


def totals_in(txn: Transaction, part: int, period: Period) -> Iterator[CustomerTotals]:
    """Each customer's, by the key of ``customers``, in order."""
    prefix = keys.totals_prefix(part, period)
    name = prefix[:1]
    for key, payload in txn.forward("totals", prefix, prefix):
        yield name + key[6:], records.decode_totals(payload)


def join(
    one: Iterable[tuple[bytes, A]], other: Iterable[tuple[bytes, B]]
) -> Iterator[tuple[bytes, A | None, B | None]]:
    """What stands under each key in both, which are in order; None where one has nothing."""
    ones, others = iter(one), iter(other)
    left, right = next(ones, None), next(others, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[0] < right[0]):
            assert left is not None
            yield left[0], left[1], None
            left = next(ones, None)
        elif left is None or right[0] < left[0]:
            yield right[0], None, right[1]
            right = next(others, None)
        else:
            yield left[0], left[1], right[1]
            left, right = next(ones, None), next(others, None)


def check_totals(
    txn: Transaction, parts: int, marks: Marks, checking: Checking
) -> Iterator[Difference]:
    """Every period but hours holds what its closed parts have handed up, and nothing else."""
    for part in range(parts):
        checking.progress("totals", part, parts)
        for kind, giver in _PART_OF.items():
            given = {period_at(kind, found.start_ms) for found in starts(txn, part, giver)} | set(
                starts(txn, part, kind)
            )
            for period in sorted(given):
                yield from _check_period(txn, part, period, giver, marks, checking)
    checking.progress("totals", parts, parts)


def _check_period(
    txn: Transaction,
    part: int,
    period: Period,
    giver: PeriodType,
    marks: Marks,
    checking: Checking,
) -> Iterator[Difference]:
    ranges = []
    for found in starts(txn, part, giver, period.start_ms):
        if found.start_ms >= period.end_ms:
            break
        ranges.append(_of_part(txn, part, found))
    handed_up = _handed_up(merge(*ranges, key=itemgetter(0)))
    for customer, made_of, stands in join(handed_up, totals_in(txn, part, period)):
        customer_id = customer[1:].decode()
        by_type, has_open, chains = made_of or ({}, False, {})
        if stands is not None:
            checking.counts["totals"] += 1
            yield from check_closed(marks, period, customer_id, closed=stands.closed)
        yield from compare(period, customer_id, {} if stands is None else stands.by_type, by_type)
        # Those whose events are all void are empty.
        if stands is not None and (stands.through or not (stands.by_type or made_of)):
            yield _difference(period, customer_id, "record", "one of an hour, or empty", "totals")
        if stands is not None and stands.closed and has_open:
            should = "open, as a part of it is"
            yield _difference(period, customer_id, "state", "closed", should)
        if stands is not None and stands.chain not in {UNKNOWN, STALE}:
            chain = digest_of_parts(period, _chain_of(txn, part, customer_id, giver, chains))
            if stands.chain != chain:
                stood, should = stands.chain.hex(), chain.hex()
                yield _difference(period, customer_id, "digest", stood, should)


def _of_part(
    txn: Transaction, part: int, period: Period
) -> Iterator[tuple[bytes, Period, PeriodTotals]]:
    for customer, totals in totals_in(txn, part, period):
        yield customer, period, totals


def _handed_up(
    parts: Iterable[tuple[bytes, Period, PeriodTotals]],
) -> Iterator[tuple[bytes, tuple[dict[str, Totals], bool, dict[Period, bytes]]]]:
    """What closed parts come to, whether there are open ones, and the digests of those closed, for
    each customer.
    """
    for customer, found in groupby(parts, key=itemgetter(0)):
        by_type: dict[str, Totals] = {}
        has_open = False
        chains = {}
        for _, period, totals in found:
            if totals.closed:
                by_type = merge_types(by_type, totals.by_type) if by_type else totals.by_type
                chains[period] = totals.chain
            else:
                has_open = True
        yield customer, (by_type, has_open, chains)


def _chain_of(
    txn: Transaction, part: int, customer_id: str, giver: PeriodType, chains: dict[Period, bytes]
) -> Callable[[Period], bytes | None]:
    """For ``digest_of_parts``; what is not among these is read: months of years, and the parts of
    what is stale.
    """

    def chain_of(period: Period) -> bytes | None:
        if period.type is giver:
            return chains.get(period)
        return journal.read_chain(txn, part, period, customer_id)

    return chain_of


def compare(
    period: Period, customer_id: str, stands: dict[str, Totals], should: dict[str, Totals]
) -> Iterator[Difference]:
    """Type for type, number for number."""
    if stands == should:
        return
    for event_type in sorted(stands.keys() | should.keys()):
        found, wanted = stands.get(event_type), should.get(event_type)
        if found is None or wanted is None:
            one, other = (NOTHING if each is None else _brief(each) for each in (found, wanted))
            yield _difference(period, customer_id, "totals", one, other, event_type)
            continue
        for name in Totals.__struct_fields__:
            one, other = getattr(found, name), getattr(wanted, name)
            if one != other:
                yield _difference(period, customer_id, name, _text(one), _text(other), event_type)


def compare_counts(
    period: Period, customer_id: str, stands: dict[str, Totals], least: dict[str, Totals]
) -> Iterator[Difference]:
    """Of an hour some of whose events are gone: there are no more than were counted."""
    for event_type, left in sorted(least.items()):
        count = stands[event_type].count if event_type in stands else 0
        if count < left.count:
            should = f"at least {left.count}"
            yield _difference(period, customer_id, "count", str(count), should, event_type)


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _brief(totals: Totals) -> str:
    return f"count {totals.count}, sum {totals.sum}"


def _difference(
    period: Period, customer_id: str, what: str, stands: str, should: str, event_type: str = ""
) -> Difference:
    name = period_name(period)
    return Difference("totals", what, stands, should, customer_id, name, event_type)


def check_customers(
    txn: Transaction, parts: int, marks: Marks, checking: Checking
) -> Iterator[Difference]:
    """``customers`` names everyone who has totals, with the time at which the first event came."""
    for part in range(parts):
        prefix = bytes((part,))
        ranges = [
            totals_in(txn, part, period)
            for kind in (PeriodType.HOURLY, PeriodType.DAILY, PeriodType.YEARLY)
            # What is closed is in the year.
            for period in starts(
                txn,
                part,
                kind,
                0 if kind is PeriodType.YEARLY else marks.closed_until_ms.get(kind, 0),
            )
        ]
        pruned_ms = stamp_of(marks.pruned.through).received_ms if marks.pruned.events else None
        seen = _first_seen(txn, merge(*ranges, key=itemgetter(0)), is_pruned=pruned_ms is not None)
        for customer, first_ms, payload in join(seen, txn.forward("customers", prefix, prefix)):
            checking.counts["customers"] += payload is not None
            stands_ms = None if payload is None else records.read_number(payload)
            if pruned_ms is not None and _is_pruned(stands_ms, first_ms, pruned_ms):
                continue
            if stands_ms != first_ms:
                stands, should = (
                    NOTHING if each is None else format_instant(each)
                    for each in (stands_ms, first_ms)
                )
                customer_id = customer[1:].decode()
                yield Difference("customers", "first seen", stands, should, customer_id)
    for key in txn.keys_forward("customers", bytes((parts,)), b""):
        yield at_key("customers", key, "record", "there", "nothing: there is no such part")


def _is_pruned(stands_ms: int | None, first_ms: int | None, pruned_ms: int) -> bool:
    """Whether somebody who has totals was first seen by an event that is gone."""
    if stands_ms is None or first_ms is None:
        return False
    return stands_ms <= pruned_ms and (first_ms == _GONE or stands_ms <= first_ms)


def _first_seen(
    txn: Transaction, totals: Iterable[CustomerTotals], *, is_pruned: bool
) -> Iterator[tuple[bytes, int]]:
    """By the first of the blocks that the index names of each; _GONE where none is left."""
    for customer, _found in groupby(totals, key=itemgetter(0)):
        firsts = []
        start = prefix = customer + keys.END
        while (key := txn.first_key("blocks_by_customer", start)) is not None:
            if not key.startswith(prefix):
                break
            firsts.append(stamp_of(key[-ID_BYTES:]).received_ms)
            start = key[:-ID_BYTES] + _BEHIND_ALL
        if firsts:  # else nothing came of it, or the index lacks all, which was said of them
            yield customer, min(firsts)
        elif is_pruned:
            yield customer, _GONE


def is_known_key(key: bytes, parts: int) -> bool:
    """Whether a key of ``totals`` is one that is looked at: of a part, a type, a period's start."""
    if len(key) < 7 or key[0] >= parts or key[1] >= len(RANK):
        return False
    period = keys.totals_period(key)
    is_start = period.start_ms == int.from_bytes(key[2:6], "big") * HOUR_MS
    return is_start and keys.part_of(keys.totals_customer(key), parts) == key[0]
