"""What every engine must keep of ``ledger.Ledger``: one suite, run by each engine's own tests.

A test module has a fixture ``bench`` (see ``ledger_bench``) and a class that inherits
``LedgerConformance``. Here are appending and reading events; the closing of periods, snapshots and
deliveries have files of their own beside this one.
"""

from __future__ import annotations

import itertools
import uuid
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from meterd.domain.errors import OverloadedError
from meterd.domain.idempotency import Recorded
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.ledger import AggregationQuery, EventQuery
from tests.closing_conformance import ClosingConformance
from tests.delivery_conformance import DeliveryConformance
from tests.idempotency_conformance import IdempotencyConformance
from tests.lateness_conformance import LatenessConformance
from tests.ledger_bench import (
    ALL,
    EVERY_EVENT,
    START_MS,
    close_ended,
    event,
    figures,
    published,
    rules,
    stored,
)
from tests.pruning_conformance import PruningConformance
from tests.redelivery_conformance import RedeliveryConformance
from tests.snapshot_conformance import SnapshotConformance
from tests.usage_conformance import UsageConformance
from tests.voids_conformance import VoidsConformance

if TYPE_CHECKING:
    from meterd.domain.events import UsageEvent
    from meterd.domain.stored_events import StoredEvent
    from tests.ledger_bench import Bench

CUSTOMERS = ("acme", "Ærø", "acme2", "b")
TYPES = ("sum", "last", "avg")


async def appended(bench: Bench) -> list[UsageEvent]:
    """Seven appends over three hours, two of them within one millisecond; returns all, in order."""
    events: list[UsageEvent] = []
    for step_ms, size in ((0, 5), (0, 1), (1, 4), (HOUR_MS, 7), (1, 1), (HOUR_MS, 1), (5, 6)):
        bench.clock.now_ms += step_ms
        numbers = range(len(events), len(events) + size)
        batch = [event(CUSTOMERS[number * 3 % 4], TYPES[number % 3], number) for number in numbers]
        await bench.ledger.append(batch)
        events += batch
    return events


def contents(found: list[StoredEvent]) -> list[UsageEvent]:
    return [one.event for one in found]


class EventsConformance:
    async def test_each_event_has_its_outcome(self, bench: Bench) -> None:
        """As many outcomes as events, whether they are of one customer or of many."""
        single = await bench.ledger.append([event()])
        batch = await bench.ledger.append([event(customer) for customer in CUSTOMERS * 2])
        assert single == [Recorded.RECORDED]
        assert batch == [Recorded.RECORDED] * 8

    async def test_nothing_to_append_has_no_outcomes(self, bench: Bench) -> None:
        """An empty append is answered, and stores nothing."""
        with trio.fail_after(5):
            assert await bench.ledger.append([]) == []
        assert await stored(bench) == []

    async def test_what_was_sent_is_what_is_read(self, bench: Bench) -> None:
        """Customer, type, all digits of the value, the metadata's bytes, the time of receipt."""
        sent = [
            event("Ærø/ø 1", "sum", "9007199254740993.10", b'{ "plan":"gr\xc3\xbcn" }'),
            event("acme", "sum", "-1E-400"),
            event("acme", "sum", "1E+308"),
        ]
        await bench.ledger.append(sent)
        found = await stored(bench)
        assert contents(found) == sent[::-1]
        assert [str(one.event.value) for one in found] == [str(one.value) for one in sent[::-1]]
        assert {one.received_ms for one in found} == {START_MS}

    async def test_newest_first_then_last_stored_first(self, bench: Bench) -> None:
        """Over many customers and types, within one append and within one millisecond."""
        events = await appended(bench)
        assert contents(await stored(bench)) == events[::-1]

    async def test_ids_are_version_7_uuids_in_the_order_of_reading(self, bench: Bench) -> None:
        """Each event has its own id; greater is newer."""
        await appended(bench)
        ids = [one.id for one in await stored(bench)]
        assert ids == sorted(set(ids), reverse=True)
        assert {uuid.UUID(bytes=event_id).version for event_id in ids} == {7}

    async def test_a_clock_that_steps_back_does_not_reorder_the_log(self, bench: Bench) -> None:
        """What comes later stands later, also behind a restart: while the clock catches up, time
        stands still.
        """
        await bench.ledger.append([event(value=1)])
        bench.clock.now_ms -= 1000
        await bench.ledger.append([event(value=2)])
        await bench.restart()
        await bench.ledger.append([event(value=3)])
        bench.clock.now_ms += 1001
        await bench.ledger.append([event(value=4)])
        found = await stored(bench)
        assert [int(one.event.value) for one in found] == [4, 3, 2, 1]
        assert [one.received_ms - START_MS for one in found] == [1, 0, 0, 0]

    async def test_every_combination_of_filters(self, bench: Bench) -> None:
        """Customer, type and both inclusive bounds, alone and together."""
        events = await appended(bench)
        log = await stored(bench)
        assert contents(log) == events[::-1]
        times = sorted({one.received_ms for one in log})
        bounds = (None, times[0] - 1, times[0], times[2], times[2] + 1, times[-1], times[-1] + 1)
        for customer, event_type, from_ms, to_ms in itertools.product(
            (None, *CUSTOMERS, "acme1", "acm"), (None, *TYPES, "su"), bounds, bounds
        ):
            expected = [
                one
                for one in log
                if customer in {None, one.event.customer_id}
                and event_type in {None, one.event.event_type}
                and (from_ms is None or one.received_ms >= from_ms)
                and (to_ms is None or one.received_ms <= to_ms)
            ]
            query = EventQuery(customer, event_type, from_ms, to_ms)
            assert await stored(bench, query) == expected, query
            oldest_first = msgspec.structs.replace(query, oldest_first=True)
            assert await stored(bench, oldest_first) == expected[::-1], query

    @pytest.mark.parametrize(
        "query",
        [
            EVERY_EVENT,
            EventQuery(customer_id="acme"),
            EventQuery(event_type="last"),
            EventQuery("Ærø", "avg"),
            EventQuery(from_ms=START_MS + 1, to_ms=START_MS + HOUR_MS + 1),
            EventQuery(customer_id="nobody"),
            EventQuery(oldest_first=True),
            EventQuery(customer_id="acme", oldest_first=True),
            EventQuery(event_type="last", from_ms=START_MS + 1, oldest_first=True),
        ],
    )
    async def test_pages_visit_each_event_once(self, bench: Bench, query: EventQuery) -> None:
        """For any size of page, also where pages cut through a batch or end where one ends."""
        await appended(bench)
        whole = await stored(bench, query)
        for size in range(1, len(whole) + 2):
            visited: list[StoredEvent] = []
            before: bytes | None = None
            for _ in range(len(whole) + 1):
                page = await bench.ledger.events(query, limit=size, before=before)
                visited += page
                before = await bench.ledger.page_end(query, limit=size, before=before)
                if before is None:
                    break
                assert len(page) == size
            assert visited == whole, size

    async def test_a_page_begun_stays_whole_while_events_come(self, bench: Bench) -> None:
        """What is appended behind a cursor changes no older page."""
        await appended(bench)
        before = await bench.ledger.page_end(EVERY_EVENT, limit=3)
        older = await bench.ledger.events(EVERY_EVENT, limit=ALL, before=before)
        await bench.ledger.append([event(value=99)])
        assert await bench.ledger.events(EVERY_EVENT, limit=ALL, before=before) == older

    @pytest.mark.parametrize("name", ["{}\x00sum", "{}\x00", "{}sum", "\x00{}", "x" * 600, ""])
    async def test_a_name_that_no_event_can_have_finds_nothing(
        self, bench: Bench, name: str
    ) -> None:
        """Whatever a reader asks for, the answer is an empty list and not a failure."""
        customers = [f"c{number}" for number in range(64)]
        await bench.ledger.append([event(customer) for customer in customers])
        for customer in customers:
            other = name.format(customer)
            assert await stored(bench, EventQuery(customer_id=other)) == [], other
            assert await stored(bench, EventQuery(customer, event_type=other)) == [], other
            assert await published(bench, AggregationQuery(customer_id=other)) == [], other
            assert await bench.ledger.page_end(EventQuery(customer_id=other), limit=1) is None

    async def test_the_order_of_the_append_gives_first_and_last(self, bench: Bench) -> None:
        """Within one append as across appends of the same millisecond."""
        await bench.ledger.append(
            [event(event_type=kind, value=n) for n in (5, 9, 1) for kind in ("first", "last")]
        )
        await bench.ledger.append(
            [event(event_type=kind, value=n) for n in (4, 2) for kind in ("last", "first")]
        )
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=START_MS + HOUR_MS)
        assert await figures(bench, "acme_hourly_2026011411") == {"first": "5", "last": "2"}

    async def test_an_append_past_the_limit_stores_nothing(self, bench: Bench) -> None:
        """OverloadedError, and not one of its events; the next append is taken."""
        with pytest.raises(OverloadedError):
            await bench.ledger.append([event()] * bench.too_many)
        assert await stored(bench) == []
        assert await bench.ledger.append([event()]) == [Recorded.RECORDED]

    async def test_concurrent_appends_are_all_counted(self, bench: Bench) -> None:
        """Forty callers, a few customers: nothing lost, nothing twice, each batch together."""

        async def append_some(caller: int) -> None:
            for step in range(5):
                values = [caller * 100 + step * 10 + place for place in range(3)]
                await bench.ledger.append([event(f"c{value % 7}", value=value) for value in values])

        async with trio.open_nursery() as nursery:
            for caller in range(40):
                nursery.start_soon(append_some, caller)
        found = [int(one.event.value) for one in reversed(await stored(bench))]
        sent = [
            caller * 100 + step * 10 + place
            for caller in range(40)
            for step in range(5)
            for place in range(3)
        ]
        assert sorted(found) == sent
        batches = [found[start : start + 3] for start in range(0, len(found), 3)]
        assert all(batch == [batch[0], batch[0] + 1, batch[0] + 2] for batch in batches)
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=START_MS + HOUR_MS)
        totals = [one.aggregation.figures["sum"] for one in await published(bench)]
        assert sum(map(attrgetter("count"), totals)) == len(sent)
        assert sum(map(attrgetter("value"), totals)) == sum(sent)

    async def test_a_restart_keeps_the_log_and_its_order(self, bench: Bench) -> None:
        """Events of one millisecond stand in the order of storing, whoever stored them."""
        events = await appended(bench)
        await bench.restart()
        await bench.ledger.append([event(value=100), event(value=101)])
        assert contents(await stored(bench)) == [
            event(value=101),
            event(value=100),
            *events[::-1],
        ]


class LedgerConformance(
    EventsConformance,
    IdempotencyConformance,
    LatenessConformance,
    ClosingConformance,
    SnapshotConformance,
    DeliveryConformance,
    PruningConformance,
    RedeliveryConformance,
    UsageConformance,
    VoidsConformance,
):
    """All of it."""
