"""What the books say of a revision: what it is one for, and what not."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.aggregations import Aggregation, Figure
from meterd.domain.config import Config, EventType
from meterd.domain.digests import START
from meterd.domain.operations import Operation
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.voids import Void
from tests.simulation.books import Books, BrokenPromiseError, Sent
from tests.simulation.clock import VirtualClock
from tests.simulation.publications import Publications
from tests.simulation.regime import Regime
from tests.simulation.trace import Trace

if TYPE_CHECKING:
    from trio.testing import MockClock

HOUR = period_at(PeriodType.HOURLY, 0)
LATER_MS = 2 * HOUR_MS


def made(revision: int, count: int, contents: bytes) -> Aggregation:
    figures = {"sum": Figure(Operation.SUM, Decimal(count), count)}
    computed_ms = LATER_MS if revision > 1 else HOUR_MS
    return Aggregation(
        *("acme", HOUR.type, HOUR.start_ms, revision, True, HOUR_MS, computed_ms, figures),
        contents=contents,
        previous=START,
    )


@pytest.mark.parametrize(
    ("newest", "is_one"),
    [
        (made(2, 1, b"other"), True),  # an event came late and was taken back
        (made(2, 1, b"one"), False),
        (made(2, 2, b"other"), False),  # it counts what is void
        (made(3, 1, b"other"), False),
    ],
)
async def test_what_came_and_went_is_a_revision(
    newest: Aggregation, is_one: bool, autojump_clock: MockClock
) -> None:
    """One with the figures of the one before, of other contents; once."""
    assert autojump_clock is not None
    books, regime, clock = Books(), Regime(), VirtualClock(LATER_MS, Random(1))
    events = {"sum": EventType(Operation.SUM)}
    regime.started(Config((PeriodType.HOURLY,), events=events, grace_ms=0, revise_after_ms=0))
    publications = Publications(books, regime, clock, Trace(), lambda *_: True)
    first, second = (Sent(number, "acme", "sum", "1", timestamp_ms=number) for number in (1, 2))
    for one in (first, second):
        books.sending(one)
    books.enter(first, 5, b"first")
    earlier = made(1, 1, b"one")
    publications.published(earlier, {}, [])
    late = books.enter(second, HOUR_MS, b"second")
    publications.changed("acme", late.happened_ms, late.received_ms)
    books.take_back(late, Void("a slip", HOUR_MS))
    publications.changed("acme", late.happened_ms, HOUR_MS)
    if is_one:
        publications.published(newest, {}, [earlier])
        assert publications.closed["acme", HOUR] == newest
        again = msgspec.structs.replace(newest, revision=3)
        with pytest.raises(BrokenPromiseError, match="as it was"):
            publications.published(again, {}, [newest])
    else:
        with pytest.raises(BrokenPromiseError):
            publications.published(newest, {}, [earlier])
