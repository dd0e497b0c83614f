"""What every engine must keep: deliveries looked up, sent again, and made of the past."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from meterd.domain.deliveries import Attempt, DeliveryStatus, settle_attempt
from meterd.domain.endpoint_states import EndpointState, paused
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS, PeriodType
from meterd.ledger import (
    Claim,
    DeliveryHistory,
    DeliveryQuery,
    EndpointSummary,
    Replay,
    Replayed,
    place_of_delivery,
)
from tests.ledger_bench import ALL, append_at, at, close_ended, event, published, rules

if TYPE_CHECKING:
    from meterd.domain.deliveries import Delivery
    from meterd.ledger import AggregationPlace
    from tests.ledger_bench import Bench

FAILED = Outcome("HTTP 500: Internal Server Error", status=500)
EVERY_DELIVERY = DeliveryQuery()
URL = "http://aside.test/"
DISTANT_MS = at("9999-12-31T23:59")
CUSTOMERS = ("acme", "acme2", "b", "Ærø")
HOURLY_AND_DAILY = rules(PeriodType.HOURLY, PeriodType.DAILY, endpoints=("billing", "crm"))
FILTERS = [
    DeliveryQuery(endpoint_id, customer_id, period_type, status)
    for endpoint_id in (None, "billing", "crm", "nobody", "no\0body")
    for customer_id in (None, "acme", "Ærø", "nobody", "\ud800")
    for period_type in (None, PeriodType.HOURLY, PeriodType.DAILY, PeriodType.YEARLY)
    for status in (None, *DeliveryStatus)
]


async def listed(bench: Bench, query: DeliveryQuery = EVERY_DELIVERY) -> list[Delivery]:
    return await bench.ledger.deliveries(query, limit=ALL)


async def settle(
    bench: Bench, endpoint_id: str, *outcomes: Outcome, waits_ms: tuple[int, ...] = ()
) -> list[Delivery]:
    """One attempt for each outcome, with its line in the log; failed ones are parked unless told"""
    settled = []
    for outcome in outcomes:
        (begun,) = (await bench.ledger.claim(endpoint_id, limit=1)).deliveries
        now_ms = bench.clock.now_ms
        settled.append(settle_attempt(begun, outcome, now_ms, Fraction(0), waits_ms))
        attempt = Attempt(endpoint_id, begun.sequence, begun.attempts, now_ms, now_ms + 5, outcome)
        await bench.ledger.settle(settled[-1:], [attempt])
    return settled


async def three_hours(bench: Bench) -> None:
    """Deliveries of four customers in three hours and their day, to two endpoints, in every state.

    The clock steps back in between. One endpoint gets the last hour only.
    """
    for hour in (21, 22, 23):
        bench.clock.now_ms = at(f"2026-01-14T{hour}:15")
        await bench.ledger.append([event(customer) for customer in CUSTOMERS[: hour - 19]])
        endpoints = ("billing", "crm") if hour == 23 else ("billing",)
        by = rules(PeriodType.HOURLY, PeriodType.DAILY, endpoints=endpoints)
        closed_at = {21: "2026-01-14T23:40", 22: "2026-01-14T23:30", 23: "2026-01-15T00:05"}
        await close_ended(bench, by, clock_ms=at(closed_at[hour]))
    await settle(bench, "billing", Outcome(), Outcome(), FAILED)
    await settle(bench, "crm", Outcome())
    assert len((await bench.ledger.claim("crm", limit=1)).deliveries) == 1


async def pages(bench: Bench, query: DeliveryQuery, limit: int) -> list[Delivery]:
    found: list[Delivery] = []
    after = None
    while True:
        page = await bench.ledger.deliveries(query, limit=limit, after=after)
        end = await bench.ledger.deliveries_page_end(query, limit=limit, after=after)
        found += page
        if end is None:
            return found
        assert len(found) < 1000, "the pages have no end"
        assert len(page) == limit
        assert end == place_of_delivery(page[-1])
        after = end


async def replay_all(
    bench: Bench, replay: Replay, limit: int = ALL, *, dry_run: bool = False
) -> Replayed:
    """Page by page to the end."""
    again = created = 0
    after: AggregationPlace | None = None
    while True:
        done = await bench.ledger.replay(replay, limit=limit, after=after, dry_run=dry_run)
        again, created, after = again + done.again, created + done.created, done.next
        assert again + created < 1000, "the pages have no end"
        if after is None:
            return Replayed(again, created)


class RedeliveryConformance:
    async def test_deliveries_are_listed_newest_first(self, bench: Bench) -> None:
        """By when they were made, then by endpoint, then the greatest sequence first."""
        await three_hours(bench)
        found = await listed(bench)
        assert len(found) == 2 + 3 + 4 + 4 + 4 + 4
        assert found == sorted(
            found, key=lambda one: (-one.created_ms, one.endpoint_id, -one.sequence)
        )
        for endpoint_id in ("billing", "crm"):
            own = [one for one in found if one.endpoint_id == endpoint_id]
            assert [one.sequence for one in own] == list(range(len(own), 0, -1))
        assert {one.status for one in found} == set(DeliveryStatus)
        assert {one.id: one for one in found} == {
            one.id: one for found in await published(bench) for one in found.deliveries
        }

    async def test_a_delivery_is_not_made_before_the_last_one(self, bench: Bench) -> None:
        """Of its endpoint, though the clock stepped back."""
        bench.clock.now_ms = at("2026-01-14T11:15")
        await bench.ledger.append([event()])
        by = rules(PeriodType.HOURLY)
        await close_ended(bench, by, clock_ms=at("2026-01-14T13:30"))
        bench.clock.now_ms = at("2026-01-14T12:10")
        await bench.ledger.append([event()])
        await close_ended(bench, by, clock_ms=at("2026-01-14T13:00"))
        found = await listed(bench)
        assert [one.created_ms for one in found] == [at("2026-01-14T13:30")] * 2
        assert found[0].next_attempt_ms == at("2026-01-14T13:00"), "it waits for no clock"

    async def test_filters_of_deliveries(self, bench: Bench) -> None:
        """Each alone and all together give what they say of the whole, in its order."""
        await three_hours(bench)
        whole = await listed(bench)
        for query in FILTERS:
            expected = [
                one
                for one in whole
                if query.endpoint_id in {None, one.endpoint_id}
                and query.customer_id in {None, one.customer_id}
                and query.period_type in {None, one.period_type}
                and query.status in {None, one.status}
            ]
            assert await listed(bench, query) == expected, query

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 21, 100])
    async def test_pages_give_each_delivery_once(self, bench: Bench, limit: int) -> None:
        """Whatever is asked for, also where one moment made several."""
        await three_hours(bench)
        for query in FILTERS[:: 1 if limit > 1 else 7]:
            assert await pages(bench, query, limit) == await listed(bench, query), query
        stream = DeliveryQuery("billing", after_sequence=2)
        assert await pages(bench, stream, limit) == await listed(bench, stream)

    async def test_an_endpoints_stream(self, bench: Bench) -> None:
        """All behind a sequence, by sequence, without a gap; each body says which it is."""
        await three_hours(bench)
        for after in (0, 1, 12, 13, 1 << 62):
            found = await listed(bench, DeliveryQuery("billing", after_sequence=after))
            assert [one.sequence for one in found] == list(range(after + 1, 14))
            assert [json.loads(one.body)["sequence"] for one in found] == list(range(after + 1, 14))
        assert await listed(bench, DeliveryQuery("nobody", after_sequence=0)) == []

    async def test_a_delivery_with_its_attempts(self, bench: Bench) -> None:
        """By its id, as long as the log has them; and whom it waits behind."""
        await bench.ledger.append([event()])
        bench.clock.now_ms = at("2026-01-14T23:15")
        await bench.ledger.append([event()])
        by = rules(PeriodType.HOURLY, endpoints=("billing",))
        await close_ended(bench, by, clock_ms=at("2026-01-15T00:05"))
        later, first = await listed(bench)
        state = EndpointState(next_sequence=3)
        assert await bench.ledger.delivery(first.id) == DeliveryHistory(first, (), state)
        assert await bench.ledger.delivery(later.id) == DeliveryHistory(later, (), state, first.id)
        (failed,) = await settle(bench, "billing", FAILED, waits_ms=(5000,))
        bench.clock.now_ms += 5000
        (parked,) = await settle(bench, "billing", FAILED)
        found = await bench.ledger.delivery(first.id)
        assert found is not None
        assert (found.delivery, found.behind) == (parked, None)
        logged = [(one.number, one.attempt.outcome) for one in found.attempts]
        assert logged == [(1, FAILED), (2, FAILED)]
        assert found.attempts[0].attempt.begun_ms == failed.last_attempt_ms
        second = await bench.ledger.delivery(later.id)
        assert second == DeliveryHistory(later, (), state)
        for unknown in ("msg_" + "0" * 32, "nonsense", "", "msg_\ud800"):
            assert await bench.ledger.delivery(unknown) is None

    async def test_what_is_known_of_all_endpoints(self, bench: Bench) -> None:
        """Also of one that closings name no more; by id, with what waits and what is parked."""
        assert await bench.ledger.endpoints() == []
        await three_hours(bench)
        await bench.ledger.change_endpoint("aside", partial(paused, url=URL, until_ms=5))
        await bench.restart()
        aside = paused(EndpointState(), URL, 5)
        assert await bench.ledger.endpoints() == [
            EndpointSummary("aside", aside, 0, 0),
            EndpointSummary("billing", EndpointState(next_sequence=14), 10, 1),
            EndpointSummary("crm", EndpointState(next_sequence=9), 7, 0),
        ]

    @pytest.mark.parametrize("outcome", [Outcome(), FAILED], ids=["delivered", "parked"])
    async def test_a_retry_sends_at_once(self, bench: Bench, outcome: Outcome) -> None:
        """The same id and body; attempts go on counting, the schedule begins anew."""
        await bench.ledger.append([event()])
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=at("2026-01-14T12:00"))
        (done,) = await settle(bench, "billing", outcome)
        bench.clock.now_ms += HOUR_MS
        again = await bench.ledger.retry(done.id)
        assert again is not None
        assert (again.id, again.body, again.sequence) == (done.id, done.body, done.sequence)
        assert (again.status, again.attempts, again.failures) == (DeliveryStatus.PENDING, 1, 0)
        assert (again.delivered_ms, again.next_attempt_ms) == (None, bench.clock.now_ms)
        await bench.restart()
        assert await listed(bench, DeliveryQuery(status=DeliveryStatus.PENDING)) == [again]
        (begun,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert (begun.id, begun.attempts) == (done.id, 2)
        assert await bench.ledger.retry(done.id) == begun, "it is in the air already"
        assert (await bench.ledger.claim("billing", limit=9)).deliveries == []
        assert await bench.ledger.retry("msg_" + "0" * 32) is None

    async def test_a_retry_keeps_its_customers_order(self, bench: Bench) -> None:
        """It goes before what closed later, unless that is in the air, and then next."""
        for hour in (11, 12):
            await append_at(bench, f"2026-01-14T{hour}:15")
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=at("2026-01-14T13:00"))
        (done,) = await settle(bench, "billing", Outcome())
        await bench.ledger.retry(done.id)
        (first,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert first.id == done.id
        await bench.ledger.settle(
            [settle_attempt(first, Outcome(), bench.clock.now_ms, Fraction(0))]
        )
        (second,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert second.id != done.id
        await bench.ledger.retry(done.id)
        assert await bench.ledger.claim("billing", limit=9) == Claim([], None)
        await bench.ledger.settle([settle_attempt(second, FAILED, bench.clock.now_ms, Fraction(0))])
        (then,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert then.id == done.id

    async def test_a_clock_that_is_behind_puts_nothing_off(self, bench: Bench) -> None:
        """What closes then, and what is replayed, to a new endpoint too, is due at once."""
        for hour in (11, 12):
            await append_at(bench, f"2026-01-14T{hour}:15")
        now_ms, period = bench.clock.now_ms, await bench.ledger.next_to_close()
        assert period is not None
        bench.clock.now_ms = now_ms - HOUR_MS
        await bench.ledger.close(period, rules(PeriodType.HOURLY))
        (made,) = await settle(bench, "billing", Outcome())
        for endpoint_id in ("billing", "crm"):
            await bench.ledger.replay(Replay(endpoint_id, 0, DISTANT_MS), limit=9)
            (again,) = await settle(bench, endpoint_id, Outcome())
            assert (again.start_ms, again.next_attempt_ms) == (made.start_ms, now_ms - HOUR_MS)

    async def test_who_waits_is_woken_by_a_retry_and_a_replay(self, bench: Bench) -> None:
        """As by a close; by what finds nothing, not."""
        await bench.ledger.append([event()])
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=at("2026-01-14T12:00"))
        (done,) = await settle(bench, "billing", Outcome())
        everything = Replay("billing", 0, DISTANT_MS)
        before = bench.ledger.deliveries_made()
        await bench.ledger.retry("msg_" + "0" * 32)
        await bench.ledger.replay(everything, limit=9, dry_run=True)
        await bench.ledger.replay(Replay("billing", 0, 1), limit=9)
        assert bench.ledger.deliveries_made() == before

        async def retry() -> None:
            await bench.ledger.retry(done.id)

        async def replay() -> None:
            await bench.ledger.replay(everything, limit=9)

        with trio.fail_after(5):
            for act in (retry, replay):
                async with trio.open_nursery() as nursery:
                    before = bench.ledger.deliveries_made()
                    nursery.start_soon(bench.ledger.wait_deliveries_made, before)
                    nursery.start_soon(act)

    async def test_a_new_endpoint_gets_the_past(self, bench: Bench) -> None:
        """Each closed aggregation once, numbered in the order of closing, as a close would."""
        await three_hours(bench)
        replay = Replay("new", 0, DISTANT_MS)
        assert await replay_all(bench, replay, dry_run=True) == Replayed(0, 13)
        assert await listed(bench, DeliveryQuery("new")) == []
        assert await replay_all(bench, replay) == Replayed(0, 13)
        await bench.restart()
        made = await listed(bench, DeliveryQuery("new", after_sequence=0))
        assert [one.sequence for one in made] == list(range(1, 14))
        assert [one.period for one in made] == sorted(one.period for one in made)
        assert len({one.id for one in made}) == 13
        for one in await published(bench):
            by_endpoint = {delivery.endpoint_id: delivery for delivery in one.deliveries}
            body, other = (json.loads(by_endpoint[name].body) for name in ("new", "billing"))
            assert body.pop("sequence") == by_endpoint["new"].sequence
            other.pop("sequence")
            assert body == other
        assert await replay_all(bench, replay) == Replayed(13, 0)
        assert await listed(bench, DeliveryQuery("new", after_sequence=0)) == made

    async def test_a_replay_sends_again_what_was_sent(self, bench: Bench) -> None:
        """Delivered, parked or waiting, under its own id; each customer's in the order of closing.

        What is in the air stays as it is.
        """
        await three_hours(bench)
        before = await listed(bench, DeliveryQuery("crm"))
        (in_air,) = [one for one in before if one.begun_ms is not None]
        bench.clock.now_ms += HOUR_MS
        assert await replay_all(bench, Replay("crm", 0, DISTANT_MS), limit=3) == Replayed(8, 5)
        after = await listed(bench, DeliveryQuery("crm"))
        assert {one.id for one in before} < {one.id for one in after}
        assert in_air in after
        assert all(one.status is DeliveryStatus.PENDING for one in after)
        await bench.ledger.settle(
            [settle_attempt(in_air, Outcome(), bench.clock.now_ms, Fraction(0))]
        )
        order = []
        while claimed := (await bench.ledger.claim("crm", limit=1)).deliveries:
            order += claimed
            settled = settle_attempt(claimed[0], Outcome(), bench.clock.now_ms, Fraction(0))
            await bench.ledger.settle([settled])
        assert len(order) == 12
        for customer_id in CUSTOMERS:
            periods = [one.period for one in order if one.customer_id == customer_id]
            assert periods == sorted(periods)

    async def test_a_replays_bounds_are_ends_of_periods(self, bench: Bench) -> None:
        """Both inclusive; what is open is not in it."""
        await three_hours(bench)
        await bench.ledger.append([event()])
        await bench.ledger.snapshot(HOURLY_AND_DAILY)
        midnight = at("2026-01-15T00:00")
        expected = {
            (0, DISTANT_MS): 13,
            (midnight, midnight): 8,
            (midnight + 1, DISTANT_MS): 0,
            (midnight - HOUR_MS, midnight - 1): 3,
            (0, midnight - HOUR_MS): 5,
            (midnight, midnight - 1): 0,
            (-1, 0): 0,
            (DISTANT_MS, DISTANT_MS): 0,
        }
        for (from_ms, to_ms), count in expected.items():
            found = await replay_all(bench, Replay("new", from_ms, to_ms), 5, dry_run=True)
            assert found.created == count, (from_ms, to_ms)
        # Ended, and not closed yet: a snapshot is not what a webhook gets.
        bench.clock.now_ms = at("2026-01-15T01:02")
        found = await replay_all(bench, Replay("new", 0, DISTANT_MS), dry_run=True)
        assert found.created == 13

    @pytest.mark.parametrize("limit", [1, 2, 5, 13, 14])
    async def test_a_replay_goes_on_where_it_ended(self, bench: Bench, limit: int) -> None:
        """Also over a restart; pages of any size make the same as one."""
        await three_hours(bench)
        replay, counts, after = Replay("new", 0, DISTANT_MS), [], None
        for _ in range(14):
            done = await bench.ledger.replay(replay, limit=limit, after=after)
            counts.append(done.created)
            await bench.restart()
            after = done.next
            if after is None:
                break
        assert counts[:-1] == [limit] * (len(counts) - 1)
        assert sum(counts) == 13
        made = await listed(bench, DeliveryQuery("new", after_sequence=0))
        assert [one.period for one in made] == sorted(one.period for one in made)

    async def test_what_a_replay_makes_is_like_what_a_close_makes(self, bench: Bench) -> None:
        """Delivered, retried and listed with its aggregation."""
        await bench.ledger.append([event()])
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=at("2026-01-14T12:00"))
        bench.clock.now_ms += HOUR_MS
        await replay_all(bench, Replay("new", 0, DISTANT_MS))
        (done,) = await settle(bench, "new", Outcome())
        (one,) = await published(bench)
        assert one.aggregation.endpoints == ("billing", "new")
        assert one.deliveries[1] == done
        assert done.created_ms == bench.clock.now_ms
        assert done.period == one.aggregation.period
