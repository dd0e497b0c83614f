"""How far the store says it has come is what it can have come."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.event_ids import ID_BYTES
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.embedded import journal, keys, records
from meterd.embedded.store import Store
from tests.embedded.engine_bench import running
from tests.embedded.sample_store import copied_sample, lines, put_totals, spoil, totals_of
from tests.ledger_bench import START_MS, at, event, rules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

HOUR = period_at(PeriodType.HOURLY, START_MS)
OPEN_HOUR = period_at(PeriodType.HOURLY, HOUR.start_ms + 40 * HOUR_MS)


def posted_beyond_the_log(txn: Transaction) -> None:
    txn.put("meta", keys.POSTED, b"\xff" * ID_BYTES)


def forgotten_beyond_what_is_posted(txn: Transaction) -> None:
    txn.put("meta", keys.FORGOTTEN, b"\xff" * ID_BYTES)


def forgotten_through_no_event(txn: Transaction) -> None:
    txn.put("meta", keys.FORGOTTEN, b"short")


def closed_within_a_period(txn: Transaction) -> None:
    until_ms = journal.closed_until_ms(txn, PeriodType.DAILY)
    txn.put("meta", keys.closed_key(PeriodType.DAILY), records.number(until_ms + HOUR_MS))


def closed_beyond_the_floor(txn: Transaction) -> None:
    until_ms = journal.closed_until_ms(txn, PeriodType.HOURLY)
    journal.write_floor(txn, until_ms - HOUR_MS)


def a_floor_within_an_hour(txn: Transaction) -> None:
    journal.write_floor(txn, journal.floor_ms(txn) + 1)


def a_floor_far_ahead(txn: Transaction) -> None:
    journal.write_floor(txn, at("2100-01-01T00:00"))


def a_floor_before_all_events(txn: Transaction) -> None:
    journal.write_floor(txn, at("2001-01-01T00:00"))


def unseen_beyond_what_is_closed(txn: Transaction) -> None:
    closed_ms = journal.all_closed_until_ms(txn)
    journal.write_unseen(txn, {**closed_ms, PeriodType.DAILY: closed_ms[PeriodType.DAILY] + 1})


def unseen_since_no_instant(txn: Transaction) -> None:
    journal.write_unseen(txn, {PeriodType.DAILY: 1 << 62})


def a_mark_of_nothing(txn: Transaction) -> None:
    txn.put("meta", b"mark", b"")


def set_closed(txn: Transaction, hour: object, *, closed: bool) -> None:
    assert isinstance(hour, type(HOUR))
    totals = totals_of(txn, hour, "b")
    put_totals(txn, hour, "b", msgspec.structs.replace(totals, closed=closed))


def an_hour_that_is_open_again(txn: Transaction) -> None:
    set_closed(txn, HOUR, closed=False)


def an_hour_that_is_closed_too_early(txn: Transaction) -> None:
    set_closed(txn, OPEN_HOUR, closed=True)


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (posted_beyond_the_log, "meta: posted: stands ffff"),
        (forgotten_beyond_what_is_posted, "meta: forgotten: stands ffff"),
        (forgotten_through_no_event, "should be an id"),
        (closed_within_a_period, "should be the end of a daily period"),
        (closed_beyond_the_floor, "meta: floor: stands "),
        (a_floor_within_an_hour, "should be the end of a period with events in it"),
        (a_floor_far_ahead, "meta: floor: stands 2100-01-01T00:00:00.000Z, should be the end of"),
        (a_floor_before_all_events, "should be the end of a period with events in it"),
        (unseen_beyond_what_is_closed, "meta: unseen:daily: stands"),
        (unseen_since_no_instant, "should be instants by period"),
        (a_mark_of_nothing, "meta: record mark: stands there, should be nothing"),
        (
            an_hour_that_is_open_again,
            f"customer b, hourly {HOUR.key}: state: stands open, should be closed",
        ),
        (
            an_hour_that_is_closed_too_early,
            f"customer b, hourly {OPEN_HOUR.key}: state: stands closed, should be open",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_it_is_found(tmp_path: Path, work: Callable[[Transaction], None], line: str) -> None:
    """And named."""
    data = copied_sample(tmp_path)
    spoil(data, work)
    assert line in "\n".join(lines(data))


async def test_half_a_closing_is_no_difference(tmp_path: Path) -> None:
    """A crash amid it leaves some customers closed and others open: the start closes the rest."""
    async with running(tmp_path) as bench:
        await bench.ledger.append([event(f"c{number}") for number in range(200)])
        bench.clock.now_ms += HOUR_MS
        await bench.cut_off(8, lambda: bench.ledger.close(HOUR, rules()))
        with closing(Store(bench.folder)) as store, store.read() as txn:
            found = [
                records.decode_totals(payload) for _, payload in txn.forward("totals", b"", b"")
            ]
        assert {totals.closed for totals in found} == {False, True}
        assert lines(bench.folder) == []
        await bench.restart()
