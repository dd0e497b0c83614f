"""The log gives back what was appended, event for event, from wherever it is read."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.event_ids import COUNTER_LIMIT, ID_BYTES, Stamp, next_stamp, stamp_of
from meterd.domain.receipts import BLOCK_EVENTS, Receipt, receive
from meterd.embedded import keys, log, records
from meterd.embedded.store import Store
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meterd.domain.events import UsageEvent
    from meterd.embedded.transaction import Transaction

B: Final = BLOCK_EVENTS
TYPES: Final = ("api", "api.calls", "disk")


@contextmanager
def fresh_store() -> Iterator[Store]:
    """One for each example: a fixture would be shared by all."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "data")
        try:
            yield store
        finally:
            store.close()


@pytest.fixture
def store() -> Iterator[Store]:
    with fresh_store() as opened:
        yield opened


class Arrival(NamedTuple):
    """How an append comes: so much later, of so many events, first in its transaction or not."""

    after_ms: int
    events: int
    is_first: bool


APPENDS: Final = st.lists(
    st.builds(
        Arrival,
        st.sampled_from([0, 0, 0, 1, 3_600_000]),
        st.one_of(
            st.integers(1, 3),
            st.sampled_from([full * B + more for full in (1, 2) for more in (-1, 0, 1)]),
            st.just(3 * B + 8),
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)
# The last ones make the counter begin again.
FIRST_STAMPS: Final = st.builds(
    Stamp,
    st.just(START_MS),
    st.sampled_from([0, (1 << 18) - 70, COUNTER_LIMIT - 300, COUNTER_LIMIT - 4]),
    st.just(7),
)


def transactions_of(arrivals: Iterable[Arrival], last: Stamp) -> list[list[Receipt]]:
    """The receipts, by transaction. Every event has a value of its own; types take turns."""
    transactions: list[list[Receipt]] = [[]]
    number = 0
    for after_ms, events, is_first in arrivals:
        stamp = next_stamp(last, events, last.received_ms + after_ms, last.nonce)
        last = stamp.later(events - 1)
        found = [
            event(f"c{n % 4}", TYPES[n // 5 % 3], n, b'{"n": %d}' % n)
            for n in range(number, number + events)
        ]
        number += events
        if is_first:
            transactions.append([])
        transactions[-1].append(receive(stamp, found))
    return transactions


def write(store: Store, transactions: Iterable[list[Receipt]]) -> None:
    for receipts in transactions:
        store.write(partial(log.write_receipts, receipts=receipts))


def records_in(txn: Transaction) -> list[tuple[bytes, list[records.LoggedBlock[UsageEvent]]]]:
    return [
        (record_id, records.decode_record(payload))
        for record_id, payload in txn.forward("events", b"", b"")
    ]


MS: Final = "the next millisecond"
COMMIT: Final = "the next transaction"


@pytest.mark.parametrize(
    ("appends", "stored"),
    [
        ([3], [[3]]),
        ([3, 3, 1], [[3, 3, 1]]),
        # a record is of one transaction, whenever its events came
        ([3, MS, 3], [[3, 3]]),
        ([3, 3, MS, 1, 1, MS, 1], [[3, 3, 1, 1, 1]]),
        ([3, 3, COMMIT, 1], [[3, 3], [1]]),
        # a record is full with the block that brings it to as many events as a block may have
        ([B, 1], [[B], [1]]),
        ([B - 1, 1, 1], [[B - 1, 1], [1]]),
        ([B - 1, 2, 1], [[B - 1, 2], [1]]),
        ([B - 1, B, 1], [[B - 1, B], [1]]),
        ([B // 2, B // 2 - 1, 1, 1], [[B // 2, B // 2 - 1, 1], [1]]),
        ([3 * B + 8], [[B], [B], [B], [8]]),
        ([3 * B + 8, B - 14, 6, 1], [[B], [B], [B], [8, B - 14, 6], [1]]),
        ([1, 3 * B + 8], [[1, B], [B], [B], [8]]),
        ([1, B + 1, MS, 1], [[1, B], [1, 1]]),
    ],
)
def test_records_hold_whole_blocks(
    store: Store, appends: list[int | str], stored: list[list[int]]
) -> None:
    """Of one transaction, until they are full; told by their blocks' sizes."""
    arrivals: list[Arrival] = []
    after_ms, is_first = 0, True
    for append in appends:
        if isinstance(append, int):
            arrivals.append(Arrival(after_ms, append, is_first))
        after_ms, is_first = int(append == MS), append == COMMIT
    write(store, transactions_of(arrivals, Stamp(START_MS, 0, 7)))
    with store.read() as txn:
        found = [[len(block.events) for block in blocks] for _, blocks in records_in(txn)]
    assert found == stored


@given(APPENDS, FIRST_STAMPS)
def test_any_mix_of_appends_reads_back_event_for_event(
    arrivals: list[Arrival], first: Stamp
) -> None:
    """With ids, in the order of receipt; counted; and the last one's stamp is known."""
    transactions = transactions_of(arrivals, first)
    receipts = [receipt for transaction in transactions for receipt in transaction]
    with fresh_store() as store:
        write(store, transactions)
        with store.read() as txn:
            found = list(log.blocks_from(txn, b""))
            appends = list(log.appends_from(txn, b""))
            last = log.last_stamp(txn)
            assert log.count_events(txn) == sum(arrival.events for arrival in arrivals)
    assert [block.id for block in found] == [one for each in receipts for one in each.blocks]
    assert [one for block in found for one in block.events] == [
        one for receipt in receipts for one in receipt.events
    ]
    assert appends == receipts
    assert last is not None
    assert last.id() == receipts[-1].last_id


@given(APPENDS, FIRST_STAMPS, st.data())
def test_it_is_read_from_behind_any_id(
    arrivals: list[Arrival], first: Stamp, data: st.DataObject
) -> None:
    """In the middle of an append or a block, too: a mark lies before an event whose key is not in
    the index yet.
    """
    transactions = transactions_of(arrivals, first)
    receipts = [receipt for transaction in transactions for receipt in transaction]
    ids = [one.stamp.id(offset) for one in receipts for offset in range(len(one.events))]
    after = data.draw(st.sampled_from([b"", *ids]), label="after")
    with fresh_store() as store:
        write(store, transactions)
        with store.read() as txn:
            appends = list(log.appends_from(txn, after))
            found = list(log.blocks_from(txn, after))
    assert appends == [receipt for receipt in receipts if receipt.last_id > after]
    assert [block.id for block in found] == [
        receipt.blocks[start // B]
        for receipt in receipts
        for start in range(0, len(receipt.events), B)
        if receipt.stamp.id(min(start + B, len(receipt.events)) - 1) > after
    ]


@given(APPENDS, FIRST_STAMPS)
def test_the_record_of_a_block_is_the_last_that_does_not_begin_after_it(
    arrivals: list[Arrival], first: Stamp
) -> None:
    """Records never overlap, so an index needs nothing but the block's id."""
    transactions = transactions_of(arrivals, first)
    with fresh_store() as store:
        write(store, transactions)
        with store.read() as txn:
            held = {
                record_id: [first_of(record_id, block) for block in blocks]
                for record_id, blocks in records_in(txn)
            }
            for transaction in transactions:
                for receipt in transaction:
                    for block_id in receipt.blocks:
                        record_id = txn.last_key("events", block_id)
                        assert record_id is not None
                        assert block_id in held[record_id]


@given(APPENDS, FIRST_STAMPS, st.data())
def test_any_choice_of_blocks_is_read(
    arrivals: list[Arrival], first: Stamp, chosen: st.DataObject
) -> None:
    """Each as it is read alone, and of ids of no block nothing."""
    transactions = transactions_of(arrivals, first)
    known = [one for receipts in transactions for receipt in receipts for one in receipt.blocks]
    appends = {receipt.blocks[0] for receipts in transactions for receipt in receipts}
    ids = chosen.draw(st.sets(st.sampled_from([b"", *known, *map(next_id, known)])))
    with fresh_store() as store:
        write(store, transactions)
        with store.read() as txn:
            found = list(log.blocks(txn, sorted(ids)))
            assert [one.id for one in found] == sorted(ids.intersection(known))
            for one in found:
                assert one.stamp == stamp_of(one.id)
                assert one.events == log.block(txn, one.id)
                assert one.append_id in appends


def next_id(block_id: bytes) -> bytes:
    """The next there can be, which is no block's."""
    return (int.from_bytes(block_id, "big") + 1).to_bytes(ID_BYTES, "big")


def first_of(record_id: bytes, block: records.LoggedBlock[UsageEvent]) -> bytes:
    """The block's id, from its record's."""
    return block.stamp(stamp_of(record_id)).id()


@given(APPENDS, FIRST_STAMPS)
def test_every_type_finds_its_records(arrivals: list[Arrival], first: Stamp) -> None:
    """Each once, and no others."""
    with fresh_store() as store:
        write(store, transactions_of(arrivals, first))
        with store.read() as txn:
            expected = {
                keys.record_by_type(one.event_type, record_id)
                for record_id, blocks in records_in(txn)
                for block in blocks
                for one in block.events
            }
            assert set(txn.keys_forward("records_by_type", b"", b"")) == expected


def test_of_an_empty_log_nothing_is_known(store: Store) -> None:
    """Nor is anything written where nothing came."""
    write(store, [[], []])
    with store.read() as txn:
        assert log.last_stamp(txn) is None
        assert log.count_events(txn) == 0
        assert list(log.appends_from(txn, b"")) == []
        assert txn.get("meta", keys.EVENTS) is None
