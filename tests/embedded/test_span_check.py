"""The log is cut between hours, wherever its records lie. What is found in them is checked, in one
go and in spans, by ``differences_in_spans``.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from meterd.domain.event_ids import Stamp, stamp_of
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.receipts import receive
from meterd.embedded import journal, log, recovery
from meterd.embedded.differences import Checking
from meterd.embedded.log_check import LogCheck
from meterd.embedded.marks import read_marks
from meterd.embedded.span_check import Span, SpanCheck, SpanFound
from meterd.embedded.store import PARTS, Store
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from meterd.embedded.differences import Difference
    from meterd.embedded.transaction import Transaction

HOUR = period_at(PeriodType.HOURLY, START_MS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Its first record has the last event of an hour and the first of the next."""
    with closing(Store(tmp_path)) as made:
        hours_later = (0, 2 * HOUR_MS, 3 * HOUR_MS + 5)
        moments = [HOUR.end_ms - 1, *(HOUR.end_ms + later_ms for later_ms in hours_later)]
        receipts = [
            receive(Stamp(at_ms, number, 7), [event("acme", "sum", number)])
            for number, at_ms in enumerate(moments)
        ]
        for written in (receipts[:2], receipts[2:3], receipts[3:]):
            made.write(partial(log.write_receipts, receipts=written))
        yield made


def post_all(store: Store) -> None:
    while store.write(partial(recovery.post_some, parts=PARTS)).blocks:
        pass


def spans_of(txn: Transaction, spans_max: int) -> list[Span]:
    """Those that the log is cut into, without looking at them."""
    asked: list[Span] = []

    def run(spans: Sequence[Span], _: Checking) -> Iterator[Difference | SpanFound]:
        asked.extend(spans)
        return iter(())

    list(LogCheck(txn, PARTS, read_marks(txn), Checking(), run, spans_max).run())
    return asked


def test_it_is_cut_where_hours_with_events_begin(store: Store) -> None:
    """Of which the second begins within a record; all of it is in one span or another."""
    post_all(store)
    cuts = [HOUR.end_ms + 2 * HOUR_MS, HOUR.end_ms + 3 * HOUR_MS]
    with store.read() as txn:
        assert spans_of(txn, 1) == [Span(0)]
        # The record that begins the second hour is named by the first.
        assert spans_of(txn, 9) == [Span(0, cuts[0]), Span(cuts[0], cuts[1]), Span(cuts[1])]
        assert spans_of(txn, 2) == [Span(0, cuts[1]), Span(cuts[1])]


def test_it_is_not_cut_behind_what_is_posted(store: Store) -> None:
    """There a customer's events are counted up to one of them, which is told in one go."""
    with store.read() as txn:
        assert spans_of(txn, 9) == [Span(0)]
    store.write(lambda txn: journal.write_posted(txn, Stamp(HOUR.end_ms + 3 * HOUR_MS, 2, 7).id()))
    with store.read() as txn:
        assert len(spans_of(txn, 9)) == 3


def test_a_span_has_its_events_only(store: Store) -> None:
    """Those of a record, too, that began in the hour before."""
    post_all(store)
    ends: list[int | None] = [HOUR.end_ms, HOUR.end_ms + 3 * HOUR_MS, None]
    counts = []
    with store.read() as txn:
        for start_ms, end_ms in zip([0, *ends], ends, strict=False):
            checking = Checking()
            span = Span(start_ms or 0, end_ms)
            check = SpanCheck(txn, PARTS, read_marks(txn), span, checking)
            assert list(check.run()) == []
            assert check.found.by_customer == checking.counts["events"]
            counts.append((checking.counts["events"], len(check.found.hours)))
        assert stamp_of(txn.first_key("events", b"") or b"").received_ms < HOUR.end_ms
    assert counts == [(1, 1), (2, 2), (1, 1)]
