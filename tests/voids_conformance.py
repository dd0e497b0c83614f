"""What every engine must keep: an event that is taken back is in the log and in no total."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from meterd.domain.admission import Late
from meterd.domain.idempotency import Recorded
from meterd.domain.operations import Operation
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.domain.usage import UsageQuery
from meterd.domain.voids import VoidOutcome
from meterd.ledger import DeliveryQuery, EventQuery
from tests.lateness_conformance import DAY, closed_two_hours, happened, results, revise
from tests.ledger_bench import (
    ALL,
    OPERATIONS,
    START_MS,
    append_at,
    at,
    close_ended,
    event,
    published,
    rules,
    stored,
)

if TYPE_CHECKING:
    from meterd.domain.stored_events import Voided
    from meterd.domain.totals import Totals
    from tests.ledger_bench import Bench

# Of these, in their order, each of the seven operations says another.
VALUES = (3, -2, 7, 5)


async def void(
    bench: Bench, number: int, reason: str = "as agreed", late: Late = Late.REVISE
) -> Voided:
    """The event that was stored as that one, from 0 on."""
    found = await stored(bench)
    voided = await bench.ledger.void(found[-1 - number].id, reason, late=late)
    assert voided is not None
    return voided


async def live(bench: Bench, kind: PeriodType = PeriodType.HOURLY) -> dict[str, Totals]:
    return (await bench.ledger.customer_usage("acme", kind)).window.by_type


def shown(totals: Totals) -> tuple[str, ...]:
    values = (totals.sum, totals.min, totals.max, totals.first, totals.last)
    return (str(totals.count), *(f"{value:f}" for value in values))


class VoidsConformance:
    @pytest.mark.parametrize(
        ("number", "left"),
        [
            (0, ("3", "10", "-2", "7", "-2", "5")),
            (1, ("3", "15", "3", "7", "3", "5")),
            (2, ("3", "6", "-2", "5", "3", "5")),
            (3, ("3", "8", "-2", "7", "3", "7")),
        ],
    )
    async def test_totals_are_those_of_the_others(
        self, bench: Bench, number: int, left: tuple[str, ...]
    ) -> None:
        """Count, sum, least, greatest, first, last: at once, and when the period closes."""
        for value in VALUES:
            await bench.ledger.append([event(value=value), event("b", value=100)])
        await void(bench, 2 * number)
        assert shown((await live(bench))["sum"]) == left
        assert shown((await live(bench, PeriodType.YEARLY))["sum"]) == left
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-14T12:10"))
        assert (await results(bench))["hourly_2026011411"] == (1, left[1], 3)

    async def test_it_stays_in_the_log(self, bench: Bench) -> None:
        """With why and when, whoever asks for it in whatever way, also behind a restart."""
        await bench.ledger.append([event(value=value) for value in VALUES])
        bench.clock.now_ms += 5_000
        voided = await void(bench, 1, "ticket 4711")
        assert voided.outcome is VoidOutcome.VOIDED
        why = voided.event.void
        assert why is not None
        assert (why.reason, why.voided_ms) == ("ticket 4711", START_MS + 5_000)
        for _ in range(2):
            for query in (EventQuery(), EventQuery("acme"), EventQuery(event_type="sum")):
                found = await stored(bench, query)
                assert [one.void for one in found] == [None, None, voided.event.void, None]
                assert found[2] == voided.event
                forward = msgspec.structs.replace(query, oldest_first=True)
                assert await stored(bench, forward) == found[::-1]
            await bench.restart()

    async def test_it_is_void_once(self, bench: Bench) -> None:
        """Whoever comes again is told of the first time, and nothing changes; nor for others."""
        await bench.ledger.append([event(value=value) for value in VALUES])
        first = await void(bench, 1, "once")
        bench.clock.now_ms += 60_000
        for _ in range(2):
            again = await void(bench, 1, "twice")
            assert (again.outcome, again.event) == (VoidOutcome.VOID_BEFORE, first.event)
            assert shown((await live(bench))["sum"]) == ("3", "15", "3", "7", "3", "5")
            await bench.restart()

    async def test_who_is_unknown_is_none(self, bench: Bench) -> None:
        """No id of an event, or one that is nearly one."""
        await bench.ledger.append([event()])
        (one,) = await stored(bench)
        near = one.id[:-1] + bytes((one.id[-1] ^ 1,))
        behind = (int.from_bytes(one.id, "big") + (1 << 44)).to_bytes(16, "big")
        for name in (bytes(16), b"\xff" * 16, near, behind):
            assert await bench.ledger.void(name, "none") is None
        assert len(await live(bench)) == 1

    async def test_its_key_stays_used(self, bench: Bench) -> None:
        """A repeat is one of an event that was stored, and counts no more than that."""
        keyed = msgspec.structs.replace(event(value=5), idempotency_key="order-1")
        await bench.ledger.append([keyed])
        await void(bench, 0)
        for _ in range(2):
            assert await bench.ledger.append([keyed]) == [Recorded.DUPLICATE]
            other = msgspec.structs.replace(keyed, event_type="max")
            assert await bench.ledger.append([other]) == [Recorded.CONFLICT]
            assert await live(bench) == {}
            await bench.restart()

    async def test_closed_periods_are_revised(self, bench: Bench) -> None:
        """Each that it came to, and webhooks say so; open ones just count it no more."""
        await append_at(bench, "2026-01-14T10:10", value=8)
        await closed_two_hours(bench)
        past = bench.ledger.past_events()
        await void(bench, 0)
        assert bench.ledger.past_events() == past + 1
        assert await bench.ledger.late_since_ms() == bench.clock.now_ms
        assert (await results(bench))["hourly_2026011410"] == (1, "9", 2)
        assert await revise(bench) == 1
        assert (await results(bench))["hourly_2026011410"] == (2, "1", 1)
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-15T00:10"))
        assert (await results(bench))["daily_20260114"] == (1, "3", 2)
        await void(bench, 1)
        assert await revise(bench) == 2
        assert (await results(bench))["daily_20260114"] == (2, "2", 1)
        assert await revise(bench) == 0
        (made, *_) = await bench.ledger.deliveries(DeliveryQuery("billing"), limit=ALL)
        body = json.loads(made.body)
        assert (body["type"], body["data"]["events"]) == ("aggregation.revised", {"sum": 2})
        assert body["data"]["previous"]["events"] == {"sum": 3}

    async def test_a_bill_is_corrected_down_to_nothing(self, bench: Bench) -> None:
        """Its revision has no figures; what comes then makes one that has."""
        await closed_two_hours(bench)
        await void(bench, 0)
        assert await revise(bench) == 1
        (found,) = [
            one for one in await published(bench) if one.aggregation.id.endswith("2026011410")
        ]
        assert (found.aggregation.revision, found.aggregation.figures) == (2, {})
        (made, *_) = await bench.ledger.deliveries(DeliveryQuery("billing"), limit=ALL)
        data = json.loads(made.body)["data"]
        assert (data["events"], data["eventCounts"], data["eventCount"]) == ({}, {}, 0)
        assert (data["exact"], data["previous"]["events"]) == ({}, {"sum": 1})
        await bench.restart()
        late = [happened("2026-01-14T10:40", 5), happened("2026-01-14T10:41", -1)]
        await bench.ledger.append(late)
        await bench.ledger.next_to_close()
        # It is read as it was, whatever is configured meanwhile.
        now = rules(*DAY, operations={"sum": Operation.MAX})
        assert await bench.ledger.revise(now, until_ms=bench.clock.now_ms) == 1
        assert (await results(bench))["hourly_2026011410"] == (3, "4", 2)
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-15T00:10"))
        assert (await results(bench))["daily_20260114"] == (1, "6", 3)

    async def test_where_nothing_is_left_nothing_is_published(self, bench: Bench) -> None:
        """The hour closes, its day and the rest; a snapshot of it is gone at the next."""
        await bench.ledger.append([event(), event(event_type="max")])
        await bench.ledger.snapshot(rules(*DAY))
        assert len(await published(bench)) == 2
        await void(bench, 0)
        await bench.ledger.snapshot(rules(*DAY))
        assert [sorted(one.aggregation.figures) for one in await published(bench)] == [["max"]] * 2
        await void(bench, 1)
        assert await live(bench) == {}
        assert await bench.ledger.usage_windows(UsageQuery("acme", DAY[0]), limit=ALL) == []
        await bench.ledger.snapshot(rules(*DAY))
        assert await published(bench) == []
        await bench.restart()
        closed = await close_ended(bench, rules(*DAY), clock_ms=at("2027-01-15T00:10"))
        assert {period.type for period, _ in closed} == set(PeriodType)
        assert sum(made.created + made.updated for _, made in closed) == 0
        assert await published(bench) == []
        assert await bench.ledger.next_to_close() is None
        assert [one.id for one in await bench.ledger.customers(limit=ALL)] == ["acme"]

    async def test_what_was_dated_is_taken_from_its_own_hour(self, bench: Bench) -> None:
        """Not from the one in which it was received, nor another that came with it."""
        await closed_two_hours(bench)
        await bench.ledger.append(
            [happened("2026-01-14T10:40", 5), event(value=9), happened("2026-01-14T10:41", 7)]
        )
        await revise(bench)
        await void(bench, 2)
        assert await revise(bench) == 1
        assert (await results(bench))["hourly_2026011410"] == (3, "8", 2)
        assert shown((await live(bench))["sum"])[:2] == ("1", "9")

    async def test_groups_leave_it_out(self, bench: Bench) -> None:
        """As its window does."""
        for plan, value in (("pro", 1), ("free", 2), ("pro", 4)):
            await bench.ledger.append(
                [event(value=value, metadata=b'{"plan":"%s"}' % plan.encode())]
            )
        await void(bench, 2)
        query = UsageQuery("acme", PeriodType.HOURLY, group_by=("plan",))
        (window,) = await bench.ledger.usage_windows(query, limit=ALL)
        portion = await bench.ledger.usage_groups(query, window.period, limit=ALL)
        assert {group: int(totals.sum) for (_, (group,)), totals in portion.groups.items()} == {
            "pro": 1,
            "free": 2,
        }
        assert int(window.by_type["sum"].sum) == 3

    async def test_a_void_may_be_refused_of_closed_hours(self, bench: Bench) -> None:
        """Nothing changes then; one of an hour that is over and open may be void."""
        await closed_two_hours(bench)
        await append_at(bench, "2026-01-14T12:20", value=9)
        bench.clock.now_ms += HOUR_MS
        refused = await void(bench, 0, late=Late.REJECT)
        assert (refused.outcome, refused.event.void) == (VoidOutcome.TOO_LATE, None)
        assert await bench.ledger.late_since_ms() is None
        assert (await void(bench, 2, late=Late.REJECT)).outcome is VoidOutcome.VOIDED
        await void(bench, 0)
        assert (await void(bench, 0, late=Late.REJECT)).outcome is VoidOutcome.VOID_BEFORE

    async def test_all_seven_operations_say_what_is_left(self, bench: Bench) -> None:
        """In every period, the hour's and all that it was handed up to."""
        for name in OPERATIONS:
            await bench.ledger.append([event(event_type=name, value=value) for value in VALUES])
        await close_ended(bench, rules(), clock_ms=at("2027-01-02T00:10"))
        for number in range(0, 4 * len(OPERATIONS), 4):
            await void(bench, number)
        assert await revise(bench) == len(PeriodType)
        for found in await published(bench):
            figures = found.aggregation.figures
            assert found.aggregation.revision == 2
            assert {name: float(one.value) for name, one in figures.items()} == {
                "sum": 10,
                "avg": pytest.approx(10 / 3),
                "min": -2,
                "max": 7,
                "count": 3,
                "first": -2,
                "last": 5,
            }

    async def test_many_at_once(self, bench: Bench) -> None:
        """While events come, of the same hour too: each counts, or is void, once."""
        await bench.ledger.append([event(value=2**number) for number in range(20)])
        ids = [one.id for one in await stored(bench)]
        async with trio.open_nursery() as nursery:
            for number, event_id in enumerate([*ids[::2], *ids[::2]]):
                nursery.start_soon(bench.ledger.void, event_id, "at once")
                late = event(value=2 ** (20 + number))
                nursery.start_soon(partial(bench.ledger.append, [late]))
        left = (await live(bench))["sum"]
        assert left.sum == sum(2**number for number in range(0, 20, 2)) + 2**40 - 2**20
        assert left.count == 30
