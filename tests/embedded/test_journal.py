"""A change is written whole, and read back by whoever goes on from it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from meterd.domain.account import Account
from meterd.domain.changes import Change
from meterd.domain.event_ids import ID_BYTES, Stamp
from meterd.domain.hierarchy import NOTHING_CLOSED
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.receipts import receive
from meterd.embedded import journal, records
from meterd.embedded.keys import blocks_prefix, customer_key, part_of
from meterd.embedded.store import PARTS, Store
from tests.domain.desk import Desk
from tests.ledger_bench import START_MS, event, rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = period_at(PeriodType.HOURLY, START_MS)
DAY = period_at(PeriodType.DAILY, START_MS)
FULL = journal._BLOCKS_BYTES_MAX // ID_BYTES


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def change_of(customer_id: str, *, events: int = 1, at_ms: int = START_MS) -> Change:
    """Of an append of so many events, where nothing was stored of the hour."""
    receipt = receive(Stamp(at_ms, 0, 0), [event(customer_id)] * events)
    account = Account(customer_id)
    account.restore(receipt.hour, None)
    account.append(receipt, list(range(events)), NOTHING_CLOSED)
    change = account.take_change()
    assert change is not None
    return change


def write(store: Store, *changes: Change) -> None:
    store.write(lambda txn: journal.write_changes(txn, changes, PARTS))


def test_totals_index_and_customer_are_written_together(store: Store) -> None:
    """A customer is known from its first event on, and since then."""
    part = part_of("acme", PARTS)
    write(store, change_of("acme", events=130), change_of("b"))
    write(store, change_of("acme", events=2, at_ms=START_MS + HOUR_MS))
    with store.read() as txn:
        assert txn.count("customers") == 2
        assert txn.get("customers", customer_key(part, "acme")) == records.number(START_MS)
        assert txn.count("totals") == txn.count("blocks_by_customer") == 3
        totals = journal.read_totals(txn, part, HOUR, "acme")
        assert totals is not None
        assert totals.by_type["sum"].count == 130
        assert totals.through == Stamp(START_MS, 129, 0).id()
        assert journal.read_totals(txn, part, DAY, "acme") is None
        assert txn.count("events") == 0, "the log is written by itself"


@pytest.mark.parametrize(
    ("blocks", "found"),
    [
        (1, [1]),
        (2, [2]),
        (FULL - 1, [FULL - 1]),
        (FULL, [FULL]),
        (FULL + 1, [FULL, 1]),
        (2 * FULL, [FULL, FULL]),
        (2 * FULL + 44, [FULL, FULL, 44]),
    ],
)
def test_an_index_record_has_only_so_many_blocks(
    store: Store, blocks: int, found: list[int]
) -> None:
    """It stands under the first of them, and together they give all, in order; by type."""
    ids = [Stamp(START_MS + number, number, 7).id() for number in range(blocks)]
    index = {"sum": bytearray(b"".join(ids)), "max": bytearray(ids[0])}
    write(store, Change("acme", blocks=index))
    prefix = blocks_prefix(part_of("acme", PARTS), "acme", "sum")
    with store.read() as txn:
        entries = [
            (key, records.split_block_ids(payload))
            for key, payload in txn.forward("blocks_by_customer", prefix, prefix)
        ]
        assert txn.count("blocks_by_customer") == len(found) + 1
    assert [len(held) for _, held in entries] == found
    assert [key for key, _ in entries] == [prefix + held[0] for _, held in entries]
    assert [block_id for _, held in entries for block_id in held] == ids


def test_how_far_is_posted(store: Store) -> None:
    """What was written last; nothing in a new store."""
    with store.read() as txn:
        assert journal.posted_through(txn) == b""
    for counter in (1, 200):
        mark = Stamp(START_MS, counter, 7).id()
        store.write(partial(journal.write_posted, through=mark))
        with store.read() as txn:
            assert journal.posted_through(txn) == mark


def test_a_key_keeps_the_fingerprint_that_it_was_written_with(store: Store) -> None:
    """A later meterd may make another of the same event; another event is a mistake of ours."""
    used, again, other = (
        records.used_key(Stamp(START_MS, number, 0).id(), fingerprint)
        for number, fingerprint in ((0, b"1"), (0, b"2"), (1, b"1"))
    )
    for record in (used, again):
        store.write(partial(journal.write_used_key, key=b"k", record=record))
    with store.read() as txn:
        assert txn.get("idempotency_keys", b"k") == used
    with pytest.raises(AssertionError, match="a key is used twice"):
        store.write(partial(journal.write_used_key, key=b"k", record=other))


def test_a_closed_change_writes_aggregation_and_deliveries(store: Store) -> None:
    """The aggregation by period and by customer, and each delivery with its place in the queue."""
    account = Account("acme")
    for period in (HOUR, DAY):
        account.restore(period, None)
    account.append(receive(Stamp(START_MS, 0, 0), [event()]), [0], NOTHING_CLOSED)
    closed = account.close(HOUR, rules(endpoints=("billing", "crm")), HOUR.end_ms, Desk())
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
        # What comes before it in the order of closing is closed too, with events or without.
        midnight = period_at(PeriodType.DAILY, START_MS).start_ms
        assert journal.closed_until_ms(txn, PeriodType.DAILY) == midnight


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
