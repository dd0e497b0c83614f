"""Deliveries that go together: formed of one period, settled as one, sent again one by one."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.aggregations import Aggregation, completed_body
from meterd.domain.deliveries import (
    BATCH,
    BATCHES_KEPT,
    UNKNOWN,
    Attempt,
    Delivery,
    DeliveryStatus,
    first_attempt,
    settle_attempt,
)
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import PeriodType, period_at
from meterd.embedded import batches, journal, outbox
from meterd.embedded.delivery_queries import read_history
from meterd.embedded.differences import Checking
from meterd.embedded.outbox_check import OutboxCheck
from meterd.embedded.store import Store
from tests.ledger_bench import START_MS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction
    from meterd.ledger import Claim

FAILED = Outcome("HTTP 500: x")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    yield opened
    with opened.read() as txn:
        assert list(OutboxCheck(txn, Checking()).run()) == []
    opened.close()


def close(
    store: Store, *customers: str, kind: PeriodType = PeriodType.DAILY, ended: bool = True
) -> None:
    """A delivery to billing for each; a period that has not ``ended`` is still being closed."""
    for customer in customers:
        one = Aggregation(customer, kind, period_at(kind, START_MS).start_ms, 1, True, 0, 0, {}, ())
        made = first_attempt(one, "billing", completed_body(one), 10)
        store.write(partial(outbox.add, made=made))
    if ended:
        store.write(lambda txn: journal.write_closed(txn, period_at(kind, START_MS)))


def claim(store: Store, *, limit: int = 9, now_ms: int = 20, batch: int = 3) -> Claim:
    return store.write(lambda txn: outbox.claim(txn, "billing", limit, now_ms, batch))


def settle(
    store: Store, begun: Delivery, outcome: Outcome, waits_ms: tuple[int, ...] = (5,)
) -> None:
    settled = settle_attempt(begun, outcome, 30, Fraction(0), waits_ms)
    made = Attempt("billing", begun.sequence, begun.attempts, begun.begun_ms or 0, 30, outcome)
    store.write(lambda txn: outbox.settle(txn, [settled], [made]))


def found(store: Store, sequence: int) -> Delivery:
    with store.read() as txn:
        return outbox.shown(txn, outbox.get(txn, "billing", sequence))


def send_again(store: Store, delivery: Delivery, now_ms: int = 40) -> None:
    def work(txn: Transaction) -> None:
        one = outbox.find(txn, delivery.id)
        assert one is not None
        outbox.send_again(txn, one, now_ms)

    store.write(work)


def customers_of(batch: Delivery) -> list[str]:
    return [one["customerId"] for one in msgspec.json.decode(batch.body)["data"]["items"]]


def test_a_period_goes_in_full_batches_and_a_rest(store: Store) -> None:
    """In the order of sequences; each delivery is in one, whole, as it would be sent alone."""
    close(store, *"abcdefgh")
    found_in = claim(store)
    assert [customers_of(one) for one in found_in.deliveries] == [[*"abc"], [*"def"], [*"gh"]]
    assert found_in.next_due_ms is None
    assert all(one.attempts == 1 and one.sequence >= BATCH for one in found_in.deliveries)
    assert len({one.id for one in found_in.deliveries}) == 3
    first = found_in.deliveries[0]
    assert first.body.startswith(b'{"type":"aggregation.batch","period":"daily","data":{"items":[')
    assert found(store, 1).body in first.body
    assert (found(store, 1).attempts, found(store, 1).begun_ms) == (1, 20)


def test_two_periods_go_in_two_batches(store: Store) -> None:
    """What a customer's later period has waits for its earlier one."""
    close(store, "a", "b", kind=PeriodType.HOURLY)
    close(store, "a", "b", "c", kind=PeriodType.DAILY)
    hours, day = claim(store).deliveries
    assert (customers_of(hours), hours.period_type) == (["a", "b"], "hourly")
    assert (customers_of(day), day.period_type) == (["c"], "daily")
    assert claim(store).deliveries == []
    settle(store, hours, Outcome())
    (rest,) = claim(store).deliveries
    assert customers_of(rest) == ["a", "b"]
    for one in (day, rest):
        settle(store, one, Outcome())
    with store.read() as txn:
        assert not txn.count("outbox_by_customer")


def test_of_a_period_that_is_being_closed_only_full_ones_go(store: Store) -> None:
    """Or a month's end would be many small ones; it is looked at again in a moment."""
    close(store, *"abcd", ended=False)
    (full,) = claim(store).deliveries
    assert customers_of(full) == [*"abc"]
    again = claim(store)
    assert (again.deliveries, again.next_due_ms) == ([], 220)
    close(store, "e")
    (rest,) = claim(store, now_ms=220).deliveries
    assert customers_of(rest) == ["d", "e"]


def test_so_many_batches_and_no_more(store: Store) -> None:
    """The others are due at once."""
    close(store, *"abcdefgh")
    first = claim(store, limit=2)
    assert [customers_of(one) for one in first.deliveries] == [[*"abc"], [*"def"]]
    assert first.next_due_ms == 10


def test_a_batch_that_was_told_to_wait_stays_due(store: Store) -> None:
    """It is the endpoint that waits."""
    close(store, *"ab")
    (first,) = claim(store).deliveries
    settle(store, first, Outcome("HTTP 503: x", status=503, headers=(("Retry-After", "86400"),)))
    (again,) = claim(store, now_ms=30).deliveries
    assert (again.id, again.attempts, again.failures) == (first.id, 2, 0)
    settle(store, again, Outcome())


def test_a_batch_that_fails_is_sent_again_as_it_was(store: Store) -> None:
    """Same id, same bytes, whatever closed since; its deliveries have its state."""
    close(store, *"ab")
    (first,) = claim(store).deliveries
    settle(store, first, FAILED)
    close(store, "c")
    state = found(store, 2)
    assert (state.status, state.attempts, state.last_error, state.next_attempt_ms) == (
        DeliveryStatus.PENDING, 1, "HTTP 500: x", 35,
    )  # fmt: skip
    again, new = claim(store, now_ms=35).deliveries
    assert (again.id, again.body, again.attempts) == (first.id, first.body, 2)
    assert customers_of(new) == ["c"]


def test_a_batch_is_delivered_or_parked_as_one(store: Store) -> None:
    """And each of its deliveries is."""
    close(store, *"abcd")
    arrived, failed = claim(store, batch=2).deliveries
    settle(store, arrived, Outcome())
    settle(store, failed, FAILED, ())
    assert [found(store, n).status for n in (1, 2, 3, 4)] == ["delivered"] * 2 + ["parked"] * 2
    assert found(store, 1).delivered_ms == 30


def test_what_was_in_a_batch_is_sent_again_by_itself(store: Store) -> None:
    """Or with others that are; the rest of it stays as it was. All of a batch likewise."""
    close(store, *"abcd")
    arrived, failed = claim(store, batch=2).deliveries
    settle(store, arrived, Outcome())
    settle(store, failed, FAILED, ())
    send_again(store, found(store, 1))
    assert [found(store, n).status for n in (1, 2)] == ["pending", "delivered"]
    send_again(store, failed)
    (one, two) = claim(store, batch=2, now_ms=40).deliveries
    assert [customers_of(one), customers_of(two)] == [["a", "c"], ["d"]]
    assert not {one.id, two.id} & {arrived.id, failed.id}
    for each in (one, two):
        settle(store, each, Outcome())
    assert {found(store, n).status for n in (1, 2, 3, 4)} == {"delivered"}


def test_attempts_are_counted_on_from_batch_to_batch(store: Store) -> None:
    """Those alone and those with each batch, as if it had always gone alone; with the last error.

    The log has them in the same numbers, and with which batch each was.
    """
    close(store, "a")
    (alone,) = claim(store, batch=1).deliveries
    settle(store, alone, FAILED)
    close(store, "b")
    (first,) = claim(store, now_ms=35).deliveries
    settle(store, first, FAILED, ())
    assert (found(store, 1).attempts, found(store, 2).attempts) == (2, 1)
    send_again(store, found(store, 1))
    waits = found(store, 1)
    assert (waits.attempts, waits.failures, waits.last_error) == (2, 0, "HTTP 500: x")
    (second,) = claim(store, now_ms=40).deliveries
    state = found(store, 1)
    assert (state.attempts, state.last_error, state.last_attempt_ms) == (3, "HTTP 500: x", 40)
    settle(store, second, Outcome())
    send_again(store, found(store, 1))
    (again,) = claim(store, batch=1, now_ms=40).deliveries
    settle(store, again, Outcome())
    assert (again.id, again.attempts) == (alone.id, 4)
    with store.read() as txn:
        history = read_history(txn, again.id)
    assert history is not None
    assert [(one.number, one.batch, one.in_batch) for one in history.attempts] == [
        (1, None, 0),
        (2, first.id, 1),
        (3, second.id, 1),
        (4, None, 0),
    ]


def test_of_many_batches_the_last_are_remembered(store: Store) -> None:
    """A delivery that is sent again for ever does not grow for ever."""
    close(store, "a")
    for _ in range(BATCHES_KEPT + 3):
        (batch,) = claim(store, now_ms=40).deliveries
        settle(store, batch, Outcome())
        send_again(store, found(store, 1))
    state = found(store, 1)
    assert (state.attempts, len(state.batches)) == (BATCHES_KEPT + 3, BATCHES_KEPT)
    with store.read() as txn:
        history = read_history(txn, state.id)
    assert history is not None
    assert [one.number for one in history.attempts] == list(range(4, BATCHES_KEPT + 4))


def test_who_retries_a_batch_that_waits_counts_nothing_twice(store: Store) -> None:
    """The answer shows the delivery as it then stands."""
    close(store, *"ab")
    (first,) = claim(store).deliveries
    settle(store, first, FAILED, (99_000,))

    def work(txn: Transaction) -> Delivery:
        one = outbox.find(txn, found(store, 2).id)
        assert one is not None
        return outbox.send_again(txn, one, 40)

    again = store.write(work)
    assert (again.attempts, again.next_attempt_ms, len(again.batches)) == (1, 40, 1)
    assert again == found(store, 2)


def test_a_batch_that_waits_is_asked_for_by_any_of_its_deliveries(store: Store) -> None:
    """It stays whole."""
    close(store, *"ab")
    (first,) = claim(store).deliveries
    settle(store, first, FAILED, (99_000,))
    send_again(store, found(store, 2))
    (again,) = claim(store, now_ms=40).deliveries
    assert (again.id, again.body) == (first.id, first.body)


def test_a_batch_in_the_air_at_the_end_is_sent_again(store: Store) -> None:
    """Under the same id, and it says that its outcome is unknown."""
    close(store, *"ab")
    (first,) = claim(store).deliveries
    store.write(lambda txn: outbox.recover(txn, 50, 9))
    assert found(store, 1).last_error == UNKNOWN
    (again,) = claim(store, now_ms=50).deliveries
    assert (again.id, again.body) == (first.id, first.body)


def test_batches_go_on_where_they_are_configured_no_more(store: Store) -> None:
    """What is in one stays in it; what is new goes alone."""
    close(store, *"ab")
    (first,) = claim(store).deliveries
    settle(store, first, FAILED)
    close(store, "c")
    again, alone = claim(store, batch=1, now_ms=35).deliveries
    assert (again.id, alone.customer_id) == (first.id, "c")
    with store.read() as txn:
        assert batches.batch_of(txn, found(store, 1)) is not None
