"""The log of attempts: kept by delivery, forgotten by age and size."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from meterd.domain.deliveries import Attempt, Delivery
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import PeriodType
from meterd.embedded import attempt_log
from meterd.embedded.attempt_log import OF_DELIVERY_MAX
from meterd.embedded.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

LARGE = 1 << 40


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def attempt(sequence: int, number: int, begun_ms: int) -> Attempt:
    return Attempt("billing", sequence, number, begun_ms, begun_ms + 5, Outcome("HTTP 500"))


def delivery(sequence: int) -> Delivery:
    return Delivery("msg", "billing", sequence, "c", PeriodType.DAILY, 0, 1, b"{}", 0, 0)


def write(store: Store, *attempts: Attempt) -> None:
    for one in attempts:
        store.write(partial(attempt_log.write, attempt=one))


def prune(store: Store, before_ms: int, bytes_max: int = LARGE, limit: int = 100) -> int:
    with store.read() as txn:
        is_due = attempt_log.has_to_forget(txn, before_ms=before_ms, bytes_max=bytes_max)
    forgotten = _prune(store, before_ms, bytes_max, limit)
    assert is_due == (forgotten > 0)
    return forgotten


def _prune(store: Store, before_ms: int, bytes_max: int, limit: int) -> int:
    return store.write(
        lambda txn: attempt_log.prune(txn, before_ms=before_ms, bytes_max=bytes_max, limit=limit)
    )


def left(store: Store, sequence: int) -> list[int]:
    with store.read() as txn:
        found = attempt_log.of_number(txn, delivery(sequence).endpoint_id, sequence)
        assert txn.count("attempts") == txn.count("attempts_by_time")
    return [one.number for one in found]


def test_a_delivery_has_its_own_in_order(store: Store) -> None:
    """Also past the 255th."""
    write(store, attempt(1, 2, 50), attempt(1, 1, 10), attempt(2, 1, 20), attempt(1, 256, 90))
    assert left(store, 1) == [1, 2, 256]
    assert left(store, 2) == [1]
    assert left(store, 3) == []


def test_the_last_thousand_of_a_delivery(store: Store) -> None:
    """A receiver that asks to come back each second spends no attempt, and is asked for ever."""

    def write_many(txn: Transaction) -> None:
        for number in range(1, OF_DELIVERY_MAX + 4):
            attempt_log.write(txn, attempt(1, number, number))
            attempt_log.write(txn, attempt(1, number, number))  # as it is told twice

    write(store, attempt(2, 1, 1))
    store.write(write_many)
    assert left(store, 1) == list(range(4, OF_DELIVERY_MAX + 4))
    assert left(store, 2) == [1]
    assert prune(store, before_ms=LARGE, limit=2000) == OF_DELIVERY_MAX + 1


def test_what_is_too_old_is_forgotten(store: Store) -> None:
    """The earliest first, so many at a time; what was begun at that moment stays."""
    write(store, attempt(1, 1, 10), attempt(2, 1, 20), attempt(1, 2, 30), attempt(2, 2, 40))
    assert prune(store, before_ms=30, limit=1) == 1
    assert (left(store, 1), left(store, 2)) == ([2], [1, 2])
    assert prune(store, before_ms=30) == 1
    assert prune(store, before_ms=30) == 0
    assert (left(store, 1), left(store, 2)) == ([2], [2])


def test_a_log_that_is_too_large_forgets_its_earliest(store: Store) -> None:
    """However young they are, until it is small enough."""
    write(store, *(attempt(1, number, number) for number in range(1, 1001)))
    with store.read() as txn:
        pages = txn.pages("attempts") + txn.pages("attempts_by_time")
    bytes_max = pages // 2 * 4096
    while prune(store, before_ms=0, bytes_max=bytes_max):
        pass
    kept = left(store, 1)
    assert kept == list(range(1001 - len(kept), 1001))
    assert 250 < len(kept) < 750
