"""What every engine must keep: events count when they happened, late ones by revisions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from meterd.domain.admission import Admission, Late
from meterd.domain.idempotency import Recorded
from meterd.domain.operations import Operation
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from meterd.ledger import AggregationQuery, DeliveryQuery
from tests.ledger_bench import ALL, START_MS, append_at, at, close_ended, event, published, rules

if TYPE_CHECKING:
    from meterd.domain.events import UsageEvent
    from tests.ledger_bench import Bench

DAY = (PeriodType.HOURLY, PeriodType.DAILY)
BOTH_DAYS_OVER_MS = at("2026-01-16T00:10")


def happened(instant: str, value: str | int = 1, **more: Any) -> UsageEvent:
    one = event(more.pop("customer_id", "acme"), more.pop("event_type", "sum"), value)
    return msgspec.structs.replace(one, timestamp_ms=at(instant), **more)


async def results(bench: Bench, event_type: str = "sum") -> dict[str, tuple[int, str, int]]:
    """Of each aggregation: revision, result, count."""
    return {
        found.aggregation.id.removeprefix("acme_"): (
            found.aggregation.revision,
            f"{figure.value:f}",
            figure.count,
        )
        for found in await published(bench)
        if (figure := found.aggregation.figures.get(event_type)) is not None
    }


async def closed_two_hours(bench: Bench) -> None:
    """10 to 11 with 1, 11 to 12 with 2, and it is 13:10."""
    await append_at(bench, "2026-01-14T10:20", value=1)
    await append_at(bench, "2026-01-14T11:20", value=2)
    await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-14T13:10"))


async def revise(bench: Bench) -> int:
    """All that is late; asking for the next to close has what was counted posted."""
    await bench.ledger.next_to_close()
    return await bench.ledger.revise(rules(*DAY), until_ms=bench.clock.now_ms)


class LatenessConformance:
    async def test_first_and_last_are_those_that_happened_first_and_last(
        self, bench: Bench
    ) -> None:
        """Whatever order they come in; of two that happened at once the one stored first is."""
        bench.clock.now_ms = at("2026-01-14T11:30")
        times = ["11:20", "11:05", "11:25", "11:05", "11:25"]
        for event_type in ("first", "last"):
            batch = [
                happened(f"2026-01-14T{time}", number, event_type=event_type)
                for number, time in enumerate(times)
            ]
            await bench.ledger.append(batch[:3])
            await bench.ledger.append(batch[3:])
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-14T12:10"))
        assert (await results(bench, "first"))["hourly_2026011411"] == (1, "1", 5)
        assert (await results(bench, "last"))["hourly_2026011411"] == (1, "4", 5)

    async def test_an_event_counts_in_the_hour_in_which_it_happened(self, bench: Bench) -> None:
        """In one that is over and not closed, and in one that is to come."""
        bench.clock.now_ms = at("2026-01-14T12:58")
        await bench.ledger.append(
            [happened("2026-01-14T10:59", 1), happened("2026-01-14T13:02", 2), event(value=4)]
        )
        assert bench.ledger.past_events() == 1
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-15T00:10"))
        assert await results(bench) == {
            "hourly_2026011410": (1, "1", 1),
            "hourly_2026011412": (1, "4", 1),
            "hourly_2026011413": (1, "2", 1),
            "daily_20260114": (1, "7", 3),
        }

    async def test_a_late_event_makes_a_revision(self, bench: Bench) -> None:
        """Of every closed period that it lies in; open ones just count it."""
        await closed_two_hours(bench)
        await bench.ledger.append([happened("2026-01-14T10:40", 5)])
        before = await results(bench)
        assert before == {"hourly_2026011410": (1, "1", 1), "hourly_2026011411": (1, "2", 1)}
        assert await revise(bench) == 1
        assert await results(bench) == before | {"hourly_2026011410": (2, "6", 2)}
        assert await revise(bench) == 0
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-15T00:10"))
        assert (await results(bench))["daily_20260114"] == (1, "8", 3)
        await bench.ledger.append([happened("2026-01-14T11:40", 10)])
        assert await revise(bench) == 2
        assert await results(bench) == {
            "hourly_2026011410": (2, "6", 2),
            "hourly_2026011411": (2, "12", 2),
            "daily_20260114": (2, "18", 4),
        }

    async def test_revisions_are_delivered_with_what_was_said_before(self, bench: Bench) -> None:
        """Behind the earlier one, which stays as it was and can be read."""
        await closed_two_hours(bench)
        for value in (5, 7):
            await bench.ledger.append([happened("2026-01-14T10:40", value)])
            await revise(bench)
        query = AggregationQuery(revisions=True, to_ms=at("2026-01-14T10:00"))
        (found,) = await bench.ledger.aggregations(query, limit=ALL)
        every = [one.aggregation for one in (found, *found.superseded)]
        assert [(one.revision, str(one.figures["sum"].value)) for one in every] == [
            (3, "13"),
            (2, "6"),
            (1, "1"),
        ]
        assert [len(one.deliveries) for one in (found, *found.superseded)] == [1, 1, 1]
        made = await bench.ledger.deliveries(DeliveryQuery(endpoint_id="billing"), limit=ALL)
        assert made == await bench.ledger.deliveries(DeliveryQuery(customer_id="acme"), limit=ALL)
        bodies = [json.loads(one.body) for one in made if one.start_ms == at("2026-01-14T10:00")]
        assert [
            (body["type"], body["data"]["revision"], body["data"]["eventCount"])
            for body in reversed(bodies)
        ] == [
            ("aggregation.completed", 1, 1),
            ("aggregation.revised", 2, 2),
            ("aggregation.revised", 3, 3),
        ]
        assert bodies[0]["data"]["previous"]["events"] == {"sum": 6}
        assert bodies[0]["data"]["previous"]["revision"] == 2
        claimed = await bench.ledger.claim("billing", limit=ALL)
        assert [one.revision for one in claimed.deliveries] == [1]

    async def test_late_events_share_a_revision(self, bench: Bench) -> None:
        """All that came since the first of them, which says when it is time."""
        await closed_two_hours(bench)
        assert await bench.ledger.late_since_ms() is None
        first_ms = bench.clock.now_ms
        for _ in range(3):
            await bench.ledger.append([happened("2026-01-14T10:40", 5)])
            bench.clock.now_ms += 10_000
        await bench.ledger.next_to_close()
        assert await bench.ledger.late_since_ms() == first_ms
        assert await bench.ledger.revise(rules(*DAY), until_ms=first_ms - 1) == 0
        assert await bench.ledger.revise(rules(*DAY), until_ms=first_ms) == 1
        assert (await results(bench))["hourly_2026011410"] == (2, "16", 4)
        assert await bench.ledger.late_since_ms() is None

    async def test_what_is_late_is_still_late_after_a_restart(self, bench: Bench) -> None:
        """And is published once."""
        await closed_two_hours(bench)
        await bench.ledger.append([happened("2026-01-14T10:40", 5)])
        await bench.restart()
        assert await revise(bench) == 1
        await bench.restart()
        assert await revise(bench) == 0
        assert (await results(bench))["hourly_2026011410"] == (2, "6", 2)

    async def test_who_had_no_events_in_a_closed_period_gets_its_first_aggregation(
        self, bench: Bench
    ) -> None:
        """A customer that is new, and an hour that was quiet when others closed."""
        await closed_two_hours(bench)
        await bench.ledger.append(
            [happened("2026-01-14T10:40", 5, customer_id="new"), happened("2026-01-14T09:30", 3)]
        )
        assert await revise(bench) == 2
        found = {one.aggregation.id: one.aggregation for one in await published(bench)}
        assert found["new_hourly_2026011410"].revision == 1
        assert found["acme_hourly_2026011409"].closed
        made = await bench.ledger.deliveries(DeliveryQuery(customer_id="new"), limit=ALL)
        assert [json.loads(one.body)["type"] for one in made] == ["aggregation.completed"]
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-15T00:10"))
        assert (await results(bench))["daily_20260114"] == (1, "6", 3)

    async def test_a_revision_reads_as_the_one_before_did(self, bench: Bench) -> None:
        """What the configuration says now is for what closes from now on."""
        await closed_two_hours(bench)
        await bench.ledger.append(
            [happened("2026-01-14T10:40", 5), happened("2026-01-14T10:41", 5, event_type="max")]
        )
        await bench.ledger.next_to_close()
        now = rules(PeriodType.DAILY, operations={"sum": Operation.MAX, "max": Operation.MIN})
        assert await bench.ledger.revise(now, until_ms=bench.clock.now_ms) == 1
        assert (await results(bench))["hourly_2026011410"] == (2, "6", 2)
        assert (await results(bench, "max"))["hourly_2026011410"] == (2, "5", 1)

    async def test_what_is_not_published_is_not_revised(self, bench: Bench) -> None:
        """And is not late for ever."""
        await closed_two_hours(bench)
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-03-01T00:10"))
        bench.clock.now_ms = at("2026-02-10T00:00")
        await bench.ledger.append([happened("2026-01-14T10:40", 5)])
        assert await revise(bench) == 2
        assert {name.split("_")[0] for name in await results(bench)} == {"hourly", "daily"}
        assert await bench.ledger.late_since_ms() is None

    @pytest.mark.parametrize(
        ("ago_ms", "outcome"),
        [
            (-300_001, Recorded.TOO_NEW),
            (-300_000, Recorded.RECORDED),
            (2 * DAY_MS, Recorded.RECORDED),
            (2 * DAY_MS + 1, Recorded.TOO_OLD),
        ],
    )
    async def test_how_far_an_event_may_be(
        self, bench: Bench, ago_ms: int, outcome: Recorded
    ) -> None:
        """Both bounds belong to it; what is refused takes the whole append with it, unless told."""
        admission = Admission(2 * DAY_MS, 300_000)
        one = msgspec.structs.replace(event(), timestamp_ms=START_MS - ago_ms)
        others = Recorded.RECORDED if outcome is Recorded.RECORDED else Recorded.WITHHELD
        said = await bench.ledger.append([event(), one], admission=admission)
        assert said == [others, outcome]
        said = await bench.ledger.append([event(), one], admission=admission, partial=True)
        assert said == [Recorded.RECORDED, outcome]

    async def test_late_events_may_be_refused(self, bench: Bench) -> None:
        """Of closed hours only; those of an hour that is over and open are in time."""
        await append_at(bench, "2026-01-14T10:20")
        await close_ended(bench, rules(*DAY), clock_ms=at("2026-01-14T12:10"))
        rejecting = Admission(2 * DAY_MS, 300_000, Late.REJECT)
        for time, outcome in (
            ("09:30", Recorded.TOO_LATE),
            ("10:59:59.999", Recorded.TOO_LATE),
            ("11:00", Recorded.RECORDED),
        ):
            events = [happened(f"2026-01-14T{time}")]
            assert await bench.ledger.append(events, admission=rejecting) == [outcome], time
        assert await revise(bench) == 0

    async def test_a_repeat_is_one_however_old_it_is_by_now(self, bench: Bench) -> None:
        """Whoever got no answer is told that it was stored."""
        admission = Admission(2 * HOUR_MS, 300_000, Late.REJECT)
        keyed = happened("2026-01-14T10:20", idempotency_key="order-1")
        bench.clock.now_ms = at("2026-01-14T12:20")
        assert await bench.ledger.append([keyed], admission=admission) == [Recorded.RECORDED]
        await close_ended(bench, rules(*DAY), clock_ms=BOTH_DAYS_OVER_MS)
        assert await bench.ledger.append([keyed], admission=admission) == [Recorded.DUPLICATE]
        other = msgspec.structs.replace(keyed, timestamp_ms=at("2026-01-14T10:21"))
        assert await bench.ledger.append([other], admission=admission) == [Recorded.CONFLICT]
