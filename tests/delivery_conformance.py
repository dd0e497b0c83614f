"""What every engine must keep: deliveries, from the close that makes them to their settling."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing

from meterd.domain.deliveries import LEASE_MS, DeliveryStatus, settle_attempt
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from meterd.ledger import Claim
from tests.ledger_bench import START_MS, at, close_ended, event, published, rules

if TYPE_CHECKING:
    from meterd.domain.deliveries import Delivery
    from tests.ledger_bench import Bench

CLOSE_MS = at("2026-01-14T12:00")
HOURLY_TO_TWO = rules(PeriodType.HOURLY, endpoints=("billing", "crm"))


async def close_hour(bench: Bench, *customers: str) -> None:
    """Closes an hour in which these customers had an event each: a delivery to each of two."""
    await bench.ledger.append([event(customer) for customer in customers])
    await close_ended(bench, HOURLY_TO_TWO, clock_ms=CLOSE_MS)


async def delivery_states(bench: Bench) -> list[Delivery]:
    return [delivery for one in await published(bench) for delivery in one.deliveries]


class DeliveryConformance:
    async def test_a_close_makes_one_delivery_for_each_endpoint(self, bench: Bench) -> None:
        """In the order of the rules, pending and due at once, each with its own id and one body."""
        await close_hour(bench, "acme", "b")
        assert bench.ledger.deliveries_made() == 4
        found = await published(bench)
        for one in found:
            assert [delivery.endpoint_id for delivery in one.deliveries] == ["billing", "crm"]
            assert len({delivery.body for delivery in one.deliveries}) == 1
            body = json.loads(one.deliveries[0].body)
            assert body["data"]["id"] == one.aggregation.id
        states = await delivery_states(bench)
        assert len({delivery.id for delivery in states}) == 4
        assert {
            (delivery.status, delivery.attempts, delivery.next_attempt_ms) for delivery in states
        } == {(DeliveryStatus.PENDING, 0, CLOSE_MS)}

    async def test_no_endpoint_no_delivery(self, bench: Bench) -> None:
        """Endpoints are those of the moment of closing."""
        await bench.ledger.append([event()])
        await close_ended(bench, rules(PeriodType.HOURLY, endpoints=()), clock_ms=CLOSE_MS)
        assert bench.ledger.deliveries_made() == 0
        assert await bench.ledger.claim("billing", limit=9) == Claim([], None)

    async def test_a_claim_begins_attempts(self, bench: Bench) -> None:
        """What is claimed shows as attempted, and is not given out again."""
        await close_hour(bench, "a", "b", "c")
        first = await bench.ledger.claim("billing", limit=2)
        second = await bench.ledger.claim("billing", limit=2)
        third = await bench.ledger.claim("billing", limit=2)
        assert [len(claim.deliveries) for claim in (first, second, third)] == [2, 1, 0]
        assert first.next_due_ms == CLOSE_MS
        claimed = first.deliveries + second.deliveries
        assert {delivery.customer_id for delivery in claimed} == {"a", "b", "c"}
        assert all(
            (delivery.attempts, delivery.last_attempt_ms, delivery.next_attempt_ms)
            == (1, CLOSE_MS, CLOSE_MS + LEASE_MS)
            for delivery in claimed
        )
        states = await delivery_states(bench)
        assert [one for one in states if one.endpoint_id == "billing"] == sorted(
            claimed, key=lambda delivery: delivery.customer_id
        )
        assert len((await bench.ledger.claim("crm", limit=9)).deliveries) == 3

    @pytest.mark.parametrize("restarts", [False, True])
    async def test_an_attempt_that_nobody_settles_comes_due_again(
        self, bench: Bench, *, restarts: bool
    ) -> None:
        """When its lease ends, not before, with the same id and body, and one attempt more."""
        await close_hour(bench, "acme")
        (begun,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        if restarts:
            await bench.restart()
        bench.clock.now_ms += LEASE_MS - 1
        early = await bench.ledger.claim("billing", limit=9)
        assert early == Claim([], CLOSE_MS + LEASE_MS)
        bench.clock.now_ms += 1
        (again,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert (again.id, again.body, again.attempts) == (begun.id, begun.body, 2)

    async def test_settled_deliveries_stay_settled(self, bench: Bench) -> None:
        """Delivered and parked never come due; what failed comes due when it says."""
        await close_hour(bench, "delivered", "failed", "parked")
        claimed = {
            delivery.customer_id: delivery
            for delivery in (await bench.ledger.claim("billing", limit=9)).deliveries
        }
        tired = msgspec.structs.replace(claimed["parked"], attempts=10)
        settled = [
            settle_attempt(begun, Outcome(error), CLOSE_MS + 50, Fraction(0))
            for begun, error in (
                (claimed["delivered"], None),
                (claimed["failed"], "HTTP 500: Internal Server Error"),
                (tired, "Request timeout"),
            )
        ]
        await bench.ledger.settle(settled)
        await bench.restart()
        assert [
            one for one in await delivery_states(bench) if one.endpoint_id == "billing"
        ] == settled
        assert [one.status for one in settled] == ["delivered", "pending", "parked"]
        retry_ms = CLOSE_MS + 50 + 5000
        assert await bench.ledger.claim("billing", limit=9) == Claim([], retry_ms)
        bench.clock.now_ms = retry_ms
        (again,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert (again.customer_id, again.attempts) == ("failed", 2)
        bench.clock.now_ms += 365 * 24 * LEASE_MS
        (again,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert (again.customer_id, again.attempts) == ("failed", 3)

    async def test_an_attempt_that_outlives_its_lease_undoes_nothing(self, bench: Bench) -> None:
        """What has arrived stays delivered; an old failure does not touch a later attempt, and an
        old success does not take it back: the receiver may have had it twice.
        """
        await close_hour(bench, "arrived", "tried")
        first = (await bench.ledger.claim("billing", limit=9)).deliveries
        bench.clock.now_ms += LEASE_MS
        later = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert [one.attempts for one in later] == [2, 2]
        now_ms = bench.clock.now_ms
        failed = [settle_attempt(one, Outcome("late"), now_ms, Fraction(0)) for one in first]
        await bench.ledger.settle(failed)
        assert {one.last_error for one in await delivery_states(bench)} == {None}
        [arrived] = [one for one in first if one.customer_id == "arrived"]
        await bench.ledger.settle([settle_attempt(arrived, Outcome(), now_ms, Fraction(0))])
        await bench.ledger.settle(
            [settle_attempt(one, Outcome("HTTP 500: x"), now_ms, Fraction(0)) for one in later]
        )
        states = {
            one.customer_id: (one.status, one.last_error, one.attempts, one.last_attempt_ms)
            for one in await delivery_states(bench)
            if one.endpoint_id == "billing"
        }
        assert states == {
            "arrived": ("delivered", None, 2, now_ms),
            "tried": ("pending", "HTTP 500: x", 2, now_ms),
        }

    async def test_the_earliest_due_is_claimed_first(self, bench: Bench) -> None:
        """Across periods; what others have claimed comes due when its lease ends."""
        await bench.ledger.append([event("z")])
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=CLOSE_MS)
        bench.clock.now_ms += 1
        await bench.ledger.append([event("a")])
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=CLOSE_MS + HOUR_MS)
        claims = [await bench.ledger.claim("billing", limit=1) for _ in range(2)]
        assert [claim.deliveries[0].customer_id for claim in claims] == ["z", "a"]
        later_ms = CLOSE_MS + HOUR_MS
        assert [claim.next_due_ms for claim in claims] == [later_ms, later_ms + LEASE_MS]

    async def test_who_waits_for_deliveries_is_woken(self, bench: Bench) -> None:
        """By a close that makes some, not by one that makes none; at once if some were made."""
        await bench.ledger.append([event()])
        woken_at: list[int] = []

        async def wait() -> None:
            await bench.ledger.wait_deliveries_made(0)
            woken_at.append(bench.clock.now_ms)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await close_ended(bench, rules(PeriodType.HOURLY, endpoints=()), clock_ms=CLOSE_MS)
            await trio.testing.wait_all_tasks_blocked()
            assert woken_at == []
            await bench.ledger.append([event()])
            await close_ended(bench, HOURLY_TO_TWO, clock_ms=CLOSE_MS + HOUR_MS)
        assert woken_at == [CLOSE_MS + HOUR_MS]
        assert bench.ledger.deliveries_made() == 2
        with trio.fail_after(5):
            await bench.ledger.wait_deliveries_made(1)

    async def test_a_delivery_is_named_by_what_it_carries(self, bench: Bench) -> None:
        """Ids do not depend on when or how often; two endpoints, two periods: four ids."""
        await close_hour(bench, "acme")
        names = {delivery.id for delivery in await delivery_states(bench)}
        await bench.restart()
        assert {delivery.id for delivery in await delivery_states(bench)} == names
        bench.clock.now_ms = START_MS + DAY_MS
        await close_ended(bench, rules(PeriodType.DAILY, endpoints=("billing", "crm")))
        assert len({delivery.id for delivery in await delivery_states(bench)}) == 4
