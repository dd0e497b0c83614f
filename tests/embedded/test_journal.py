"""A change is written whole, and read back by whoever goes on from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meterd.domain.account import Account, PlacedEvent
from meterd.domain.event_ids import Stamp
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.embedded import journal
from meterd.embedded.keys import part_of
from meterd.embedded.store import PARTS, Store
from tests.ledger_bench import START_MS, event, rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.domain.account import Change

HOUR = period_at(PeriodType.HOURLY, START_MS)
DAY = period_at(PeriodType.DAILY, START_MS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def change_of(customer_id: str, *, events: int = 1, at_ms: int = START_MS) -> Change:
    account = Account(customer_id, part_of(customer_id, PARTS))
    account.restore(period_at(PeriodType.HOURLY, at_ms), None)
    account.append(
        Stamp(at_ms, 0, 0), [PlacedEvent(offset, event(customer_id)) for offset in range(events)]
    )
    change = account.take_change()
    assert change is not None
    return change


def write(store: Store, *changes: Change) -> None:
    store.write(lambda txn: journal.write_changes(txn, changes, PARTS))


def test_events_and_totals_are_written_together(store: Store) -> None:
    """The count of events is that of all changes; customers are known from their first event."""
    write(store, change_of("acme", events=3), change_of("b"))
    write(store, change_of("acme", events=2, at_ms=START_MS + HOUR_MS))
    with store.read() as txn:
        assert journal.count_events(txn) == 6
        assert txn.count("customers") == 2
        assert txn.count("events") == txn.count("event_times") == 3
        totals = journal.read_totals(txn, part_of("acme", PARTS), HOUR, "acme")
        assert totals is not None
        assert totals.by_type["sum"].count == 3
        assert journal.read_totals(txn, part_of("acme", PARTS), DAY, "acme") is None


def test_a_closed_change_writes_aggregation_and_deliveries(store: Store) -> None:
    """The aggregation by period and by customer, and each delivery with its place in the queue."""
    account = Account("acme", part_of("acme", PARTS))
    for period in (HOUR, DAY):
        account.restore(period, None)
    account.append(Stamp(START_MS, 0, 0), [PlacedEvent(0, event())])
    closed = account.close(HOUR, rules(endpoints=("billing", "crm")), HOUR.end_ms, None)
    change = account.take_change()
    assert change is not None
    write(store, change)
    with store.read() as txn:
        assert journal.read_aggregation(txn, part_of("acme", PARTS), HOUR, "acme") == closed
        counts = [
            txn.count(table)
            for table in ("aggregations", "customer_periods", "deliveries", "outbox", "totals")
        ]
    assert counts == [1, 1, 2, 2, 2]


def test_the_next_to_close_is_behind_what_is_closed(store: Store) -> None:
    """In whichever part it lies; what was closed stays so when an earlier one is named again."""
    later = period_at(PeriodType.HOURLY, START_MS + HOUR_MS)
    for number in range(40):
        write(store, change_of(f"c{number}", at_ms=START_MS + number % 2 * HOUR_MS))

    def closing() -> object:
        with store.read() as txn:
            return journal.next_to_close(txn, PARTS)

    assert closing() == HOUR
    store.write(lambda txn: journal.write_closed(txn, HOUR))
    assert closing() == later
    store.write(lambda txn: journal.write_closed(txn, later))
    assert closing() is None
    store.write(lambda txn: journal.write_closed(txn, HOUR))
    assert closing() is None
    with store.read() as txn:
        assert journal.closed_until_ms(txn, PeriodType.HOURLY) == later.end_ms
        assert journal.closed_until_ms(txn, PeriodType.DAILY) == 0


def test_customers_of_a_period_come_in_pages(store: Store) -> None:
    """Each once, in the order of their ids, also where one id begins like another."""
    names = ["a", "a!", "a1", "a10", "a2", "b", "ø"]
    part = part_of("a", 1)
    changes = [change_of(name) for name in names]
    store.write(lambda txn: journal.write_changes(txn, changes, parts=1))
    for size in range(1, len(names) + 2):
        found: list[str] = []
        with store.read() as txn:
            while page := journal.customers_in(txn, part, HOUR, found[-1] if found else None, size):
                assert len(page) <= size
                found += page
            assert journal.customers_in(txn, part, DAY, None, size) == []
        assert found == names
