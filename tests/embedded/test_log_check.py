"""What the log does not bear out is found: hours, indexes, keys, the count of events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.domain.periods import HOUR_MS, PeriodType, period_at
from meterd.domain.totals import PeriodTotals
from meterd.embedded import dated, forgetting, journal, key_check, keys, log, records, recount
from meterd.embedded.store import PARTS
from tests.embedded.sample_store import (
    checked,
    copied_sample,
    differences_in_spans,
    first_of,
    lines,
    put_totals,
    spoil,
    totals_of,
)
from tests.ledger_bench import START_MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

HOUR = period_at(PeriodType.HOURLY, START_MS)
LAST = b"\xff" * ID_BYTES


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return copied_sample(tmp_path)


def test_a_store_that_a_crash_left_is_sound(data: Path) -> None:
    """Though some events are in no totals yet, and some keys not in their index."""
    counts = checked(data)
    assert counts["events not yet in totals"] > 50
    assert counts["keys not yet indexed"] > 50
    assert counts["events"] > 1500


def test_hours_that_do_not_fit_into_memory_come_out_the_same(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folded often, and put aside in files."""
    before = checked(data)
    monkeypatch.setattr(recount, "_EVENTS_MAX", 5)
    monkeypatch.setattr(recount, "_CUSTOMERS_MAX", 2)
    assert checked(data) == before
    # Read in pieces: what the index has of an hour, keys that are looked up.
    monkeypatch.setattr(dated, "_WANTED_MAX", 3)
    monkeypatch.setattr(key_check, "_KEYS_AT_ONCE", 3)
    assert checked(data) == before


def test_a_wrong_total_is_named(data: Path) -> None:
    """With customer, period, type, and both numbers."""

    def add_one(txn: Transaction) -> str:
        totals = totals_of(txn, HOUR, "acme")
        name, found = next(iter(totals.by_type.items()))
        changed = msgspec.structs.replace(found, sum=found.sum + 1, count=found.count + 1)
        by_type = {**totals.by_type, name: changed}
        put_totals(txn, HOUR, "acme", msgspec.structs.replace(totals, by_type=by_type))
        return (
            f"acme, hourly {HOUR.key}, {name}: sum: stands {found.sum + 1}, should be {found.sum}"
        )

    line = spoil(data, add_one)
    assert f"totals: customer {line}" in lines(data)


def a_total_is_missing(txn: Transaction) -> None:
    txn.delete("totals", keys.totals_key(keys.part_of("acme", PARTS), HOUR, "acme"))


def a_total_of_nobody(txn: Transaction) -> None:
    put_totals(txn, HOUR, "zoe", totals_of(txn, HOUR, "acme"))


def a_total_of_an_hour_without_events(txn: Transaction) -> None:
    put_totals(txn, period_at(PeriodType.HOURLY, 5 * HOUR_MS), "acme", totals_of(txn, HOUR, "acme"))


def an_empty_total(txn: Transaction) -> None:
    put_totals(txn, HOUR, "zoe", PeriodTotals(closed=True, by_type={}))


def a_type_is_missing(txn: Transaction) -> None:
    totals = totals_of(txn, HOUR, "acme")
    by_type = dict(list(totals.by_type.items())[1:])
    put_totals(txn, HOUR, "acme", msgspec.structs.replace(totals, by_type=by_type))


def counted_through_the_future(txn: Transaction) -> None:
    totals = totals_of(txn, HOUR, "acme")
    put_totals(txn, HOUR, "acme", msgspec.structs.replace(totals, through=LAST))


def fewer_events_than_said(txn: Transaction) -> None:
    txn.put("meta", keys.EVENTS, records.number(log.count_events(txn) + 1))


def a_record_of_the_log_is_missing(txn: Transaction) -> None:
    txn.delete("events", first_of(txn, "events"))


def a_key_is_missing(txn: Transaction) -> None:
    txn.delete("idempotency_keys", first_of(txn, "idempotency_keys"))


def a_key_of_another_event(txn: Transaction) -> None:
    key = first_of(txn, "idempotency_keys")
    record = txn.get("idempotency_keys", key)
    assert record is not None
    txn.put("idempotency_keys", key, records.used_key(LAST, record[ID_BYTES:]))


def a_key_of_other_content(txn: Transaction) -> None:
    key = first_of(txn, "idempotency_keys")
    record = txn.get("idempotency_keys", key)
    assert record is not None
    txn.put("idempotency_keys", key, record[:ID_BYTES] + b"12345678")


def a_forgotten_key_is_there(txn: Transaction) -> None:
    """Forgotten are all that are posted, and one was left."""
    found = forgetting.expired(txn, PARTS, before_ms=START_MS + 1)
    journal.write_forgotten(txn, found.through)


def a_key_is_forgotten_too_early(txn: Transaction) -> None:
    """It is gone, and the mark does not say so."""
    before = journal.forgotten_through(txn)
    forgetting.forget(txn, forgetting.expired(txn, PARTS, before_ms=START_MS + 1))
    txn.put("meta", keys.FORGOTTEN, before)


def a_key_that_was_never_sent(txn: Transaction) -> None:
    record = txn.get("idempotency_keys", first_of(txn, "idempotency_keys"))
    assert record is not None
    part = keys.part_of("acme", PARTS)
    txn.put("idempotency_keys", keys.idempotency_key(part, "acme", "never"), record)


def a_mark_that_is_ahead(txn: Transaction) -> None:
    """As if everything were posted: a start would not post the rest."""
    last = log.last_stamp(txn)
    assert last is not None
    journal.write_posted(txn, last.id())


def a_record_of_another_time(txn: Transaction) -> None:
    """Its events are said to have come an hour earlier than the one before."""
    key = first_of(txn, "events", 5)
    payload = txn.get("events", key)
    assert payload is not None
    blocks = records.decode_record(payload)
    first = stamp_of(key)
    moved = [msgspec.structs.replace(block, later_ms=block.later_ms + 9) for block in blocks]
    assert blocks[0].stamp(first) == first
    txn.put("events", key, records.encode(moved))


@pytest.mark.parametrize(
    ("work", "table", "customer_id", "period"),
    [
        (a_total_is_missing, "totals", "acme", f"hourly {HOUR.key}"),
        (a_total_of_nobody, "totals", "zoe", f"hourly {HOUR.key}"),
        (an_empty_total, "totals", "zoe", f"hourly {HOUR.key}"),
        (a_total_of_an_hour_without_events, "totals", "acme", "hourly 1970010105"),
        (a_type_is_missing, "totals", "acme", f"hourly {HOUR.key}"),
        (counted_through_the_future, "totals", "acme", f"hourly {HOUR.key}"),
        (fewer_events_than_said, "meta", "", ""),
        (a_record_of_the_log_is_missing, "totals", "acme", f"hourly {HOUR.key}"),
        (a_record_of_the_log_is_missing, "records_by_type", "", ""),
        (a_record_of_the_log_is_missing, "blocks_by_customer", "acme", ""),
        (a_record_of_the_log_is_missing, "meta", "", ""),
        (a_record_of_another_time, "events", "", ""),
        (a_key_is_missing, "idempotency_keys", "f", ""),
        (a_key_of_another_event, "idempotency_keys", "f", ""),
        (a_key_of_other_content, "idempotency_keys", "f", ""),
        (a_key_that_was_never_sent, "idempotency_keys", "acme", ""),
        (a_forgotten_key_is_there, "idempotency_keys", "f", ""),
        (a_key_is_forgotten_too_early, "idempotency_keys", "f", ""),
        (a_mark_that_is_ahead, "idempotency_keys", "f", ""),
        (a_mark_that_is_ahead, "totals", "acme", None),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_it_is_found(
    data: Path,
    work: Callable[[Transaction], None],
    table: str,
    customer_id: str,
    period: str | None,
) -> None:
    """In the table, of the customer and period that it concerns."""
    spoil(data, work)
    assert [
        found
        for found in differences_in_spans(data)
        if (found.table, found.customer_id) == (table, customer_id)
        and period in {None, found.period}
    ]
