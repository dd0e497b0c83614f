"""Whatever was posted before a crash, a start makes of it what counting all in order would have."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.account import Account
from meterd.domain.event_ids import Stamp, next_stamp, position
from meterd.domain.hierarchy import NOTHING_CLOSED, takers
from meterd.domain.periods import HOUR_MS, Period, PeriodType, period_at
from meterd.domain.receipts import BLOCK_EVENTS, Receipt, group_by_customer, receive
from meterd.embedded import journal, keys, log, records, recovery
from meterd.embedded.store import PARTS, Store
from meterd.embedded.transaction import TABLES
from tests.domain.desk import Desk
from tests.embedded.engine_bench import post_rest
from tests.embedded.test_log import fresh_store
from tests.ledger_bench import START_MS, event, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd.domain.changes import Change
    from meterd.domain.events import UsageEvent
    from meterd.domain.totals import PeriodTotals
    from meterd.embedded.transaction import Transaction

T = TypeVar("T")

CUSTOMERS: Final = ("a", "b", "Ærø")
TYPES: Final = ("api", "disk")


@pytest.fixture
def store() -> Iterator[Store]:
    with fresh_store() as opened:
        yield opened


class Engine:
    """What the engine's actors do up to a crash, without their tasks.

    Events are counted at once, are in the log with the next commit, and are posted customer by
    customer, in any order and at any time.
    """

    def __init__(self, store: Store) -> None:
        with store.read() as txn:
            self._last = log.last_stamp(txn) or Stamp(0, 0, 7)
            self.now_ms = max(START_MS, self._last.received_ms, journal.floor_ms(txn))
        self.logged: list[Receipt] = []
        self._store = store
        self._unwritten: list[Receipt] = []
        self._accounts: dict[str, Account] = {}
        self._mark: tuple[bytes, list[str]] | None = None

    def append(self, events: list[UsageEvent]) -> None:
        stamp = next_stamp(self._last, len(events), self.now_ms, nonce=7)
        self._last = stamp.later(len(events) - 1)
        receipt = receive(stamp, events)
        self._unwritten.append(receipt)
        for customer_id, offsets in group_by_customer(events).items():
            account = self._accounts.setdefault(customer_id, Account(customer_id))
            self._take_in_hand(account, receipt.hour)
            account.append(receipt, offsets, NOTHING_CLOSED)

    def commit(
        self, *changes: Change, work: Callable[[Transaction], None] = lambda _: None
    ) -> None:
        """The log first, as the committer does."""

        def write(txn: Transaction) -> None:
            log.write_receipts(txn, self._unwritten)
            journal.write_changes(txn, changes, PARTS)
            work(txn)

        self._store.write(write)
        self.logged += self._unwritten
        self._unwritten = []
        for change in changes:
            self._accounts[change.customer_id].committed(change)

    def post(self, *customers: str) -> None:
        accounts = [self._accounts[name] for name in customers if name in self._accounts]
        changes = [change for one in accounts if (change := one.take_change()) is not None]
        self.commit(*changes)

    def begin_posting_all(self) -> None:
        """From here on, what comes is behind the mark."""
        self._mark = self._last.id(), list(self._accounts)

    def end_posting_all(self) -> None:
        if self._mark is not None:
            mark, customers = self._mark
            self.post(*customers)
            self.commit(work=partial(journal.write_posted, through=mark))
            self._mark = None

    def close_hour(self) -> None:
        """The hour ends, all is posted, and every customer's hour is closed; the mark stays."""
        hour = period_at(PeriodType.HOURLY, self.now_ms)
        self.now_ms = hour.end_ms
        self.commit(work=partial(journal.write_floor, floor_ms=hour.end_ms))
        self.post(*self._accounts)
        for account in self._accounts.values():
            self._take_in_hand(account, hour, *takers(hour))
            account.close(hour, rules(), hour.end_ms, Desk())
        self.post(*self._accounts)

    def _take_in_hand(self, account: Account, *periods: Period) -> None:
        part = keys.part_of(account.customer_id, PARTS)
        with self._store.read() as txn:
            for period in periods:
                if account.lacks(period):
                    found = journal.read_totals(txn, part, period, account.customer_id)
                    account.restore(period, found)


# What happens before a crash


class Appends(NamedTuple):
    """So much later, events of these customers and types, as many times over."""

    after_ms: int
    events: list[tuple[str, str]]
    times: int


class Posts(NamedTuple):
    """One customer."""

    customer_id: str


STEPS: Final = st.lists(
    st.one_of(
        st.builds(
            Appends,
            st.sampled_from([0, 0, 0, 1, HOUR_MS]),
            st.lists(
                st.tuples(st.sampled_from(CUSTOMERS), st.sampled_from(TYPES)),
                min_size=1,
                max_size=4,
            ),
            st.sampled_from([1, 1, 1, 30, 70]),
        ),
        st.builds(Posts, st.sampled_from(CUSTOMERS)),
        st.sampled_from([Engine.commit, Engine.begin_posting_all, Engine.end_posting_all]),
        st.just(Engine.close_hour),
    ),
    min_size=1,
    max_size=20,
)
AT_ONCE: Final = st.sampled_from([1, 2, 3, 5, 2000])


def live(store: Store, steps: list[Any]) -> list[Receipt]:
    """Takes the steps up to the crash; what was in the log by then."""
    engine, number = Engine(store), 0
    for step in steps:
        match step:
            case Appends(after_ms, found, times):
                engine.now_ms += after_ms
                values = range(number, number + len(found) * times)
                number = values.stop
                events = [
                    event(*names, value) for names, value in zip(found * times, values, strict=True)
                ]
                engine.append(events)
            case Posts(customer_id):
                engine.post(customer_id)
            case _:
                step(engine)
    return engine.logged


def recover(store: Any, at_once: int = 2000) -> int:
    """With transactions of so many blocks."""
    with patch.object(recovery, "_BLOCKS_AT_ONCE", at_once):
        return post_rest(store)


# What must be there then


class Counted(NamedTuple):
    """Totals by hand: an hour's events of one customer and type."""

    events: int
    sum: Decimal
    least: Decimal
    greatest: Decimal
    first: tuple[Decimal, bytes]
    last: tuple[Decimal, bytes]


Hours = dict[tuple[str, Period, str], Counted]
Index = dict[tuple[str, str], list[bytes]]


def counted_by_hand(receipts: list[Receipt]) -> Hours:
    events = defaultdict(list)
    for receipt in receipts:
        for offset, one in enumerate(receipt.events):
            at = position(receipt.received_ms, receipt.stamp.id(offset))
            events[one.customer_id, receipt.hour, one.event_type].append((one.value, at))
    return {
        place: Counted(
            len(found),
            sum((value for value, _ in found), Decimal(0)),
            min(value for value, _ in found),
            max(value for value, _ in found),
            found[0],
            found[-1],
        )
        for place, found in events.items()
    }


def indexed_by_hand(receipts: list[Receipt]) -> Index:
    blocks: dict[tuple[str, str], dict[bytes, None]] = defaultdict(dict)
    for receipt in receipts:
        for offset, one in enumerate(receipt.events):
            first = receipt.stamp.id(offset // BLOCK_EVENTS * BLOCK_EVENTS)
            blocks[one.customer_id, one.event_type][first] = None
    return {place: list(found) for place, found in blocks.items()}


def first_seen_by_hand(receipts: list[Receipt]) -> dict[str, int]:
    """The moment of every customer's first event."""
    return {
        one.customer_id: receipt.received_ms
        for receipt in reversed(receipts)
        for one in receipt.events
    }


def stored_totals(txn: Transaction) -> Iterator[tuple[Period, str, PeriodTotals]]:
    for key, payload in txn.forward("totals", b"", b""):
        yield (
            keys.totals_period(key),
            keys.totals_customer(key),
            records.decode_totals(payload),
        )


def stored_hours(txn: Transaction) -> Hours:
    return {
        (customer_id, period, name): Counted(
            found.count,
            found.sum,
            found.min,
            found.max,
            (found.first, found.first_at),
            (found.last, found.last_at),
        )
        for period, customer_id, totals in stored_totals(txn)
        if period.type is PeriodType.HOURLY
        for name, found in totals.by_type.items()
    }


def final_totals(store: Store) -> list[tuple[Period, str, PeriodTotals]]:
    """What nothing may change any more: closed hours, and the days that they went into."""
    with store.read() as txn:
        return [
            found
            for found in stored_totals(txn)
            if found[2].closed or found[0].type is not PeriodType.HOURLY
        ]


def stored_index(txn: Transaction) -> Index:
    index: Index = defaultdict(list)
    for key, payload in txn.forward("blocks_by_customer", b"", b""):
        customer_id, event_type, _ = key[1:].split(keys.END, 2)
        blocks = records.split_block_ids(payload)
        assert key.endswith(blocks[0])
        index[customer_id.decode(), event_type.decode()] += blocks
    return dict(index)


def stored_customers(txn: Transaction) -> dict[str, int]:
    return {
        key[1:].decode(): records.read_number(payload)
        for key, payload in txn.forward("customers", b"", b"")
    }


def check(store: Store, receipts: list[Receipt]) -> None:
    """Totals, indexes and customers are those of the whole log, and the mark is at its end."""
    with store.read() as txn:
        assert stored_hours(txn) == counted_by_hand(receipts)
        assert stored_index(txn) == indexed_by_hand(receipts)
        assert stored_customers(txn) == first_seen_by_hand(receipts)
        assert not receipts or journal.posted_through(txn) == receipts[-1].last_id


def everything(store: Store) -> dict[str, list[tuple[bytes, bytes]]]:
    with store.read() as txn:
        return {table: list(txn.forward(table, b"", b"")) for table in TABLES if table != "meta"}


@given(STEPS, AT_ONCE)
def test_the_rest_is_posted_and_nothing_twice(steps: list[Any], at_once: int) -> None:
    """Whichever customers were posted when, and however many blocks go into a transaction.

    Closed hours, though the mark may be before them, are passed over; a second run finds nothing.
    """
    with fresh_store() as store:
        receipts = live(store, steps)
        final = final_totals(store)
        recover(store, at_once)
        check(store, receipts)
        assert final_totals(store) == final
        posted = everything(store)
        assert recover(store, at_once) == 0
        assert everything(store) == posted


class PowerCutError(Exception):
    """The machine went off."""


class CutStore:
    """A store whose power goes off at a write: before it, just before its commit, or behind it."""

    def __init__(self, store: Store, writes: int, moment: str) -> None:
        self.parts = store.parts
        self._store = store
        self._writes = writes
        self._moment = moment

    def write(self, work: Callable[[Transaction], T]) -> T:
        self._writes -= 1
        if self._writes >= 0:
            return self._store.write(work)

        def cut_off(txn: Transaction) -> None:
            work(txn)
            raise PowerCutError

        match self._moment:
            case "amid":
                self._store.write(cut_off)
            case "behind":
                self._store.write(work)
        raise PowerCutError


@given(
    STEPS,
    AT_ONCE,
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["before", "amid", "behind"])), max_size=4
    ),
)
def test_a_crash_while_the_rest_is_posted_costs_nothing(
    steps: list[Any], at_once: int, cuts: list[tuple[int, str]]
) -> None:
    """At whichever transactions, and however often."""
    with fresh_store() as store:
        receipts = live(store, steps)
        for writes, moment in cuts:
            with suppress(PowerCutError):
                recover(CutStore(store, writes, moment), at_once)
        recover(store)
        check(store, receipts)


@given(STEPS, STEPS, AT_ONCE)
def test_what_comes_after_a_start_is_recovered_as_well(
    before: list[Any], after: list[Any], at_once: int
) -> None:
    """The next engine counts on from what was posted, and its crash is mended as the first was."""
    with fresh_store() as store:
        receipts = live(store, before)
        recover(store, at_once)
        receipts += live(store, after)
        final = final_totals(store)
        recover(store, at_once)
        check(store, receipts)
        assert final_totals(store) == final


def test_of_an_empty_store_nothing_is_posted(store: Store) -> None:
    """A first start writes no mark."""
    assert recover(store) == 0
    with store.read() as txn:
        assert journal.posted_through(txn) == b""
