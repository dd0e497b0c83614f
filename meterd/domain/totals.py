"""The totals of one event type: what seven operations can be read from.

A total carries count, exact sum, least, greatest, first and last, so an operation may change in the
middle of a period. Totals merge: ``merge`` is associative and commutative, which is what lets a day
be made of its hours, and what would let two writers' totals be brought together.

Quantities are decimals and nothing here ever rounds one, but for reading an average.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, Inexact, InvalidOperation
from functools import reduce
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Sequence

# Values have at most 309 digits before the point and 463 behind it (events.py bounds them), so a
# sum of 1e30 of them still has fewer digits than this: an addition that would round is our own
# mistake, and the trap says so.
EXACT: Final = Context(prec=1000, traps=[Inexact, InvalidOperation])

# IEEE 754 decimal128 has 34 digits; an average rarely ends, so it must be rounded somewhere.
_AVERAGE: Final = Context(
    prec=34, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero]
)


class Totals(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All that is kept of the events of one type, one customer, one period.

    ``first_at`` and ``last_at`` are positions (see ``event_ids.position``): bytes whose order is
    the order of the customer's events.
    """

    count: int
    sum: Decimal
    min: Decimal
    max: Decimal
    first: Decimal
    first_at: bytes
    last: Decimal
    last_at: bytes

    def read(self, operation: Operation) -> Decimal:
        """The operation's result: exact, but for ``avg``: half-even to 34 digits."""
        match operation:
            case Operation.SUM:
                return self.sum
            case Operation.AVG:
                return _AVERAGE.divide(self.sum, Decimal(self.count))
            case Operation.MIN:
                return self.min
            case Operation.MAX:
                return self.max
            case Operation.COUNT:
                return Decimal(self.count)
            case Operation.FIRST:
                return self.first
            case Operation.LAST:
                return self.last


def totals_of(values: Sequence[Decimal], first_at: bytes, last_at: bytes) -> Totals:
    """The totals of at least one event, given in their order with the first and last position."""
    first = values[0]
    if len(values) == 1:
        return Totals(1, first, first, first, first, first_at, first, last_at)
    return Totals(
        len(values),
        reduce(EXACT.add, values),
        min(values),
        max(values),
        first,
        first_at,
        values[-1],
        last_at,
    )


def counted(before: Totals, value: Decimal, at: bytes) -> Totals:
    """The totals with one more event: what ``merge`` would make of both, in one step."""
    # Comparisons, because min and max cost twice as much, and this is done for every event.
    is_first = at < before.first_at
    is_last = at > before.last_at
    return Totals(
        before.count + 1,
        EXACT.add(before.sum, value),
        value if value < before.min else before.min,  # noqa: FURB136
        value if value > before.max else before.max,  # noqa: FURB136
        value if is_first else before.first,
        at if is_first else before.first_at,
        value if is_last else before.last,
        at if is_last else before.last_at,
    )


def merge(one: Totals, other: Totals) -> Totals:
    """The totals of both sets of events together."""
    early = one if one.first_at <= other.first_at else other
    late = one if one.last_at >= other.last_at else other
    return Totals(
        one.count + other.count,
        EXACT.add(one.sum, other.sum),
        min(one.min, other.min),
        max(one.max, other.max),
        early.first,
        early.first_at,
        late.last,
        late.last_at,
    )


def merge_types(one: dict[str, Totals], other: dict[str, Totals]) -> dict[str, Totals]:
    """The totals by event type of both, as a new mapping."""
    merged = dict(one)
    for event_type, totals in other.items():
        before = merged.get(event_type)
        merged[event_type] = totals if before is None else merge(before, totals)
    return merged


class PeriodTotals(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One customer's totals over one period, by event type.

    An hour holds its events up to and with the one whose id is ``through``; those that come later
    are not in it yet. A longer period holds what its closed parts have handed up: a day its closed
    hours, a week, month or year its closed days (see ``account``). ``closed`` is set when the
    period's aggregation is made, and never taken back. ``published`` is then a digest of its
    figures (see ``aggregations``), and empty where nothing was published, or by a meterd that
    wrote none. ``late_since_ms`` is when the first event came that it holds and its
    aggregation does not, which was published before; 0 where there is none. ``chain`` is the digest
    of an hour's events so far, and of what a longer period was made of when it was last published
    (see ``digests``).
    """

    closed: bool
    by_type: dict[str, Totals]
    through: bytes = b""
    published: bytes = b""
    late_since_ms: int = 0
    chain: bytes = b""


NOTHING: Final = PeriodTotals(closed=False, by_type={})
