"""Which times are taken, and what is said of others; ``lateness_conformance`` has the rest."""

from __future__ import annotations

import msgspec
import pytest

from meterd.domain.admission import USUAL, Admission, Late
from meterd.domain.hierarchy import NOTHING_CLOSED
from meterd.domain.idempotency import Recorded
from meterd.domain.periods import PeriodType
from tests.ledger_bench import START_MS, event

HOUR_BEGINS_MS = START_MS - 15 * 60_000
CLOSED = NOTHING_CLOSED | {PeriodType.HOURLY: HOUR_BEGINS_MS}


@pytest.mark.parametrize(
    ("happened_ms", "late", "outcome"),
    [
        (None, Late.REJECT, Recorded.RECORDED),
        (HOUR_BEGINS_MS, Late.REJECT, Recorded.RECORDED),
        (HOUR_BEGINS_MS - 1, Late.REJECT, Recorded.TOO_LATE),
        (HOUR_BEGINS_MS - 1, Late.REVISE, Recorded.RECORDED),
        (-1, Late.REJECT, Recorded.TOO_OLD),
    ],
)
def test_what_becomes_of_an_event(happened_ms: int | None, late: Late, outcome: Recorded) -> None:
    """What is too old is said to be that, whatever is closed."""
    one = msgspec.structs.replace(event(), timestamp_ms=happened_ms)
    admission = Admission(USUAL.past_ms, USUAL.future_ms, late)
    assert admission.judge(one, START_MS, CLOSED) is outcome


def test_only_times_have_a_fault() -> None:
    """A conflict is none of the event's time."""
    assert USUAL.fault(Recorded.CONFLICT) is None
    assert {one for one in Recorded if USUAL.fault(one)} == {
        Recorded.TOO_OLD,
        Recorded.TOO_NEW,
        Recorded.TOO_LATE,
    }
