"""What every engine must keep: deliveries, from the close that makes them to their settling."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio
import trio.testing

from meterd.domain.deliveries import (
    UNKNOWN,
    Attempt,
    DeliveryStatus,
    settle_attempt,
    withdrawn,
)
from meterd.domain.endpoint_states import EndpointState, disabled, enabled, paused
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from meterd.ledger import Claim, LoggedAttempt
from tests.ledger_bench import START_MS, at, close_ended, event, published, rules

if TYPE_CHECKING:
    from meterd.domain.deliveries import Delivery
    from tests.ledger_bench import Bench

CLOSE_MS = at("2026-01-14T12:00")
FAILED = Outcome("HTTP 500: Internal Server Error")
URL = "http://billing.test/"
HOURLY_TO_TWO = rules(PeriodType.HOURLY, endpoints=("billing", "crm"))


async def close_hour(bench: Bench, *customers: str) -> None:
    """Closes an hour in which these customers had an event each: a delivery to each of two."""
    await bench.ledger.append([event(customer) for customer in customers])
    await close_ended(bench, HOURLY_TO_TWO, clock_ms=CLOSE_MS)


async def delivery_states(bench: Bench) -> list[Delivery]:
    return [delivery for one in await published(bench) for delivery in one.deliveries]


class DeliveryConformance:
    async def test_a_clock_that_is_set_back_puts_off_nothing_that_has_not_failed(
        self, bench: Bench
    ) -> None:
        """It was due when it was made. What failed waits for its time, by the clock as it is."""
        await close_hour(bench, "acme", "b")
        [first] = (await bench.ledger.claim("billing", limit=1)).deliveries
        failed = settle_attempt(first, FAILED, bench.clock.now_ms, Fraction(0))
        await bench.ledger.settle([failed])
        bench.clock.now_ms -= 5 * HOUR_MS
        claim = await bench.ledger.claim("billing", limit=9)
        assert [one.customer_id != first.customer_id for one in claim.deliveries] == [True]
        assert claim.next_due_ms == failed.next_attempt_ms
        both = (await bench.ledger.claim("crm", limit=1, batch=2)).deliveries
        assert [len(one.members) for one in both] == [2]

    async def test_a_close_makes_one_delivery_for_each_endpoint(self, bench: Bench) -> None:
        """In the order of the rules, pending and due at once, each with its own id and one body."""
        await close_hour(bench, "acme", "b")
        assert bench.ledger.deliveries_made() == 4
        found = await published(bench)
        for one in found:
            assert [delivery.endpoint_id for delivery in one.deliveries] == ["billing", "crm"]
            for delivery in one.deliveries:
                body = json.loads(delivery.body)
                assert body["data"]["id"] == one.aggregation.id
                assert body["sequence"] == delivery.sequence
        states = await delivery_states(bench)
        assert len({delivery.id for delivery in states}) == 4
        assert {
            (delivery.status, delivery.attempts, delivery.next_attempt_ms) for delivery in states
        } == {(DeliveryStatus.PENDING, 0, CLOSE_MS)}
        for endpoint_id in ("billing", "crm"):
            own = [one.sequence for one in states if one.endpoint_id == endpoint_id]
            assert sorted(own) == [1, 2]

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
            (delivery.attempts, delivery.last_attempt_ms, delivery.begun_ms)
            == (1, CLOSE_MS, CLOSE_MS)
            for delivery in claimed
        )
        states = await delivery_states(bench)
        assert [one for one in states if one.endpoint_id == "billing"] == sorted(
            claimed, key=lambda delivery: delivery.customer_id
        )
        assert len((await bench.ledger.claim("crm", limit=9)).deliveries) == 3

    async def test_an_attempt_that_nobody_settles_comes_due_again(self, bench: Bench) -> None:
        """At the next start and not before, with the same id and body, and one attempt more."""
        await close_hour(bench, "acme")
        (begun,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        bench.clock.now_ms += 365 * DAY_MS
        assert await bench.ledger.claim("billing", limit=9) == Claim([], None)
        await bench.restart()
        [waits] = [one for one in await delivery_states(bench) if one.endpoint_id == "billing"]
        assert (waits.begun_ms, waits.last_error) == (None, UNKNOWN)
        (again,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert (again.id, again.body, again.attempts) == (begun.id, begun.body, 2)

    async def test_settled_deliveries_stay_settled(self, bench: Bench) -> None:
        """Delivered and parked never come due; what failed comes due when it says."""
        await close_hour(bench, "delivered", "failed", "parked")
        claimed = {
            delivery.customer_id: delivery
            for delivery in (await bench.ledger.claim("billing", limit=9)).deliveries
        }
        tired = msgspec.structs.replace(claimed["parked"], failures=9)
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
        bench.clock.now_ms += 365 * DAY_MS
        assert await bench.ledger.claim("billing", limit=9) == Claim([], None)

    async def test_a_customers_deliveries_are_due_one_behind_the_other(self, bench: Bench) -> None:
        """In the order of closing; one that fails holds back its own customer's only."""
        bench.clock.now_ms = at("2026-01-14T23:30")
        await bench.ledger.append([event("acme"), event("b")])
        closing = rules(PeriodType.HOURLY, PeriodType.DAILY, endpoints=("billing",))
        await close_ended(bench, closing, clock_ms=at("2026-01-15T00:05"))
        first = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert {(one.customer_id, one.period_type) for one in first} == {
            ("acme", "hourly"),
            ("b", "hourly"),
        }
        assert await bench.ledger.claim("billing", limit=9) == Claim([], None)
        now_ms = bench.clock.now_ms
        fails = [
            settle_attempt(
                one, FAILED if one.customer_id == "acme" else Outcome(), now_ms, Fraction(0)
            )
            for one in first
        ]
        await bench.ledger.settle(fails)
        then = await bench.ledger.claim("billing", limit=9)
        [second] = then.deliveries
        assert (second.customer_id, second.period_type) == ("b", "daily")
        assert then.next_due_ms == now_ms + 5000
        bench.clock.now_ms = now_ms + 5000
        [again] = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert (again.customer_id, again.period_type, again.attempts) == ("acme", "hourly", 2)
        await bench.ledger.settle([settle_attempt(again, Outcome(), now_ms, Fraction(0))])
        [last] = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert (last.customer_id, last.period_type) == ("acme", "daily")

    async def test_what_is_parked_holds_back_nothing(self, bench: Bench) -> None:
        """Its customer's next one is due."""
        bench.clock.now_ms = at("2026-01-14T23:30")
        await bench.ledger.append([event("acme")])
        closing = rules(PeriodType.HOURLY, PeriodType.DAILY, endpoints=("billing",))
        await close_ended(bench, closing, clock_ms=at("2026-01-15T00:05"))
        [first] = (await bench.ledger.claim("billing", limit=9)).deliveries
        parked = settle_attempt(first, FAILED, bench.clock.now_ms, Fraction(0), ())
        await bench.ledger.settle([parked])
        [second] = (await bench.ledger.claim("billing", limit=9)).deliveries
        assert (first.period_type, second.period_type) == ("hourly", "daily")

    async def test_what_failed_before_goes_first_and_no_more_of_it_than_asked_for(
        self, bench: Bench
    ) -> None:
        """However many of it are due; then the next one due is one of the others."""
        await close_hour(bench, "a", "b", "c")
        begun = (await bench.ledger.claim("billing", limit=9)).deliveries
        failed = [settle_attempt(one, FAILED, CLOSE_MS, Fraction(0)) for one in begun]
        await bench.ledger.settle(failed)
        bench.clock.now_ms = CLOSE_MS + HOUR_MS
        await bench.ledger.append([event("z"), event("y")])
        await close_ended(bench, HOURLY_TO_TWO, clock_ms=CLOSE_MS + 2 * HOUR_MS)
        now_ms, due_ms = CLOSE_MS + 2 * HOUR_MS, CLOSE_MS + 5000
        found = []
        for limit, repeats_max in ((9, 1), (9, 0), (1, None), (9, 1), (9, 1)):
            claim = await bench.ledger.claim("billing", limit=limit, repeats_max=repeats_max)
            customers = [one.customer_id for one in claim.deliveries]
            found.append(("".join(sorted(customers)), claim.next_due_ms))
            assert [one.has_failed for one in claim.deliveries] == sorted(
                (one.has_failed for one in claim.deliveries), reverse=True
            )
        assert [(len(names), at_ms) for names, at_ms in found] == [
            (3, None),
            (0, None),
            (1, due_ms),
            (1, None),
            (0, None),
        ]
        assert now_ms == bench.clock.now_ms
        assert sorted("".join(names for names, _ in found)) == ["a", "b", "c", "y", "z"]

    async def test_a_paused_endpoint_has_nothing_due(self, bench: Bench) -> None:
        """Until then, also over a restart; others go on, and so does another URL. The longer of two
        pauses holds.
        """
        await close_hour(bench, "acme")
        until_ms = CLOSE_MS + 90_000
        for one in (until_ms, until_ms - 50_000):
            change = partial(paused, url=URL, until_ms=one)
            await bench.ledger.change_endpoint("billing", change)
        await bench.restart()
        assert await bench.ledger.claim("billing", limit=9, url=URL) == Claim([], until_ms)
        assert len((await bench.ledger.claim("crm", limit=9, url=URL)).deliveries) == 1
        for url, clock_ms in (("http://other.test/", CLOSE_MS), (URL, until_ms)):
            bench.clock.now_ms = clock_ms
            claimed = (await bench.ledger.claim("billing", limit=9, url=url)).deliveries
            assert len(claimed) == 1
            await bench.ledger.settle([withdrawn(claimed[0])])

    async def test_a_disabled_endpoint_has_nothing_due_ever(self, bench: Bench) -> None:
        """Also over a restart; with another URL, or enabled, it has what waited."""
        await close_hour(bench, "acme")
        change = partial(disabled, url=URL, now_ms=CLOSE_MS)
        await bench.ledger.change_endpoint("billing", change)
        await bench.restart()
        bench.clock.now_ms += 365 * DAY_MS
        assert await bench.ledger.claim("billing", limit=9, url=URL) == Claim([], None)
        (begun,) = (await bench.ledger.claim("billing", limit=9, url=URL + "new")).deliveries
        await bench.ledger.settle([withdrawn(begun)])
        await bench.ledger.change_endpoint("billing", enabled)
        assert len((await bench.ledger.claim("billing", limit=9, url=URL)).deliveries) == 1

    async def test_what_is_known_of_an_endpoint_is_kept(self, bench: Bench) -> None:
        """That it is gone, and how far its deliveries are counted."""
        for unknown in ("billing", "", "x" * 600, "\0", "\udcff"):
            assert await bench.ledger.endpoint_state(unknown) == EndpointState()
        await close_hour(bench, "acme")
        await bench.ledger.change_endpoint("billing", partial(disabled, url=URL, now_ms=CLOSE_MS))
        await bench.restart()
        state = await bench.ledger.endpoint_state("billing")
        assert (state.next_sequence, state.disabled_ms) == (2, CLOSE_MS)
        assert state.is_disabled(URL)
        assert not state.is_disabled("http://other.test/")
        await bench.ledger.change_endpoint("billing", enabled)
        assert await bench.ledger.endpoint_state("billing") == EndpointState(next_sequence=2)

    async def test_an_answer_and_what_it_says_of_the_endpoint_are_one(self, bench: Bench) -> None:
        """Whoever is killed has stored both or none."""
        await close_hour(bench, "acme")
        (begun,) = (await bench.ledger.claim("billing", limit=9, url=URL)).deliveries
        change = partial(disabled, url=URL, now_ms=CLOSE_MS)
        settled = settle_attempt(begun, FAILED, CLOSE_MS, Fraction(0))
        await bench.ledger.settle([settled], (), [("billing", change)])
        await bench.restart()
        assert (await bench.ledger.endpoint_state("billing")).is_disabled(URL)
        assert settled in await delivery_states(bench)

    async def test_the_earliest_due_is_claimed_first(self, bench: Bench) -> None:
        """Across periods."""
        await bench.ledger.append([event("z")])
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=CLOSE_MS)
        bench.clock.now_ms += 1
        await bench.ledger.append([event("a")])
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=CLOSE_MS + HOUR_MS)
        claims = [await bench.ledger.claim("billing", limit=1) for _ in range(2)]
        assert [claim.deliveries[0].customer_id for claim in claims] == ["z", "a"]
        later_ms = CLOSE_MS + HOUR_MS
        assert [claim.next_due_ms for claim in claims] == [later_ms, None]

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

    async def test_a_hundred_attempts_are_read_at_once(self, bench: Bench) -> None:
        """The last ones, and those before as far as one asks; how many there are is told."""
        await close_hour(bench, "acme")
        (begun,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        settled = settle_attempt(begun, Outcome(), CLOSE_MS, Fraction(0))
        made = tuple(
            Attempt("billing", begun.sequence, number, CLOSE_MS + number, None, Outcome())
            for number in range(1, 251)
        )
        await bench.ledger.settle([settled], list(made))
        read = {0: made[150:], 100: made[50:150], 200: made[:50], 249: made[:1], 250: (), 999: ()}
        for skip, expected in read.items():
            history = await bench.ledger.delivery(begun.id, skip=skip)
            assert history is not None
            assert tuple(one.attempt for one in history.attempts) == expected, skip
            assert history.kept == 250

    async def test_attempts_are_kept_until_they_are_pruned(self, bench: Bench) -> None:
        """Those begun before then, and no others."""
        await close_hour(bench, "acme")
        (begun,) = (await bench.ledger.claim("billing", limit=9)).deliveries
        settled = settle_attempt(begun, Outcome(), CLOSE_MS, Fraction(0))
        attempt = Attempt("billing", begun.sequence, 1, CLOSE_MS, CLOSE_MS + 5, Outcome(), "url")
        await bench.ledger.settle([settled], [attempt])
        history = await bench.ledger.delivery(begun.id)
        assert history is not None
        assert history.attempts == (LoggedAttempt(attempt, 1),)
        assert await bench.ledger.prune_attempts(before_ms=CLOSE_MS, bytes_max=1 << 40) == 0
        assert await bench.ledger.prune_attempts(before_ms=CLOSE_MS + 1, bytes_max=1 << 40) == 1
        history = await bench.ledger.delivery(begun.id)
        assert history is not None
        assert history.attempts == ()
