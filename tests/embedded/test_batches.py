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
    UNKNOWN,
    Attempt,
    Delivery,
    DeliveryStatus,
    first_attempt,
    settle_attempt,
    withdrawn,
)
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import PeriodType, period_at
from meterd.embedded import batches, delivery_queries, journal, outbox
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


def behind(store: Store, sequence: int) -> str | None:
    with store.read() as txn:
        one = outbox.get(txn, "billing", sequence)
        history = delivery_queries.read_history(txn, one.id)
    assert history is not None
    return history.behind


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
    assert (again.deliveries, again.next_due_ms) == ([], 70)
    close(store, "e")
    (rest,) = claim(store, now_ms=70).deliveries
    assert customers_of(rest) == ["d", "e"]


def test_so_many_batches_and_no_more(store: Store) -> None:
    """The others are due at once."""
    close(store, *"abcdefgh")
    first = claim(store, limit=2)
    assert [customers_of(one) for one in first.deliveries] == [[*"abc"], [*"def"]]
    assert first.next_due_ms == 10


def test_a_transaction_begins_and_settles_a_thousand_at_most(store: Store) -> None:
    """For events wait for it; however many slots there are. A batch is one, whole."""
    one = Aggregation("c", PeriodType.DAILY, START_MS, 1, True, 0, 0, {}, ())
    customers = [f"c{number:04}" for number in range(2500)]

    def add(txn: Transaction) -> None:
        for customer in customers:
            made = msgspec.structs.replace(one, customer_id=customer)
            outbox.add(txn, first_attempt(made, "billing", completed_body(made), 10))
        journal.write_closed(txn, period_at(PeriodType.DAILY, START_MS))

    store.write(add)
    first = claim(store, limit=64, batch=400)
    assert [len(begun.members) for begun in first.deliveries] == [400, 400]
    assert first.next_due_ms == 10
    rest = claim(store, limit=64, batch=1000).deliveries
    last = claim(store, limit=64, batch=1000).deliveries
    assert [[len(begun.members) for begun in found] for found in (rest, last)] == [[1000], [700]]
    begun = [*first.deliveries, *rest, *last]
    settled = [settle_attempt(one, FAILED, 30, Fraction(0), (5,)) for one in begun]
    attempts = [Attempt("billing", one.sequence, 1, 20, 30, FAILED) for one in settled]
    portions = list(outbox.in_portions(settled, attempts))
    assert [found for found, _ in portions] == [settled[:2], settled[2:3], settled[3:]]
    assert [found for _, found in portions] == [attempts[:2], attempts[2:3], attempts[3:]]
    for found, theirs in portions:
        store.write(partial(outbox.settle, deliveries=found, attempts=theirs))
    for sizes in ([400, 400], [1000], [700]):
        again = claim(store, limit=64, now_ms=35, batch=1000).deliveries
        assert [len(one.members) for one in again] == sizes


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
    """The rest of it stays as it was, and goes one by one, too, when the batch is asked for."""
    close(store, *"abc")
    (first,) = claim(store).deliveries
    settle(store, first, FAILED, ())
    send_again(store, found(store, 1))
    assert [found(store, n).status for n in (1, 2, 3)] == ["pending", "parked", "parked"]
    send_again(store, first)
    again = claim(store, now_ms=40).deliveries
    assert [one.id for one in again] == [found(store, n).id for n in (1, 2, 3)]
    for each in again:
        settle(store, each, Outcome())
    assert {found(store, n).status for n in (1, 2, 3)} == {"delivered"}


@pytest.mark.parametrize("waits_ms", [(5,), ()], ids=["delivered", "parked"])
def test_a_whole_batch_is_sent_again_as_it_was(store: Store, waits_ms: tuple[int, ...]) -> None:
    """Under its id, which tells the receiver that it is the same."""
    close(store, *"abc")
    (first,) = claim(store).deliveries
    settle(store, first, Outcome() if waits_ms else FAILED, waits_ms)
    send_again(store, first)
    assert {found(store, n).status for n in (1, 2, 3)} == {"pending"}
    (again,) = claim(store, now_ms=40).deliveries
    assert (again.id, again.body, again.attempts) == (first.id, first.body, 2)
    settle(store, again, Outcome())
    assert {found(store, n).status for n in (1, 2, 3)} == {"delivered"}


def test_what_was_begun_alone_goes_alone(store: Store) -> None:
    """Under its id, also where batches are configured meanwhile and nobody knows what became of it;
    what was given back before it was sent is as if it had never begun.
    """
    close(store, *"abcd")
    singles = claim(store, batch=1).deliveries
    store.write(lambda txn: outbox.settle(txn, [withdrawn(singles[3])]))
    store.write(lambda txn: outbox.recover(txn, 60, 500))
    *again, batch = claim(store, now_ms=70).deliveries
    assert [(one.id, one.body) for one in again] == [(one.id, one.body) for one in singles[:3]]
    assert {one.attempts for one in again} == {2}
    assert customers_of(batch) == ["d"]


def test_a_replay_of_a_batch_is_that_batch_once(store: Store) -> None:
    """However many of it are replayed; where one has left it, each goes by itself."""
    close(store, *"abc")
    (first,) = claim(store).deliveries
    settle(store, first, Outcome())

    def replay(*sequences: int) -> list[Delivery]:
        for sequence in sequences:
            store.write(partial(outbox.replay, delivery=found(store, sequence), now_ms=50))
        return claim(store, now_ms=50).deliveries

    (again,) = replay(2, 1, 3)
    assert (again.id, again.body) == (first.id, first.body)
    settle(store, again, Outcome())
    assert replay(3) == []
    send_again(store, found(store, 1))
    alone = replay(2, 1, 3)
    assert [one.customer_id for one in alone] == ["a", "b", "c"]
    for one in alone:
        settle(store, one, Outcome())


def test_an_earlier_one_goes_before_a_batch_that_waits(store: Store) -> None:
    """All of the batch wait for it, whoever's it is: their order holds, and the batch stays whole.
    It is told what they wait for.
    """
    close(store, "a", kind=PeriodType.HOURLY)
    (hour,) = claim(store, batch=1).deliveries
    settle(store, hour, Outcome())
    close(store, "a", "b", kind=PeriodType.DAILY)
    (day,) = claim(store).deliveries
    settle(store, day, FAILED, (5,))
    send_again(store, hour)
    assert [behind(store, n) for n in (1, 2, 3)] == [None, hour.id, hour.id]
    (first,) = claim(store, now_ms=40).deliveries
    assert first.id == hour.id
    assert claim(store, now_ms=99).deliveries == []
    settle(store, first, Outcome())
    (again,) = claim(store, now_ms=40).deliveries
    assert (again.id, again.body) == (day.id, day.body)


def test_an_earlier_one_waits_for_a_batch_in_the_air(store: Store) -> None:
    """However often it is asked for; then it goes before the batch's next attempt."""
    close(store, "a", kind=PeriodType.HOURLY)
    (hour,) = claim(store, batch=1).deliveries
    settle(store, hour, Outcome())
    close(store, "a", "b", kind=PeriodType.DAILY)
    (day,) = claim(store).deliveries
    for _ in range(2):
        send_again(store, hour)
        assert claim(store, now_ms=40).deliveries == []
    assert [behind(store, n) for n in (1, 2, 3)] == [found(store, 2).id, None, None]
    settle(store, day, FAILED, (0,))
    (first,) = claim(store, now_ms=40).deliveries
    assert first.id == hour.id
    settle(store, first, FAILED, ())
    (again,) = claim(store, now_ms=40).deliveries
    assert again.id == day.id


def test_a_batch_that_is_sent_again_goes_before_what_is_later(store: Store) -> None:
    """Of each of its customers, when nothing of any of them is in the air."""
    close(store, "a", "b", kind=PeriodType.HOURLY)
    (hours,) = claim(store).deliveries
    settle(store, hours, Outcome())
    close(store, "a", "b", kind=PeriodType.DAILY)
    (day, other) = claim(store, batch=1).deliveries
    settle(store, other, FAILED, (5,))
    send_again(store, hours)
    assert behind(store, 1) == behind(store, 2) == day.id
    assert claim(store, now_ms=99).deliveries == []
    settle(store, day, FAILED, (5,))
    (again,) = claim(store, now_ms=99).deliveries
    assert (again.id, again.body) == (hours.id, hours.body)
    settle(store, again, Outcome())
    assert [one.id for one in claim(store, now_ms=99).deliveries] == [day.id, other.id]


def test_attempts_are_counted_on_behind_a_batch(store: Store) -> None:
    """Those in it and those alone, as if it had always gone alone."""
    close(store, *"ab")
    (batch,) = claim(store).deliveries
    settle(store, batch, FAILED, ())
    send_again(store, found(store, 1))
    (alone,) = claim(store, now_ms=40).deliveries
    assert alone.attempts == 2
    settle(store, alone, FAILED)
    state = found(store, 1)
    assert (state.attempts, state.last_error) == (2, "HTTP 500: x")
    assert [one.number for one in state.batches] == [batch.sequence]


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
