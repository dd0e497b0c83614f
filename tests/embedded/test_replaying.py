"""A replay's pages: what each costs, whatever lies before and behind it."""

from __future__ import annotations

from contextlib import closing
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import pytest

from meterd.domain.aggregations import Aggregation
from meterd.domain.changes import Change
from meterd.domain.deliveries import settle_attempt
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.embedded import journal, keys, outbox, records, replaying
from meterd.embedded.store import PARTS, Store
from meterd.ledger import AggregationPlace, Replay, Replayed
from tests.embedded.test_queries import cost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

SMALL, LARGE = 500, 5_000
MIDDLE_MS = 1_000_000 * HOUR_MS
END_MS = 2 * MIDDLE_MS
LIMIT = 20


def fill(txn: Transaction, hours: int) -> None:
    """One customer in each hour, two in each second one."""
    for number in range(hours):
        start_ms = MIDDLE_MS + (number - hours // 2) * HOUR_MS
        for customer in ("acme", "b")[: 1 + number % 2]:
            closed = Aggregation(customer, PeriodType.HOURLY, start_ms, 1, True, 0, 0, {})
            change = Change(customer, aggregations={closed.period: closed})
            journal.write_changes(txn, [change], PARTS)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Store]]:
    made = {}
    for hours in (SMALL, LARGE):
        made[hours] = Store(tmp_path_factory.mktemp("replay") / "data")
        made[hours].write(partial(fill, hours=hours))
    yield made
    for store in made.values():
        store.close()


@pytest.mark.parametrize(
    ("replay", "after"),
    [
        (Replay("crm", 0, END_MS), None),
        (Replay("crm", MIDDLE_MS, END_MS), None),
        (Replay("crm", 0, END_MS), AggregationPlace(MIDDLE_MS, "acme", PeriodType.HOURLY)),
        (Replay("crm", 0, HOUR_MS), None),
        (Replay("crm", END_MS, END_MS), None),
    ],
    ids=["from the start", "from the middle", "goes on", "before all", "behind all"],
)
def test_a_page_costs_what_is_in_it(
    stores: dict[int, Store], replay: Replay, after: AggregationPlace | None
) -> None:
    """Not what it passes over, nor what follows."""
    costs = [
        cost(store, lambda txn: replaying.count(txn, PARTS, replay, after, LIMIT, END_MS))
        for store in stores.values()
    ]
    assert costs[1][1].created in (0, LIMIT)
    assert costs[1][0] <= costs[0][0] + 10, costs


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    opened.write(partial(fill, hours=4))
    yield opened
    opened.close()


def replay_all(txn: Transaction) -> Replayed:
    return replaying.run(txn, PARTS, Replay("crm", 0, END_MS), None, LIMIT, END_MS, END_MS)


def endpoints(store: Store) -> list[tuple[str, ...]]:
    with store.read() as txn:
        stored = [payload for _, payload in txn.forward("aggregations", b"", b"")]
        return [records.decode_aggregation(payload).endpoints for payload in stored]


def test_a_page_is_all_or_nothing(store: Store) -> None:
    """Deliveries and the aggregations that name them are written together; a count writes none."""

    def fails(txn: Transaction) -> None:
        replay_all(txn)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.write(fails)
    store.write(
        lambda txn: replaying.count(txn, PARTS, Replay("crm", 0, END_MS), None, LIMIT, END_MS)
    )
    with store.read() as txn:
        assert txn.count("deliveries") == txn.count("outbox") == 0
    assert endpoints(store) == [()] * 6
    assert store.write(replay_all) == Replayed(0, 6)
    assert endpoints(store) == [("crm",)] * 6


def test_a_forgotten_delivery_is_made_again(store: Store) -> None:
    """Under its id, with a sequence of its own; its aggregation names the endpoint once."""
    store.write(replay_all)
    with store.read() as txn:
        first = outbox.get(txn, "crm", 1)

    def forget(txn: Transaction) -> None:
        (begun, *_) = outbox.claim(txn, "crm", 1, END_MS).deliveries
        assert begun.id == first.id
        outbox.settle(txn, [settle_attempt(begun, Outcome(), END_MS, Fraction(0))])
        txn.delete("deliveries", keys.delivery_key("crm", 1))
        txn.delete("delivery_ids", keys.delivery_name(first.id) or b"")

    store.write(forget)
    assert store.write(replay_all) == Replayed(5, 1)
    assert endpoints(store) == [("crm",)] * 6
    with store.read() as txn:
        made = outbox.find(txn, first.id)
        assert made is not None
        assert (made.sequence, made.period) == (7, first.period)


@pytest.mark.parametrize("after_ms", [5, -5])
def test_nothing_is_made_before_what_it_carries(tmp_path: Path, after_ms: int) -> None:
    """Though the clock was set back since."""
    computed_ms = MIDDLE_MS + 2 * HOUR_MS
    closed = Aggregation("acme", PeriodType.HOURLY, MIDDLE_MS, 1, True, 0, computed_ms, {})
    change = Change("acme", aggregations={closed.period: closed})
    replay, now_ms = Replay("crm", 0, END_MS), computed_ms + after_ms
    with closing(Store(tmp_path / "data")) as store:
        store.write(lambda txn: journal.write_changes(txn, [change], PARTS))
        store.write(lambda txn: replaying.run(txn, PARTS, replay, None, LIMIT, now_ms, now_ms))
        with store.read() as txn:
            assert outbox.get(txn, "crm", 1).created_ms == max(now_ms, computed_ms)
