"""Which keys are forgotten, and that a store without them is sound."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from meterd.domain.errors import CorruptRecordError
from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.embedded import forgetting, journal, records
from meterd.embedded.store import PARTS, Store
from tests.embedded.sample_store import checked, copied_sample, damage, spoil

if TYPE_CHECKING:
    from pathlib import Path

FAR_MS = 1 << 44


def forget_all(store: Store, before_ms: int) -> list[int]:
    """Of how many events each transaction was."""
    portions: list[int] = []
    while True:
        with store.read() as txn:
            found = forgetting.expired(txn, PARTS, before_ms)
        if not found.events:
            return portions
        store.write(partial(forgetting.forget, found=found))
        portions.append(found.events)


def test_a_store_is_sound_with_each_portion_that_is_forgotten(tmp_path: Path) -> None:
    """All that is posted goes, in portions of some hundred keys, and nothing behind it."""
    data = copied_sample(tmp_path)
    before = checked(data)
    with closing(Store(data)) as store:
        portions = forget_all(store, FAR_MS)
        with store.read() as txn:
            left = txn.count("idempotency_keys")
            assert journal.forgotten_through(txn) <= journal.posted_through(txn)
    assert len(portions) > 2
    assert max(portions) < 3 * forgetting.KEYS_AT_ONCE
    after = checked(data)
    assert after["idempotency keys"] == left < before["idempotency keys"] / 10
    assert after["events"] == before["events"]


def test_it_stops_at_the_moment(tmp_path: Path) -> None:
    """What came at it or after it is remembered."""
    data = copied_sample(tmp_path)
    with closing(Store(data)) as store:
        with store.read() as txn:
            through = stamp_of(journal.posted_through(txn))
        until_ms = through.received_ms - 20 * 3_600_000
        forget_all(store, until_ms)
        with store.read() as txn:
            assert stamp_of(journal.forgotten_through(txn)).received_ms < until_ms
            found = forgetting.expired(txn, PARTS, FAR_MS)
            assert stamp_of(min(found.used.values())).received_ms >= until_ms
    checked(data)


def test_long_stretches_without_keys_are_passed_over_in_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few keys there are, a reader is not held for long."""
    monkeypatch.setattr(forgetting, "EVENTS_AT_ONCE", 40)
    data = copied_sample(tmp_path)
    with closing(Store(data)) as store:
        assert max(forget_all(store, FAR_MS)) < 40 + 64


def test_a_key_that_another_event_has_taken_stays(tmp_path: Path) -> None:
    """What was found in a snapshot is asked again in the transaction that forgets."""
    data = copied_sample(tmp_path)
    with closing(Store(data)) as store:
        with store.read() as txn:
            found = forgetting.expired(txn, PARTS, FAR_MS)
        taken, gone, *_ = sorted(found.used)
        other = records.used_key(b"\xee" * ID_BYTES, b"12345678")
        store.write(lambda txn: txn.put("idempotency_keys", taken, other))
        store.write(partial(forgetting.forget, found=found))
        with store.read() as txn:
            assert txn.get("idempotency_keys", taken) == other
            assert txn.get("idempotency_keys", gone) is None


def test_a_damaged_key_is_met_by_the_reader(tmp_path: Path) -> None:
    """And not by the writer, where it would end the process."""
    data = copied_sample(tmp_path)
    spoil(data, lambda txn: damage(txn, "idempotency_keys"))
    with closing(Store(data)) as store, store.read() as txn, pytest.raises(CorruptRecordError):
        forgetting.expired(txn, PARTS, FAR_MS)
