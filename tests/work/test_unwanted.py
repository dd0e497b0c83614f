"""Who is to come later for ever: a message, which fails; a receiver, which is waited for."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import trio

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.outcomes import Outcome
from tests.work.outbox_bench import OutboxBench
from tests.work.test_refusals import HOUR_S, Refusing, made_after, names

if TYPE_CHECKING:
    from trio.testing import MockClock

    from meterd.domain.deliveries import Delivery

PAUSE_S = 700  # no part of an hour
BUSY = Outcome("HTTP 429: x", status=429, headers=(("Retry-After", str(PAUSE_S)),))


async def of_customer(bench: OutboxBench, customer_id: str) -> Delivery:
    [found] = [one for one in await bench.deliveries() if one.customer_id == customer_id]
    return found


async def test_a_message_that_pauses_the_endpoint_again_and_again_fails_at_last(
    autojump_clock: MockClock,
) -> None:
    """Others wait for two pauses at most meanwhile, and for nothing after the fifth."""
    bench = OutboxBench()
    Refusing(bench, BUSY)
    async with bench.running():
        await bench.close_hour("bad0", "good0")
        await trio.sleep(HOUR_S)
        waited = [await made_after(bench, *names("good", 8)) for _ in range(9)]
        bad = await of_customer(bench, "bad0")
    assert max(waited) <= 2 * PAUSE_S
    assert max(waited[:5]) > 60, "it is taken at its word at first"
    assert max(waited[5:]) < 1
    assert (bad.status, bad.busy) == (DeliveryStatus.PENDING, 5)
    assert bad.failures > 2, "its schedule goes on"


async def test_what_is_unwanted_waits_as_long_as_it_is_told(autojump_clock: MockClock) -> None:
    """The wait of its schedule, or that one: the longer."""
    bench = OutboxBench()
    Refusing(bench, BUSY)
    async with bench.running():
        await bench.close_hour("bad0")
        await trio.sleep(HOUR_S)
        for _ in range(9):
            await made_after(bench, "good")
    own = (await of_customer(bench, "bad0")).sequence
    begun_ms = [one.begun_ms for one in bench.ledger.attempts if one.sequence == own]
    assert min(later - one for one, later in pairwise(begun_ms)) >= PAUSE_S * 1000


async def test_a_receiver_that_is_busy_for_days_spends_nothing(autojump_clock: MockClock) -> None:
    """Of nobody's schedule: nothing arrives, so it is about no message."""
    bench = OutboxBench()
    refusing = Refusing(bench, BUSY)
    async with bench.running():
        await bench.close_hour("good")
        await trio.sleep(HOUR_S)
        await bench.close_hour(*names("bad", 30))
        await trio.sleep(48 * HOUR_S)
        found = [one for one in await bench.deliveries() if one.customer_id != "good"]
        assert {one.failures for one in found} == {0}
        assert max(one.attempts for one in found) > 5
        refusing.whom = None
        await trio.sleep(PAUSE_S + 10)
        assert {one.status for one in await bench.deliveries()} == {DeliveryStatus.DELIVERED}


class OneASecond:
    """Whoever comes beside is to come in a second."""

    def __init__(self, bench: OutboxBench) -> None:
        self._next_ms = 0
        self._clock = bench.clock
        bench.receivers.answers["billing"] = self.answer

    async def answer(self) -> Outcome:
        await trio.sleep(0.01)
        now_ms = self._clock.now_ms()
        if now_ms < self._next_ms:
            return Outcome("HTTP 429: x", status=429, headers=(("Retry-After", "1"),))
        self._next_ms = now_ms + 1000
        return Outcome()


async def test_a_receiver_that_takes_one_a_second_gets_everything(
    autojump_clock: MockClock,
) -> None:
    """At its pace, though three of four are turned away each time: nobody is given up."""
    bench = OutboxBench()
    OneASecond(bench)
    async with bench.running():
        await bench.close_hour(*names("c", 300))
        await trio.sleep(3 * HOUR_S)
        found = await bench.deliveries()
    assert {one.status for one in found} == {DeliveryStatus.DELIVERED}
    in_time = [one for one in found if (one.delivered_ms or 0) - one.created_ms < 900_000]
    assert len(in_time) > 280
