"""Events that are taken back: they stay in the log, marked void, and count no more.

Sums and counts could be taken apart again; what was least, greatest, first and last could not. So
the hour of a void event is counted again without it, and the periods that the hour was handed up to
are made again of their parts.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import reduce
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.digests import stale
from meterd.domain.hierarchy import givers, takers
from meterd.domain.totals import merge_types

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.periods import Period
    from meterd.domain.totals import PeriodTotals, Totals

REASON_MAX: Final = 500  # characters: a sentence or two, and the number of a case


class Void(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why and when an event was taken back.

    ``behind`` is the digest that the chain of its hour had come to before (see ``digests``): where
    in that chain it stands.
    """

    reason: str
    voided_ms: int
    behind: bytes = b""


class VoidOutcome(Enum):
    """What becomes of an event that is to be void."""

    VOIDED = auto()
    VOID_BEFORE = auto()
    TOO_LATE = auto()


def made_again(
    hour: Period,
    by_type: dict[str, Totals],
    chain: bytes,
    since_ms: int,
    stands: Callable[[Period], PeriodTotals],
) -> dict[Period, PeriodTotals]:
    """The totals of the hour, which are to be those by type with that chain, and of every period
    that it was handed up to, made of what its closed parts come to then; ``stands`` gives all
    others as they are.

    Each that is closed is to be revised since that moment, or since it was before.
    """
    made: dict[Period, PeriodTotals] = {}

    def make(period: Period, by_type: dict[str, Totals], chain: bytes | None = None) -> None:
        before = stands(period)
        made[period] = msgspec.structs.replace(
            before,
            by_type=by_type,
            late_since_ms=(before.late_since_ms or since_ms) if before.closed else 0,
            chain=stale(before.chain) if chain is None else chain,
        )
        if before.closed:
            for taker in takers(period):
                parts = (made[part] if part in made else stands(part) for part in givers(taker))
                make(taker, reduce(merge_types, [one.by_type for one in parts if one.closed], {}))

    make(hour, by_type, chain)
    return made
