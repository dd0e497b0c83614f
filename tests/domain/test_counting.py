"""What comes of an hour and a type while it is counted again, and nothing else."""

from __future__ import annotations

from meterd.domain.counting import Counting, Recounting, both
from meterd.domain.digests import START
from meterd.domain.event_ids import Stamp
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.receipts import receive
from tests.ledger_bench import START_MS, event

HOUR = period_at(PeriodType.HOURLY, START_MS)
RECEIPT = receive(
    Stamp(START_MS, 0, 7), [event(value=1), event(event_type="max"), event(value=4), event(value=2)]
)
BY_TYPE = RECEIPT.by_type(range(4))


def test_only_what_is_of_the_hour_and_the_type_is_noted() -> None:
    """However often it comes."""
    recounting = Recounting(HOUR, "sum")
    recounting.count(period_at(PeriodType.HOURLY, START_MS + HOUR_MS), RECEIPT, BY_TYPE)
    recounting.count(HOUR, RECEIPT, {"max": [1]})
    seen = [recounting.since]
    for by_type in (BY_TYPE, {"sum": [2]}):
        recounting.count(HOUR, RECEIPT, by_type)
        seen.append(recounting.since)
    whole = RECEIPT.totals([0, 2, 3])
    assert seen == [None, whole, both(whole, RECEIPT.totals([2]))]


def test_what_is_noted_and_the_rest_are_the_hour() -> None:
    """In whatever order they are brought together, also where one has nothing."""
    counting = Counting(HOUR, {}, b"", closed=False, chain=START)
    counting.count(RECEIPT, [0, 2, 3], BY_TYPE)
    whole = counting.totals()
    assert (counting.has_counted, whole.through) == (True, RECEIPT.last_id)
    early, late = RECEIPT.totals([0]), RECEIPT.totals([2, 3])
    assert both(early, late) == both(late, early) == whole.by_type["sum"]
    assert both(None, late) == both(late, None) == late
    assert both(None, None) is None
