"""What a query costs: in proportion to what it returns, however much is stored.

That the answers are right is the conformance suite's business; here each cursor step and each
look-up in LMDB is counted, in a store and in one ten times as large.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import pytest

from meterd.domain.aggregations import FIRST_REVISION, Aggregation, Figure
from meterd.domain.changes import Change
from meterd.domain.deliveries import first_attempt
from meterd.domain.errors import CorruptRecordError
from meterd.domain.event_ids import Stamp
from meterd.domain.events import BATCH_MAX
from meterd.domain.operations import Operation
from meterd.domain.periods import HOUR_MS, Period, PeriodType, period_at
from meterd.domain.receipts import Receipt, receive
from meterd.domain.totals import PeriodTotals, totals_of
from meterd.embedded import journal, keys, log, outbox, queries, records
from meterd.embedded.store import PARTS, Store
from meterd.embedded.transaction import Transaction
from meterd.ledger import AggregationPlace, AggregationQuery, EventQuery
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL, LARGE = 2_000, 20_000
TYPES: Final = ("api.calls", "storage", "seats")
LIMIT: Final = 20
MINUTE_MS: Final = 60_000
# In the middle of both stores: the larger one has more before it and more behind it.
SOME_MS: Final = START_MS
SOME_HOUR_MS: Final = period_at(PeriodType.HOURLY, SOME_MS).start_ms
SOME_ID: Final = Stamp(SOME_MS, 0, 0).id()
SOME_PLACE: Final = AggregationPlace(SOME_HOUR_MS, "c7", PeriodType.HOURLY)


def customer_of(number: int, events: int) -> str:
    """Every other event is of one of a few, whose logs grow with the store; the rest of many."""
    return f"c{number % 16}" if number % 2 else f"d{number % (events // 40)}"


def receipt_of(number: int, events: int) -> Receipt:
    """Two events every two minutes, of two customers: every record of the log has both."""
    numbers = (2 * number, 2 * number + 1)
    found = [event(customer_of(n, events), TYPES[n % 3], n) for n in numbers]
    return receive(Stamp(SOME_MS + (2 * number - events // 2) * MINUTE_MS, 2 * number, 0), found)


def change_of(receipt: Receipt, offset: int) -> Change:
    """What one event changes: its hour's totals, aggregation and delivery."""
    sent, hour = receipt.events[offset], receipt.hour
    at = receipt.position(offset)
    totals = totals_of([sent.value], at, at)
    figures = {sent.event_type: Figure(Operation.SUM, sent.value, 1)}
    times = hour.start_ms, FIRST_REVISION, True, hour.end_ms, hour.end_ms
    aggregation = Aggregation(sent.customer_id, hour.type, *times, figures, ("billing",))
    return Change(
        sent.customer_id,
        first_received_ms=receipt.received_ms,
        totals={hour: PeriodTotals(closed=False, by_type={sent.event_type: totals})},
        aggregations={hour: aggregation},
        deliveries=(first_attempt(aggregation, "billing", b"{}", hour.end_ms),),
    )


def index_of(receipts: list[Receipt]) -> Iterator[Change]:
    """Each customer's blocks, posted by one to four events."""
    waiting: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)
    for receipt in receipts:
        for sent in receipt.events:
            blocks = waiting[sent.customer_id, sent.event_type]
            blocks += receipt.blocks
            if len(blocks) > sent.value % 4:
                yield index_change(sent.customer_id, sent.event_type, blocks)
                blocks.clear()
    for (customer, event_type), blocks in waiting.items():
        yield index_change(customer, event_type, blocks)


def index_change(customer_id: str, event_type: str, blocks: list[bytes]) -> Change:
    return Change(customer_id, blocks={event_type: bytearray(b"".join(blocks))})


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Store]]:
    made = {}
    for events in (SMALL, LARGE):
        store = Store(tmp_path_factory.mktemp("queries") / "data")
        receipts = [receipt_of(number, events) for number in range(events // 2)]
        changes = [change_of(receipt, offset) for receipt in receipts for offset in range(2)]
        store.write(partial(log.write_receipts, receipts=receipts))
        for written in (changes, list(index_of(receipts))):
            store.write(partial(journal.write_changes, changes=written, parts=PARTS))
        store.write(partial(journal.write_posted, through=receipts[-LIMIT].last_id))
        made[events] = store
    yield made
    for store in made.values():
        store.close()


class Counted:
    """Stands in for an LMDB transaction and counts what is asked of it and of its cursors."""

    def __init__(self, txn: Any) -> None:
        self._txn = txn
        self.steps = 0

    def cursor(self, db: Any) -> Any:
        return CountedCursor(self._txn.cursor(db), self)

    def get(self, key: bytes, db: Any) -> Any:
        self.steps += 1
        return self._txn.get(key, db=db)

    def __getattr__(self, name: str) -> Any:
        self.steps += 1
        return getattr(self._txn, name)


class CountedCursor:
    """Each move is a step; reading where it stands is not."""

    def __init__(self, cursor: Any, counted: Counted) -> None:
        self._cursor = cursor
        self._counted = counted
        self.key, self.value = cursor.key, cursor.value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cursor.close()

    def __getattr__(self, name: str) -> Any:
        self._counted.steps += 1
        return getattr(self._cursor, name)


def cost(store: Store, ask: Callable[[Transaction], Any]) -> tuple[int, Any]:
    """How many steps the question takes, and its answer."""
    with store.read() as txn:
        counted: Any = Counted(txn._txn)
        answer = ask(Transaction(counted, txn._tables))
        return counted.steps, answer


EVENT_QUERIES = {
    "all": EventQuery(),
    "customer": EventQuery(customer_id="c7"),
    "type": EventQuery(event_type="storage"),
    "customer and type": EventQuery("c7", "storage"),
    "unknown customer": EventQuery(customer_id="nobody"),
    "unknown type": EventQuery(event_type="nothing"),
    "window": EventQuery(from_ms=SOME_MS - HOUR_MS // 10, to_ms=SOME_MS),
    "window of a type": EventQuery(None, "seats", SOME_MS - HOUR_MS // 10, SOME_MS),
    "since": EventQuery(from_ms=SOME_MS),
    "until": EventQuery(to_ms=SOME_MS),
    "the future": EventQuery(from_ms=START_MS * 2),
    "customer in a window": EventQuery("c7", None, SOME_MS, SOME_MS + HOUR_MS),
}
EVENT_QUERIES |= {
    f"{name}, oldest first": msgspec.structs.replace(query, oldest_first=True)
    for name, query in EVENT_QUERIES.items()
}
AGGREGATION_QUERIES = {
    "all": AggregationQuery(),
    "customer": AggregationQuery(customer_id="c7"),
    "period": AggregationQuery(period_type=PeriodType.HOURLY),
    "another period": AggregationQuery(period_type=PeriodType.YEARLY),
    "customer and period": AggregationQuery("c7", PeriodType.HOURLY),
    "unknown customer": AggregationQuery(customer_id="nobody"),
    "window": AggregationQuery(from_ms=SOME_HOUR_MS, to_ms=SOME_HOUR_MS),
    "until": AggregationQuery(to_ms=SOME_HOUR_MS),
    "since the future": AggregationQuery(from_ms=START_MS * 2),
}


def must_not_grow(stores: dict[int, Store], ask: Callable[[Transaction], Any]) -> None:
    """A few more for other customers in other parts, but nothing like ten times as many."""
    small, large = (cost(stores[events], ask) for events in (SMALL, LARGE))
    assert large[0] <= 1.2 * small[0] + 10, (small, large)


@pytest.mark.parametrize("before", [None, SOME_ID], ids=["newest", "deep"])
@pytest.mark.parametrize("query", EVENT_QUERIES.values(), ids=EVENT_QUERIES.keys())
def test_events_cost_what_they_return(
    stores: dict[int, Store], query: EventQuery, before: bytes | None
) -> None:
    """A page, and where it ends, for every shape of query, at the top and deep in the log."""
    must_not_grow(stores, lambda txn: queries.read_events(txn, PARTS, query, LIMIT, before))
    must_not_grow(stores, lambda txn: queries.page_end(txn, PARTS, query, LIMIT, before))


@pytest.mark.parametrize("after", [None, SOME_PLACE], ids=["newest", "deep"])
@pytest.mark.parametrize("query", AGGREGATION_QUERIES.values(), ids=AGGREGATION_QUERIES.keys())
def test_aggregations_cost_what_they_return(
    stores: dict[int, Store], query: AggregationQuery, after: AggregationPlace | None
) -> None:
    """As for events."""
    must_not_grow(stores, lambda txn: queries.read_aggregations(txn, PARTS, query, LIMIT, after))
    must_not_grow(
        stores, lambda txn: queries.aggregations_page_end(txn, PARTS, query, LIMIT, after)
    )


def customers_of_an_hour(txn: Transaction) -> list[str]:
    return journal.customers_in(txn, 3, period_at(PeriodType.HOURLY, SOME_MS), None, LIMIT)


def next_to_close(txn: Transaction) -> Period | None:
    return journal.next_to_close(txn, PARTS)


def next_due(txn: Transaction) -> int | None:
    return outbox.next_due_ms(txn, "billing")


def known(txn: Transaction) -> tuple[int, int]:
    return txn.count("customers"), log.count_events(txn)


def not_posted(txn: Transaction) -> list[Receipt]:
    """What a start reads after a crash."""
    found = list(log.appends_from(txn, journal.posted_through(txn)))
    assert len(found) == LIMIT - 1
    return found


def last_stamp(txn: Transaction) -> Stamp | None:
    return log.last_stamp(txn)


ASKED: Final = (customers_of_an_hour, next_to_close, next_due, known, not_posted, last_stamp)


@pytest.mark.parametrize("ask", ASKED)
def test_what_actors_ask_costs_little(
    stores: dict[int, Store], ask: Callable[[Transaction], Any]
) -> None:
    """What is next, who is in a period, how much there is, and what came last."""
    must_not_grow(stores, ask)


def test_a_claim_costs_what_it_takes(stores: dict[int, Store]) -> None:
    """The queue behind it is not looked at."""
    costs = []
    for store in stores.values():

        def claim(txn: Transaction) -> None:
            counted: Any = Counted(txn._txn)
            due = outbox.claim(Transaction(counted, txn._tables), "billing", LIMIT, START_MS * 2)
            assert len(due.deliveries) == LIMIT
            costs.append(counted.steps)

        store.write(claim)
    assert costs[1] <= costs[0]


def test_the_counter_counts(stores: dict[int, Store]) -> None:
    """Reading all of a store ten times as large takes ten times as many steps."""
    whole = [
        cost(store, lambda txn: queries.read_events(txn, PARTS, EventQuery(), LARGE, None))
        for store in stores.values()
    ]
    assert [len(events) for _, events in whole] == [SMALL, LARGE]
    assert whole[1][0] > 9 * whole[0][0]


@pytest.mark.parametrize("customer_id", ["c7", "d8"])
@pytest.mark.parametrize("before", [None, SOME_ID], ids=["newest", "deep"])
def test_pages_hold_no_more_than_asked_for(
    stores: dict[int, Store], customer_id: str, before: bytes | None
) -> None:
    """A customer's events come from its own range: each a step in it, two to find its record and
    one to read that; and a few for each type.
    """
    for query in (EventQuery(customer_id), EventQuery(customer_id, "seats")):
        read = partial(queries.read_events, parts=PARTS, query=query, limit=LIMIT, before=before)
        steps, events = cost(stores[LARGE], read)
        assert {one.event.customer_id for one in events} == {customer_id}
        assert steps <= 4 * len(events) + 5 * len(TYPES)


def test_a_batch_is_read_from_its_few_records(tmp_path: Path) -> None:
    """Each is found once for every type that is in it, and read once."""
    store = Store(tmp_path / "data")
    events = [event("c7", TYPES[n % 3], n) for n in range(BATCH_MAX)]
    receipt = receive(Stamp(SOME_MS, 0, 0), events)
    blocks = {name: bytearray(b"".join(receipt.blocks)) for name in TYPES}
    store.write(partial(log.write_receipts, receipts=[receipt]))
    changes = [Change("c7", first_received_ms=SOME_MS, blocks=blocks)]
    store.write(partial(journal.write_changes, changes=changes, parts=PARTS))
    query = EventQuery(customer_id="c7")
    steps, found = cost(store, lambda txn: queries.read_events(txn, PARTS, query, BATCH_MAX, None))
    store.close()
    assert [one.event for one in reversed(found)] == events
    assert steps <= len(receipt.blocks) * (1 + 2 * len(TYPES)) + 5 * len(TYPES)


@pytest.mark.parametrize("customer_id", [None, "a"])
@pytest.mark.parametrize("event_type", [None, "seats"])
def test_bounds_and_pages_cut_through_a_record(
    tmp_path: Path, customer_id: str | None, event_type: str | None
) -> None:
    """Of a transaction that took a few milliseconds: every bound, every page, every filter."""
    store = Store(tmp_path / "data")
    receipts = []
    for number in range(12):
        sent = [event("ab"[number % 2], TYPES[number // 2 % 3], number)]
        receipts.append(receive(Stamp(SOME_MS + number // 3, number, 0), sent))
    store.write(partial(log.write_receipts, receipts=receipts))
    blocks: dict[str, bytearray] = defaultdict(bytearray)
    for receipt in receipts[::2]:
        blocks[receipt.events[0].event_type] += receipt.blocks[0]
    changes = [Change("a", first_received_ms=SOME_MS, blocks=blocks)]
    store.write(partial(journal.write_changes, changes=changes, parts=PARTS))
    bounds = (None, *range(SOME_MS - 1, SOME_MS + 6))
    for from_ms, to_ms in product(bounds, bounds):
        query = EventQuery(customer_id, event_type, from_ms, to_ms)
        expected = [
            receipt.events[0]
            for receipt in reversed(receipts)
            if customer_id in {None, receipt.events[0].customer_id}
            and event_type in {None, receipt.events[0].event_type}
            and (from_ms is None or from_ms <= receipt.received_ms)
            and (to_ms is None or receipt.received_ms <= to_ms)
        ]
        with store.read() as txn:
            found = queries.read_events(txn, PARTS, query, LIMIT, None)
            assert [one.event for one in found] == expected
            for cut in range(1, len(found)):
                rest = queries.read_events(txn, PARTS, query, LIMIT, found[cut - 1].id)
                assert rest == found[cut:]
                assert queries.page_end(txn, PARTS, query, cut, None) == found[cut - 1].id
            assert queries.page_end(txn, PARTS, query, len(found) or 1, None) is None
            forward = msgspec.structs.replace(query, oldest_first=True)
            assert queries.read_events(txn, PARTS, forward, LIMIT, None) == found[::-1]
            for cut in range(1, len(found)):
                rest = queries.read_events(txn, PARTS, forward, LIMIT, found[cut].id)
                assert rest == found[:cut][::-1]
    store.close()


@pytest.mark.parametrize("is_oldest_first", [False, True])
def test_a_page_ends_within_blocks_of_which_no_event_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_oldest_first: bool
) -> None:
    """Three batches of four blocks each, the last of them short; at every event."""
    store = Store(tmp_path / "data")
    receipts = []
    for number in range(3):
        sent = [event("ab"[n % 2], TYPES[n % 3], n) for n in range(200)]
        receipts.append(receive(Stamp(SOME_MS + number, 1000 * number, 0), sent))
    store.write(partial(log.write_receipts, receipts=receipts))
    for event_type, behind_events in product((None, "seats"), (0, 1, 70)):
        query = EventQuery(event_type=event_type, oldest_first=is_oldest_first)
        with store.read() as txn, monkeypatch.context() as patched:
            found = [one.id for one in queries.read_events(txn, PARTS, query, 1000, None)]
            behind = found[behind_events - 1] if behind_events else None
            patched.delattr(records, "decode_record")
            for limit in range(1, len(found) - behind_events):
                end = queries.page_end(txn, PARTS, query, limit, behind)
                assert end == found[behind_events + limit - 1]
            for limit in (len(found) - behind_events, 10_000):
                assert queries.page_end(txn, PARTS, query, limit, behind) is None


def test_an_index_that_names_no_record_is_damage(tmp_path: Path) -> None:
    """A bit of its key flipped, which no checksum has seen while only keys are read."""
    with closing(Store(tmp_path / "data")) as store:
        receipt = receive(Stamp(SOME_MS, 0, 0), [event("a", "seats", 1)])
        store.write(partial(log.write_receipts, receipts=[receipt]))
        flipped = Stamp(SOME_MS, 1, 0).id()
        index = keys.record_by_type("seats")
        store.write(lambda txn: txn.put("records_by_type", index + flipped, b""))
        named = f"is not there: {flipped.hex()}"
        with store.read() as txn, pytest.raises(CorruptRecordError, match=named):
            queries.read_events(txn, PARTS, EventQuery(event_type="seats"), LIMIT, None)
