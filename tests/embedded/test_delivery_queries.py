"""What looking up deliveries costs, and that it does without those that were forgotten.

That the answers are right is the conformance suite's business.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from meterd.domain.aggregations import Aggregation
from meterd.domain.changes import Change
from meterd.domain.deliveries import (
    Attempt,
    Delivery,
    DeliveryStatus,
    first_attempt,
    numbered,
    settle_attempt,
)
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.embedded import delivery_queries, journal, keys, outbox
from meterd.embedded.store import PARTS, Store
from meterd.ledger import COUNTED_MAX, DeliveryPlace, DeliveryQuery, place_of_delivery
from tests.embedded import test_batches
from tests.embedded.test_queries import cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

SMALL, LARGE = 1_000, 10_000
LIMIT: Final = 20
# As many in either store, in the middle of it.
WAITING, PARKED = 30, 30
ENDPOINTS: Final = ("billing", "crm", "lake")
MIDDLE_MS: Final = 1_000_000 * HOUR_MS
END_MS: Final = 2 * MIDDLE_MS


def state_of(number: int, count: int) -> DeliveryStatus:
    beyond = number - count // 2
    if 0 <= beyond < WAITING:
        return DeliveryStatus.PENDING
    return DeliveryStatus.PARKED if 0 <= -beyond < PARKED else DeliveryStatus.DELIVERED


def closed_hour(customer_id: str, start_ms: int) -> Aggregation:
    return Aggregation(customer_id, PeriodType.HOURLY, start_ms, 1, True, 0, 0, {}, ENDPOINTS)


def deliveries_of(count: int) -> Iterator[Delivery]:
    """Each hour has one of one customer to each endpoint; most of them are delivered."""
    for number in range(count):
        made_ms = MIDDLE_MS + (number - count // 2) * HOUR_MS
        customer = "rare" if abs(number - count // 2) < 9 else f"c{number % 100}"
        closed = closed_hour(customer, made_ms - HOUR_MS)
        for endpoint_id in ENDPOINTS:
            made = numbered(first_attempt(closed, endpoint_id, b"{}", made_ms), number + 1)
            status = state_of(number, count)
            yield msgspec.structs.replace(made, status=status, attempts=1)


def fill(txn: Transaction, count: int) -> None:
    for delivery in deliveries_of(count):
        if delivery.endpoint_id == ENDPOINTS[0]:
            closed = closed_hour(delivery.customer_id, delivery.start_ms)
            change = Change(delivery.customer_id, aggregations={closed.period: closed})
            journal.write_changes(txn, [change], PARTS)
        outbox.take_sequences(txn, delivery.endpoint_id, 1)
        outbox.insert(txn, delivery)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Store]]:
    made = {}
    for count in (SMALL, LARGE):
        made[count] = Store(tmp_path_factory.mktemp("deliveries") / "data")
        made[count].write(partial(fill, count=count))
    yield made
    for store in made.values():
        store.close()


QUERIES: Final = {
    "all": DeliveryQuery(),
    "an endpoint": DeliveryQuery("crm"),
    "a customer": DeliveryQuery(customer_id="rare"),
    "nobody": DeliveryQuery(customer_id="nobody"),
    "no endpoint": DeliveryQuery("nobody"),
    "what waits": DeliveryQuery(status=DeliveryStatus.PENDING),
    "what is parked": DeliveryQuery(status=DeliveryStatus.PARKED),
    "what is delivered": DeliveryQuery(status=DeliveryStatus.DELIVERED),
    "a stream": DeliveryQuery("crm", after_sequence=SMALL // 3),
    "a period": DeliveryQuery(period_type=PeriodType.HOURLY),
    "all filters": DeliveryQuery("lake", "rare", PeriodType.HOURLY, DeliveryStatus.PENDING),
}


@pytest.mark.parametrize("is_deep", [False, True], ids=["newest", "deep"])
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_deliveries_cost_what_they_return(
    stores: dict[int, Store], query: DeliveryQuery, is_deep: bool
) -> None:
    """A page, and where it ends, in a store and in one ten times as large."""
    for read in (delivery_queries.read_deliveries, delivery_queries.deliveries_page_end):
        costs = []
        for count, store in stores.items():
            after = DeliveryPlace(MIDDLE_MS + 5 * HOUR_MS, "crm", count // 2) if is_deep else None

            def ask(txn: Transaction, read: Any = read, after: Any = after) -> Any:
                return read(txn, PARTS, query, LIMIT, after)

            costs.append(cost(store, ask)[0])
        # Halving what is ten times as much takes four steps more, for each of the endpoints.
        assert costs[1] <= 1.2 * costs[0] + 40, costs


def test_the_whole_costs_ten_times_as_much(stores: dict[int, Store]) -> None:
    """The counter counts."""
    query = DeliveryQuery()
    costs = [
        cost(
            store,
            lambda txn: delivery_queries.read_deliveries(txn, PARTS, query, 9 * LARGE, None),
        )
        for store in stores.values()
    ]
    assert [len(found) for _, found in costs] == [3 * SMALL, 3 * LARGE]
    assert costs[1][0] > 9 * costs[0][0]


def test_many_that_wait_are_found_where_they_were_made(
    stores: dict[int, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as those that can be put into order."""
    for status in (DeliveryStatus.PENDING, DeliveryStatus.PARKED):
        query = DeliveryQuery(status=status)
        pages = []
        for most in (10_000, WAITING, WAITING - 1, 0):
            monkeypatch.setattr(delivery_queries, "_PUT_INTO_ORDER_MAX", most)
            with stores[SMALL].read() as txn:
                first = delivery_queries.read_deliveries(txn, PARTS, query, 7, None)
                after = place_of_delivery(first[-1])
                rest = delivery_queries.read_deliveries(txn, PARTS, query, LARGE, after)
            pages.append(first + rest)
        assert len(pages[0]) == 3 * 30 - (0 if status is DeliveryStatus.PENDING else 3)
        assert pages[1:] == pages[:1] * 3


def forget(txn: Transaction, delivery: Delivery) -> None:
    txn.delete("deliveries", keys.delivery_key(delivery.endpoint_id, delivery.sequence))
    name = keys.delivery_name(delivery.id)
    assert name is not None
    txn.delete("delivery_ids", name)


@pytest.mark.parametrize(
    "is_forgotten",
    [
        lambda one: one.sequence <= SMALL // 2,
        lambda one: one.sequence % 3 > 0,
        lambda one: one.endpoint_id == "crm",
        lambda one: one.sequence > 1,
    ],
    ids=["the first half", "two of three", "one endpoint's", "all but one"],
)
def test_forgotten_deliveries_are_passed_over(
    tmp_path: Path, is_forgotten: Callable[[Delivery], bool]
) -> None:
    """Wherever a page begins, also by a customer's aggregations, which stay."""
    store = Store(tmp_path / "data")
    store.write(partial(fill, count=200))
    whole = DeliveryQuery(status=DeliveryStatus.DELIVERED)
    with store.read() as txn:
        before = delivery_queries.read_deliveries(txn, PARTS, whole, LARGE, None)
    for one in before:
        if is_forgotten(one):
            store.write(partial(forget, delivery=one))
    left = [one for one in before if not is_forgotten(one)]
    with store.read() as txn:
        for behind, one in enumerate(before, 1):
            found = delivery_queries.read_deliveries(
                txn, PARTS, whole, LARGE, place_of_delivery(one)
            )
            assert found == [each for each in before[behind:] if not is_forgotten(each)]
        of_one = DeliveryQuery(customer_id="c7", status=DeliveryStatus.DELIVERED)
        found = delivery_queries.read_deliveries(txn, PARTS, of_one, LARGE, None)
        assert found == [one for one in left if one.customer_id == "c7"]
    store.close()


def test_an_endpoints_deliveries_are_counted_so_far(
    stores: dict[int, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a million of them."""
    assert COUNTED_MAX == 10_000
    with stores[SMALL].read() as txn:
        counts = [(one.pending, one.parked) for one in delivery_queries.read_endpoints(txn)]
        assert counts == [(WAITING, PARKED - 1)] * 3
        monkeypatch.setattr(delivery_queries, "COUNTED_MAX", 7)
        counts = [(one.pending, one.parked) for one in delivery_queries.read_endpoints(txn)]
        assert counts == [(7, 7)] * 3


def batched(store: Store, outcome: Outcome | None) -> Delivery:
    """A batch of the first ten deliveries to billing: in the air, or settled without a retry."""

    def claim(txn: Transaction) -> Delivery:
        (batch,) = outbox.claim(txn, "billing", 1, END_MS, 10).deliveries
        if outcome is not None:
            attempt = Attempt("billing", batch.sequence, 1, END_MS, END_MS + 5, outcome)
            settled = settle_attempt(batch, outcome, END_MS, Fraction(0), ())
            outbox.settle(txn, [settled], [attempt])
        return batch

    return store.write(claim)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (None, DeliveryStatus.PENDING),
        (Outcome(), DeliveryStatus.DELIVERED),
        (Outcome("HTTP 500"), DeliveryStatus.PARKED),
    ],
)
def test_what_is_in_a_batch_has_its_state(
    tmp_path: Path, outcome: Outcome | None, status: DeliveryStatus
) -> None:
    """In every listing and by itself, with the attempts of the batch; the batch is not listed."""
    store = Store(tmp_path / "data")
    for number in range(12):
        made = first_attempt(closed_hour(f"c{number:02}", MIDDLE_MS), "billing", b"{}", MIDDLE_MS)
        store.write(partial(outbox.add, made=made))
    batch = batched(store, outcome)
    whole = DeliveryQuery("billing", after_sequence=0)
    with store.read() as txn:
        found = delivery_queries.read_deliveries(txn, PARTS, whole, LARGE, None)
        newest = delivery_queries.read_deliveries(txn, PARTS, DeliveryQuery(), LARGE, None)
        of_status = delivery_queries.read_deliveries(
            txn, PARTS, DeliveryQuery(status=status), LARGE, None
        )
        history = delivery_queries.read_history(txn, found[3].id)
        own = delivery_queries.read_history(txn, batch.id)
        (summary,) = delivery_queries.read_endpoints(txn)
    assert [one.sequence for one in found] == list(range(1, 13))
    assert newest == found[::-1]
    assert [one.attempts for one in found] == [1] * 10 + [0] * 2
    assert {one.status for one in found[:10]} == {status}
    assert of_status == [one for one in newest if one.status is status]
    assert history is not None
    assert own is not None
    assert (history.delivery, history.batch) == (found[3], batch.id)
    assert [one.attempt for one in history.attempts] == [one.attempt for one in own.attempts]
    assert {one.batch for one in history.attempts} <= {batch.id}
    assert len(own.attempts) == (outcome is not None)
    assert (own.batch, own.behind) == (None, None)
    assert own.delivery.body == batch.body
    waiting = 12 if outcome is None else 2
    parked = 10 if status is DeliveryStatus.PARKED else 0
    assert (summary.pending, summary.parked) == (waiting, parked)
    if outcome is not None:
        store.write(lambda txn: outbox.send_again(txn, found[3], END_MS))
        with store.read() as txn:
            (summary,) = delivery_queries.read_endpoints(txn)
            history = delivery_queries.read_history(txn, found[3].id)
        assert (summary.pending, summary.parked) == (3, max(parked - 1, 0))
        assert history is not None
        assert (history.delivery.status, history.batch) == (DeliveryStatus.PENDING, None)
    store.close()


def test_neighbours_in_different_batches(tmp_path: Path) -> None:
    """Each has the state of its own."""
    store = Store(tmp_path / "data")
    for number in range(25):
        made = first_attempt(closed_hour(f"c{number:02}", MIDDLE_MS), "billing", b"{}", MIDDLE_MS)
        store.write(partial(outbox.add, made=made))
    batches = batched(store, Outcome()), batched(store, Outcome("HTTP 500"))
    states = [DeliveryStatus.DELIVERED] * 10 + [DeliveryStatus.PARKED] * 10
    for query in (DeliveryQuery(), DeliveryQuery("billing", after_sequence=0)):
        with store.read() as txn:
            found = delivery_queries.read_deliveries(txn, PARTS, query, LARGE, None)
        by_sequence = sorted(found, key=lambda one: one.sequence)
        assert [one.status for one in by_sequence] == states + [DeliveryStatus.PENDING] * 5
    assert batches[0].id != batches[1].id
    store.close()


def test_attempts_are_paged_over_what_went_in_a_batch(tmp_path: Path) -> None:
    """A page may begin alone and end in the batch; numbers go on, and none is there twice."""
    store = Store(tmp_path / "data")
    test_batches.close(store, "a", "b")
    waits_ms = (0,) * 500

    def attempt_so_often(times: int, batch: int) -> None:
        for _ in range(times):
            [begun] = test_batches.claim(store, limit=1, now_ms=1_000, batch=batch).deliveries
            test_batches.settle(store, begun, test_batches.FAILED, waits_ms)

    attempt_so_often(129, batch=2)
    [begun] = test_batches.claim(store, now_ms=1_000).deliveries
    test_batches.settle(store, begun, Outcome())
    one = test_batches.found(store, 1)
    test_batches.send_again(store, one)
    attempt_so_often(40, batch=1)
    pages = []
    with store.read() as txn:
        for skip in (0, 100, 200):
            history = delivery_queries.read_history(txn, one.id, skip)
            assert history is not None
            assert history.kept == 170
            pages.append([(each.number, each.in_batch) for each in history.attempts])
    store.close()
    alone = [(number, 0) for number in range(131, 171)]
    assert pages[0] == [(number, number) for number in range(71, 131)] + alone
    assert pages[1:] == [[(number, number) for number in range(1, 71)], []]
