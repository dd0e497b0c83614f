"""What indexes name of deleted events goes, bit by bit, and nobody is ever told of it."""

from __future__ import annotations

import shutil
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.domain.periods import HOUR_MS
from meterd.embedded import journal, queries, records, sweeping
from meterd.embedded.store import PARTS, Store
from meterd.ledger import EventQuery
from tests.embedded.pruned_store import make_prunable, prune_all, sweep
from tests.embedded.sample_store import CUSTOMERS, checked, lines, spoil
from tests.ledger_bench import ALL, START_MS

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.domain.stored_events import StoredEvent
    from meterd.embedded.transaction import Transaction

BEFORE = START_MS // HOUR_MS * HOUR_MS + 12 * HOUR_MS


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of it; made once."""
    data = make_prunable(tmp_path_factory.mktemp("pruned"))
    prune_all(data, BEFORE)
    return data


@pytest.fixture
def data(pruned: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(pruned, tmp_path / "data")


def named(txn: Transaction) -> list[bytes]:
    """The blocks that customers' indexes name and that are gone."""
    through = journal.read_pruned(txn).through
    return [
        block_id
        for table in sweeping.TABLES
        for _, payload in txn.forward(table, b"", b"")
        for block_id in records.split_block_ids(payload)
        if block_id <= through
    ]


def events_by_customer(txn: Transaction) -> list[list[StoredEvent]]:
    """Newest first and oldest first, of each customer, also from a moment on that is gone."""
    found = []
    for customer_id in CUSTOMERS:
        for from_ms in (None, START_MS, BEFORE):
            for oldest_first in (False, True):
                query = EventQuery(customer_id, from_ms=from_ms, oldest_first=oldest_first)
                found.append(queries.read_events(txn, PARTS, query, ALL, None))
    return found


def test_a_round_lets_go_of_all_that_is_gone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a crash leaves it the store is sound, and customers' events are the same."""
    monkeypatch.setattr(sweeping, "RECORDS_AT_ONCE", 30)
    monkeypatch.setattr(sweeping, "NAMES_AT_ONCE", 9)
    monkeypatch.setattr(sweeping, "LOOKED_AT_ONCE", 40)
    with closing(Store(data)) as store, store.read() as txn:
        before, left = events_by_customer(txn), len(named(txn))
        going = sweeping.next_round(txn)
    assert left > 100
    assert all(before)
    sizes = []
    while going is not None and not going.is_over:
        with closing(Store(data)) as store:
            with store.read() as txn:
                found = sweeping.sweepable(txn, going)
            store.write(partial(sweeping.sweep, found=found))
            going = found.next
            with store.read() as txn:
                assert events_by_customer(txn) == before
                still = len(named(txn))
                assert still <= left
                sizes.append(left - still)
                left = still
        checked(data)
    assert left == 0
    assert len([one for one in sizes if one]) > 5
    with closing(Store(data)) as store, store.read() as txn:
        mark = journal.read_pruned(txn)
        assert (mark.swept, mark.swept_events) == (mark.through, mark.events)
        assert sweeping.next_round(txn) is None


def test_a_record_of_what_is_gone_and_what_is_left_is_split(data: Path) -> None:
    """A posting writes all blocks of a customer and type in one."""

    def bring_together(txn: Transaction) -> None:
        through = journal.read_pruned(txn).through
        of_name: dict[bytes, list[bytes]] = {}
        for key, payload in list(txn.forward("blocks_by_customer", b"", b"")):
            of_name.setdefault(key[:-ID_BYTES], []).extend(records.split_block_ids(payload))
            txn.delete("blocks_by_customer", key)
        assert sum(ids[0] <= through < ids[-1] for ids in of_name.values()) > 10
        for prefix, ids in of_name.items():
            txn.put("blocks_by_customer", prefix + ids[0], b"".join(ids))

    spoil(data, bring_together)
    with closing(Store(data)) as store:
        with store.read() as txn:
            before = events_by_customer(txn)
        store.write(sweep)
        with store.read() as txn:
            assert named(txn) == []
            assert events_by_customer(txn) == before
    checked(data)


def test_what_is_deleted_during_a_round_goes_with_it(data: Path) -> None:
    """And the mark says what was gone when it began: the next one looks for the rest."""
    with closing(Store(data)) as store, store.read() as txn:
        going = sweeping.next_round(txn)
    assert going is not None
    prune_all(data)
    with closing(Store(data)) as store:
        while not going.is_over:
            with store.read() as txn:
                found = sweeping.sweepable(txn, going)
            store.write(partial(sweeping.sweep, found=found))
            going = found.next
        with store.read() as txn:
            mark = journal.read_pruned(txn)
            assert (mark.swept, mark.swept_events) == (going.began.through, going.began.events)
            assert mark.swept < mark.through
            assert named(txn) == []
    checked(data)


def test_what_comes_while_it_is_read_stays(data: Path) -> None:
    """A posting of the same customer and type behind what is split."""
    with closing(Store(data)) as store:
        with store.read() as txn:
            going = sweeping.next_round(txn)
            assert going is not None
            found = sweeping.sweepable(txn, going)
        prefix = found.dropped[0][:-ID_BYTES]
        new = b"\xf0" * ID_BYTES
        store.write(lambda txn: txn.put("blocks_by_customer", prefix + new, new))
        store.write(lambda txn: sweeping.sweep(txn, found))
        with store.read() as txn:
            assert txn.get("blocks_by_customer", prefix + new) == new


def test_it_waits_until_it_is_worth_a_look_at_all(data: Path) -> None:
    """An eighth as many events deleted as the indexes have records; and none, with none."""

    def swept_but(txn: Transaction, events: int) -> None:
        before = journal.read_pruned(txn)
        mark = (before.through, before.until_ms, before.events, b"", before.events - events)
        journal.write_pruned(txn, records.Pruned(*mark))

    with closing(Store(data)) as store:
        with store.read() as txn:
            entries = sum(map(txn.count, sweeping.TABLES))
        for events in (0, entries // 8 - 1, -(-entries // 8)):
            store.write(partial(swept_but, events=events))
            with store.read() as txn:
                assert (sweeping.next_round(txn) is not None) == (events * 8 >= entries)


def test_nothing_is_swept_of_a_store_where_nothing_is_gone(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "data")) as store, store.read() as txn:
        assert sweeping.next_round(txn) is None


def test_what_a_round_has_left_shows(data: Path) -> None:
    """A check takes what is named behind the mark for what is to be swept, and nothing before."""
    assert lines(data) == []

    def leave_one(txn: Transaction) -> None:
        key, payload = next(txn.forward("blocks_by_customer", b"", b""))
        assert stamp_of(key[-ID_BYTES:]).id() <= journal.read_pruned(txn).through
        sweep(txn)
        txn.put("blocks_by_customer", key, payload[:ID_BYTES])

    spoil(data, leave_one)
    (line,) = lines(data)
    assert line.startswith("blocks_by_customer: customer ")
    assert line.endswith("stands there, should be nothing: no event of the block is counted there")


def test_entries_out_of_order_show_though_they_are_to_be_swept(data: Path) -> None:
    def turn(txn: Transaction) -> None:
        key = next(txn.keys_forward("blocks_by_customer", b"", b""))
        txn.put("blocks_by_customer", key, key[-ID_BYTES:] + bytes(ID_BYTES))

    spoil(data, turn)
    assert any("in order, the key's first" in line for line in lines(data))
