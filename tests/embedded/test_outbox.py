"""The outbox in one transaction: queued by when it is due, begun before it is sent, settled."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.aggregations import Aggregation
from meterd.domain.deliveries import (
    UNKNOWN,
    Attempt,
    Delivery,
    DeliveryStatus,
    first_attempt,
    settle_attempt,
)
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import PeriodType
from meterd.embedded import attempt_log, outbox, records
from meterd.embedded.store import Store
from meterd.ledger import Claim
from tests.ledger_bench import START_MS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction


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
        store.write(partial(outbox.add, made=one))


def claim(store: Store, limit: int, now_ms: int) -> Claim:
    return store.write(lambda txn: outbox.claim(txn, "billing", limit, now_ms))


def next_due_ms(store: Store, endpoint_id: str = "billing") -> int | None:
    with store.read() as txn:
        return outbox.next_due_ms(txn, endpoint_id)


def counts(store: Store) -> dict[str, int]:
    tables = ("outbox", "outbox_by_customer", "in_air", "parked", "attempts")
    with store.read() as txn:
        return {table: count for table in tables if (count := txn.count(table))}


def test_only_what_is_due_is_claimed_earliest_first(store: Store) -> None:
    """Of one endpoint; the next due is that of the first that was left."""
    failed = [("c", 30, "billing"), ("a", 20, "billing"), ("b", 10, "billing"), ("x", 1, "crm")]
    add(store, *(msgspec.structs.replace(delivery(*one), failures=1) for one in failed))
    assert next_due_ms(store) == 10
    found = claim(store, 5, 20)
    assert [one.customer_id for one in found.deliveries] == ["b", "a"]
    assert found.next_due_ms == 30
    assert claim(store, 5, 20) == Claim([], 30)
    assert next_due_ms(store, "crm") == 1
    assert next_due_ms(store, "nobody") is None


def test_what_has_not_failed_is_due_by_any_clock(store: Store) -> None:
    """It was due when it was made: a time that lies ahead is that of a clock that was set back."""
    add(store, delivery("c", 30), delivery("a", 20))
    found = claim(store, 1, 5)
    assert [one.customer_id for one in found.deliveries] == ["a"]
    assert found.next_due_ms == 5


def test_what_is_claimed_is_in_the_air_until_it_is_settled(store: Store) -> None:
    """In no queue meanwhile, however late it is."""
    add(store, delivery("a", 10))
    (begun,) = claim(store, 1, 15).deliveries
    assert (begun.attempts, begun.begun_ms) == (1, 15)
    assert counts(store) == {"outbox_by_customer": 1, "in_air": 1}
    assert claim(store, 1, 1 << 50) == Claim([], None)


@pytest.mark.parametrize(
    ("outcome", "waits_ms", "left"),
    [
        (Outcome(), (5,), {"attempts": 1}),
        (Outcome("x"), (5,), {"outbox": 1, "outbox_by_customer": 1, "attempts": 1}),
        (Outcome("x"), (), {"parked": 1, "attempts": 1}),
    ],
    ids=["delivered", "failed", "parked"],
)
def test_settling_puts_it_where_it_belongs(
    store: Store, outcome: Outcome, waits_ms: tuple[int, ...], left: dict[str, int]
) -> None:
    """And nowhere else."""
    add(store, delivery("a", 10))
    (begun,) = claim(store, 1, 15).deliveries
    settled = settle_attempt(begun, outcome, 16, Fraction(0), waits_ms)
    attempt = Attempt("billing", 1, 1, 15, 16, outcome)
    store.write(lambda txn: outbox.settle(txn, [settled], [attempt]))
    assert counts(store) == left
    with store.read() as txn:
        assert attempt_log.of_number(txn, settled.endpoint_id, settled.sequence) == [attempt]


def test_what_is_added_together_is_numbered_as_it_came(store: Store) -> None:
    """Of each endpoint on from its last, and none is made before that."""
    add(store, delivery("a", 20))
    together = [delivery("b", 10), delivery("c", 30, "crm"), delivery("d", 30), delivery("e", 5)]
    store.write(lambda txn: outbox.add_all(txn, together))
    with store.read() as txn:
        found = [records.decode_delivery(one) for _, one in txn.forward("deliveries", b"", b"")]
    assert [(one.customer_id, one.sequence, one.created_ms) for one in found] == [
        ("a", 1, 20),
        ("b", 2, 20),
        ("d", 3, 30),
        ("e", 4, 30),
        ("c", 1, 30),
    ]
    assert all(b'"sequence":%d}' % one.sequence in one.body for one in found)
    add(store, delivery("f", 1))
    with store.read() as txn:
        assert outbox.get(txn, "billing", 5).created_ms == 30


def test_sequences_count_each_endpoints_deliveries(store: Store) -> None:
    """From one, without a gap, whatever happens to those before."""
    add(store, delivery("a", 1), delivery("b", 1), delivery("x", 1, "crm"))
    claim(store, 9, 5)
    add(store, delivery("c", 1))
    with store.read() as txn:
        found = [outbox.get(txn, "billing", sequence) for sequence in (1, 2, 3)]
        assert [one.customer_id for one in found] == ["a", "b", "c"]
        assert [one.body for one in found] == [b'{,"sequence":%d}' % n for n in (1, 2, 3)]
        assert outbox.get(txn, "crm", 1).customer_id == "x"
        assert outbox.find(txn, found[1].id) == found[1]
        assert outbox.find(txn, "msg_" + "0" * 32) is None
        assert outbox.find(txn, "nonsense") is None


def test_what_is_sent_again_goes_in_front_of_what_closed_later(store: Store) -> None:
    """Where the later one is not in the air; else it is next."""
    for in_air in (False, True):
        customer = f"c{in_air}"
        day, year = delivery(customer, 1), yearly(customer, 2)
        add(store, day)
        (begun,) = claim(store, 1, 1).deliveries
        settle(store, settle_attempt(begun, Outcome(), 1, Fraction(0)))
        add(store, year)
        held = claim(store, 1, 2).deliveries if in_air else []
        again = send_again(store, day.id, 3)
        assert (again.status, again.attempts) == (DeliveryStatus.PENDING, 1)
        found = claim(store, 9, 3).deliveries
        assert [one.id for one in found] == ([] if in_air else [day.id])
        for one in held:
            settle(store, settle_attempt(one, Outcome("x"), 3, Fraction(0)))
            found = claim(store, 9, 3).deliveries
            assert [each.id for each in found] == [day.id]
        settle(store, settle_attempt(found[0], Outcome(), 4, Fraction(0)))
        (last,) = claim(store, 9, 1 << 50).deliveries
        assert last.id == year.id
        settle(store, settle_attempt(last, Outcome(), 5, Fraction(0)))
    assert counts(store) == {}


def test_what_waits_for_one_in_the_air_is_asked_for_again_in_vain(store: Store) -> None:
    """However often an operator asks: it goes when that one is settled, and once."""
    day, year = delivery("a", 1), yearly("a", 2)
    add(store, day)
    (begun,) = claim(store, 1, 1).deliveries
    settle(store, settle_attempt(begun, Outcome(), 1, Fraction(0)))
    add(store, year)
    (in_air,) = claim(store, 1, 2).deliveries
    for now_ms in (3, 4, 5):
        send_again(store, day.id, now_ms)
        assert claim(store, 9, now_ms).deliveries == []
    settle(store, settle_attempt(in_air, Outcome(), 6, Fraction(0)))
    (begun,) = claim(store, 9, 6).deliveries
    assert begun.id == day.id
    settle(store, settle_attempt(begun, Outcome(), 7, Fraction(0)))
    assert counts(store) == {}


def test_what_waits_or_is_parked_is_sent_again_at_once(store: Store) -> None:
    """Its place in the queue is another one then, not a second one; in the air it stays."""
    add(store, delivery("a", 10))
    (begun,) = claim(store, 1, 10).deliveries
    assert send_again(store, begun.id, 11) == begun
    settle(store, settle_attempt(begun, Outcome("x"), 11, Fraction(0)))
    assert send_again(store, begun.id, 12).next_attempt_ms == 12
    assert counts(store) == {"outbox": 1, "outbox_by_customer": 1}
    (begun,) = claim(store, 1, 12).deliveries
    settle(store, settle_attempt(begun, Outcome("x"), 13, Fraction(0), ()))
    assert counts(store) == {"parked": 1}
    send_again(store, begun.id, 14)
    assert counts(store) == {"outbox": 1, "outbox_by_customer": 1}


def test_a_start_puts_back_what_was_in_the_air(store: Store) -> None:
    """In bounded transactions; the attempts' log says that nobody knows."""
    add(store, *(delivery(f"c{number}", 1) for number in range(5)))
    claim(store, 5, 2)
    assert [store.write(lambda txn: outbox.recover(txn, 9, 3)) for _ in range(3)] == [3, 2, 0]
    assert counts(store) == {"outbox": 5, "outbox_by_customer": 5, "attempts": 5}
    again = claim(store, 9, 9).deliveries
    assert {one.attempts for one in again} == {2}
    with store.read() as txn:
        [attempt] = attempt_log.of_number(txn, again[0].endpoint_id, again[0].sequence)
    assert (attempt.number, attempt.ended_ms, attempt.outcome.error) == (1, None, UNKNOWN)


def test_a_delivery_that_is_not_there_is_our_own_mistake(store: Store) -> None:
    """Nobody settles what was never begun."""
    with pytest.raises(AssertionError):
        settle(store, delivery("a", 10))


def settle(store: Store, settled: Delivery) -> None:
    store.write(lambda txn: outbox.settle(txn, [settled]))


def send_again(store: Store, delivery_id: str, now_ms: int) -> Delivery:
    def work(txn: Transaction) -> Delivery:
        found = outbox.find(txn, delivery_id)
        assert found is not None
        return outbox.send_again(txn, found, now_ms)

    return store.write(work)


def yearly(customer_id: str, due_ms: int) -> Delivery:
    closed = Aggregation(customer_id, PeriodType.YEARLY, START_MS, 1, True, 0, 0, {}, ("billing",))
    return first_attempt(closed, "billing", b"{}", due_ms)
