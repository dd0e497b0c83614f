"""Which events are deleted, that a store without them is sound, and that one too many shows."""

from __future__ import annotations

import shutil
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.event_ids import stamp_of
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.embedded import journal, keys, log, pruning, records
from meterd.embedded.store import PARTS, Store
from tests.embedded.engine_bench import running
from tests.embedded.proved import prove_in
from tests.embedded.pruned_store import (
    ALL_PERIODS,
    HOURS,
    LATER,
    found_in,
    make_prunable,
    prunable,
    prune_all,
    sweep,
)
from tests.embedded.sample_store import checked, lines, spoil
from tests.ledger_bench import EVERY_EVENT, START_MS, close_ended, event

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

BEFORE = START_MS // HOUR_MS * HOUR_MS + 12 * HOUR_MS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once."""
    return make_prunable(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "data")


def test_a_store_is_sound_with_each_portion_that_is_deleted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a crash leaves it; all that may go goes."""
    before = checked(data)
    assert before["pruned events"] == 0
    monkeypatch.setattr(pruning, "TOUCHED_AT_ONCE", 40)
    pruned = 0
    while True:
        with closing(Store(data)) as store:
            if not (found := found_in(store)).events:
                break
            store.write(partial(pruning.prune, found=found))
        pruned += found.events
        after = checked(data)
        assert after["pruned events"] == pruned
        assert after["events"] == before["events"] - pruned
        assert found.events < 300
    assert pruned == before["events"] - 73
    with closing(Store(data)) as store, store.read() as txn:
        assert txn.count("voids") == 0
        last_ms = START_MS // HOUR_MS * HOUR_MS + HOURS * HOUR_MS
        assert journal.read_pruned(txn).until_ms == last_ms + HOUR_MS
        assert log.count_events(txn) == before["events"]
    assert checked(data)["totals"] == before["totals"]


def test_a_beginning_goes(data: Path) -> None:
    """What came before an hour, with all that happened before it."""
    before = checked(data)
    pruned = sum(prune_all(data, BEFORE))
    after = checked(data)
    assert after["events"] == before["events"] - pruned
    assert pruned == 12 * 73
    with closing(Store(data)) as store, store.read() as txn:
        first = txn.first_key("events", b"")
        assert first is not None
        assert stamp_of(first).received_ms >= BEFORE - 400_000
        assert journal.read_pruned(txn).until_ms == BEFORE


def test_what_is_pruned_is_proved_by_its_digest(data: Path) -> None:
    """All that was published still leads to the digests that were sent; and of what is left, to its
    events. It is the same whether or not indexes still name what is gone.
    """
    before = prove_in(data)
    prune_all(data, BEFORE)
    after = prove_in(data)
    spoil(data, sweep)
    assert prove_in(data) == after
    assert after.keys() == before.keys()
    gone = {name for name, one in after.items() if one.pruned}
    for name, one in before.items():
        assert after[name].digest == one.digest
        assert after[name] == one or name in gone
    hours = {one.rpartition(" ")[2] for name in gone for one in after[name].pruned}
    assert hours == {f"202601{14 + hour // 24}{hour % 24:02}" for hour in range(8, 23)}
    assert {name.rpartition("_")[2] for name in gone} == {
        *hours,
        "20260114",
        "202603",
        "202601",
        "2026",
    }


async def test_ids_go_on_where_the_whole_log_is_gone(tmp_path: Path) -> None:
    """Received time and counter never go back, though no event is left to tell of them."""
    async with running(tmp_path) as bench:
        await bench.ledger.append([event(value=1)])
        (stored,) = await bench.ledger.events(EVERY_EVENT, limit=1)
        await close_ended(bench, ALL_PERIODS, clock_ms=LATER)
        while await bench.ledger.forget_keys(before_ms=LATER):
            pass
        assert await bench.ledger.prune_events(before_ms=LATER, ended_ms=LATER) == 1
        with bench.store.read() as txn:
            last = log.last_stamp(txn)
        assert last is not None
        assert last == stamp_of(stored.id)
        await bench.restart()
        assert bench.ledger._last == last


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_what_waits_to_be_revised_is_found_in_portions(
    data: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """The first of them, in whichever portion it is: there may be very many."""
    monkeypatch.setattr(pruning, "LATE_AT_ONCE", at_once)
    hours = (5, 3, 1, 4, 2)
    with closing(Store(data)) as store:
        for place, hour in enumerate(hours):
            period = period_at(PeriodType.HOURLY, hour * HOUR_MS)
            key = keys.late_key(place, 0, period, "acme")
            store.write(lambda txn, key=key: txn.put("late", key, b""))  # type: ignore[misc]
        found: list[float] = []
        start: bytes | None = b""
        while start is not None:
            with store.read() as txn:
                first_ms, start = pruning.first_to_revise(txn, start)
            found.append(first_ms)
    assert min(found) == HOUR_MS
    assert len(found) == -(-len(hours) // at_once)


def mark(txn: Transaction, **changed: object) -> None:
    journal.write_pruned(txn, msgspec.structs.replace(journal.read_pruned(txn), **changed))


def an_event_too_many_is_gone(txn: Transaction) -> None:
    """A record of the log behind the mark, with its indexes."""
    before = journal.read_pruned(txn)
    pruning.prune(txn, prunable(txn))
    sweep(txn)
    journal.write_pruned(txn, before)


def a_pruned_event_is_there(txn: Transaction) -> None:
    first = txn.first_key("events", b"")
    assert first is not None
    payload = txn.get("events", first)
    assert payload is not None
    earlier = stamp_of(journal.read_pruned(txn).through)
    txn.put("events", earlier.id(), payload)


def an_index_names_what_is_gone(txn: Transaction) -> None:
    sweep(txn)
    prefix = keys.blocks_prefix(keys.part_of("acme", PARTS), "acme", "sum")
    gone = stamp_of(journal.read_pruned(txn).through).id()
    txn.put("blocks_by_customer", prefix + gone, gone)


def a_void_of_what_is_gone(txn: Transaction) -> None:
    found = txn.first_key("voids", b"")
    assert found is not None
    payload = txn.get("voids", found)
    assert payload is not None
    txn.put("voids", journal.read_pruned(txn).through, payload)


def more_swept_than_is_gone(txn: Transaction) -> None:
    mark(txn, swept=b"\xff" * 16)


def more_gone_than_said(txn: Transaction) -> None:
    mark(txn, events=journal.read_pruned(txn).events - 1)


def gone_from_an_open_year(txn: Transaction) -> None:
    mark(txn, until_ms=LATER)


def gone_within_an_hour(txn: Transaction) -> None:
    mark(txn, until_ms=journal.read_pruned(txn).until_ms - 1)


def gone_before_their_keys(txn: Transaction) -> None:
    txn.put("meta", keys.FORGOTTEN, stamp_of(journal.read_pruned(txn).through).later(-1).id())


def a_mark_that_cannot_be_read(txn: Transaction) -> None:
    txn.put("meta", keys.PRUNED, records.encode(["short", -1]))


def an_hour_counts_less_than_is_left(txn: Transaction) -> None:
    """Of an hour of which some events are gone."""
    hour_ms = journal.read_pruned(txn).until_ms - HOUR_MS
    for key, payload in list(txn.forward("totals", b"", b"")):
        totals = records.decode_totals(payload)
        period = keys.totals_period(key)
        if period.type is PeriodType.HOURLY and period.start_ms == hour_ms:
            by_type = {
                name: msgspec.structs.replace(one, count=0) for name, one in totals.by_type.items()
            }
            txn.put("totals", key, records.encode(msgspec.structs.replace(totals, by_type=by_type)))


def a_customer_of_what_is_gone_is_missing(txn: Transaction) -> None:
    txn.delete("customers", keys.customer_key(keys.part_of("only", PARTS), "only"))


def a_customer_was_seen_later(txn: Transaction) -> None:
    key = keys.customer_key(keys.part_of("only", PARTS), "only")
    txn.put("customers", key, records.number(LATER))


PARTLY = [
    (an_event_too_many_is_gone, "meta: count of events: stands"),
    (a_pruned_event_is_there, "events: record"),
    (an_index_names_what_is_gone, "blocks_by_customer: "),
    (a_void_of_what_is_gone, "voids: record"),
    (more_swept_than_is_gone, "meta: swept: stands"),
    (more_gone_than_said, "meta: count of events: stands"),
    (gone_from_an_open_year, "in a yearly period that is closed"),
    (gone_within_an_hour, "the end of an hour, after"),
    (gone_before_their_keys, "where keys are forgotten"),
    (a_mark_that_cannot_be_read, "should be an event, an instant, a count"),
    (an_hour_counts_less_than_is_left, "count: stands 0, should be at least"),
]
WHOLLY = [
    (a_customer_of_what_is_gone_is_missing, "customers: customer only"),
    (a_customer_was_seen_later, "customers: customer only"),
]


@pytest.mark.parametrize(
    ("before_ms", "work", "line"),
    [(BEFORE, *one) for one in PARTLY] + [(LATER, *one) for one in WHOLLY],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_wrong_shows(
    data: Path, before_ms: int, work: Callable[[Transaction], None], line: str
) -> None:
    """Where events are gone as elsewhere."""
    prune_all(data, before_ms)
    assert lines(data) == []
    spoil(data, work)
    assert line in "\n".join(lines(data))
