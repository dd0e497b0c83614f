"""The outbox in one transaction: queued by when it is due, begun before it is sent, settled."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import pytest

from meterd.domain.aggregations import Aggregation
from meterd.domain.deliveries import LEASE_MS, Delivery, first_attempt, settle_attempt
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import PeriodType
from meterd.embedded import outbox
from meterd.embedded.store import Store
from meterd.ledger import Claim
from tests.ledger_bench import START_MS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def delivery(customer_id: str, due_ms: int, endpoint_id: str = "billing") -> Delivery:
    closed = Aggregation(customer_id, PeriodType.DAILY, START_MS, 1, True, 0, 0, {}, (endpoint_id,))
    return first_attempt(closed, endpoint_id, b"{}", due_ms)


def add(store: Store, *deliveries: Delivery) -> None:
    for one in deliveries:
        store.write(partial(outbox.add, delivery=one))


def claim(store: Store, limit: int, now_ms: int) -> Claim:
    return store.write(lambda txn: outbox.claim(txn, "billing", limit, now_ms))


def next_due_ms(store: Store, endpoint_id: str = "billing") -> int | None:
    with store.read() as txn:
        return outbox.next_due_ms(txn, endpoint_id)


def test_only_what_is_due_is_claimed_earliest_first(store: Store) -> None:
    """Of one endpoint; the next due is that of the first that was left."""
    add(store, delivery("c", 30), delivery("a", 20), delivery("b", 10), delivery("x", 1, "crm"))
    assert next_due_ms(store) == 10
    found = claim(store, 5, 20)
    assert [one.customer_id for one in found.deliveries] == ["b", "a"]
    assert found.next_due_ms == 30
    assert claim(store, 5, 20) == Claim([], 30)
    assert next_due_ms(store, "crm") == 1
    assert next_due_ms(store, "nobody") is None


def test_a_claim_moves_the_delivery_behind_its_lease(store: Store) -> None:
    """It is in the queue once, not twice, and on disk as begun."""
    add(store, delivery("a", 10))
    (begun,) = claim(store, 1, 15).deliveries
    assert (begun.attempts, begun.next_attempt_ms) == (1, 15 + LEASE_MS)
    with store.read() as txn:
        assert (txn.count("outbox"), txn.count("deliveries")) == (1, 1)
    (again,) = claim(store, 1, 15 + LEASE_MS).deliveries
    assert (again.id, again.attempts) == (begun.id, 2)


@pytest.mark.parametrize(("error", "queued"), [(None, 0), ("HTTP 500: Internal Server Error", 1)])
def test_settling_takes_the_lease_out_of_the_queue(
    store: Store, error: str | None, queued: int
) -> None:
    """Delivered, there is nothing left; failed, there is the next try and nothing else."""
    add(store, delivery("a", 10))
    (begun,) = claim(store, 1, 15).deliveries
    settled = settle_attempt(begun, Outcome(error), 16, Fraction(0))
    store.write(lambda txn: outbox.settle(txn, [settled]))
    with store.read() as txn:
        assert txn.count("outbox") == queued
    assert next_due_ms(store) == (settled.next_attempt_ms if queued else None)


def test_a_delivery_that_is_not_there_is_our_own_mistake(store: Store) -> None:
    """Nobody settles what was never made."""
    with pytest.raises(AssertionError):
        store.write(lambda txn: outbox.settle(txn, [delivery("a", 10)]))
