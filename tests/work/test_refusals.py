"""What some customers are refused is no other customer's concern, and a receiver that refuses
everything is no end of everybody's attempts.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.outcomes import Outcome
from tests.work.outbox_bench import BILLING, OutboxBench

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio.testing import MockClock

    from meterd.domain.endpoints import Endpoint

UNFIT = Outcome("HTTP 422: Unprocessable", status=422)
NOT_FOUND = Outcome("HTTP 404: Not Found", status=404)
BROKEN = Outcome("HTTP 500: x", status=500)
AWAY = Outcome("HTTP 503: x", status=503)
HOUR_S = 3600


class Refusing:
    """The bench's receiver: customers whose name begins so are answered so, after so long."""

    def __init__(
        self, bench: OutboxBench, outcome: Outcome, after_s: float = 0.01, whom: str = "bad"
    ) -> None:
        self.whom: str | None = whom
        self._outcome = outcome
        self._after_s = after_s
        self._receive = bench.receivers.receive
        bench.receivers.receive = self.receive  # type: ignore[method-assign]

    async def receive(
        self, endpoint: Endpoint, url: str, headers: dict[str, str], body: bytes
    ) -> Outcome:
        await self._receive(endpoint, url, headers, body)
        if self.whom is None or not json.loads(body)["customerId"].startswith(self.whom):
            await trio.sleep(0.01)
            return Outcome()
        await trio.sleep(self._after_s)
        return self._outcome


def names(kind: str, count: int) -> Iterable[str]:
    return (f"{kind}{number}" for number in range(count))


async def made_after(bench: OutboxBench, *customers: str) -> float:
    """An hour closes; after how many seconds the last of these has what it is sent."""
    began_ms = bench.clock.now_ms()
    await bench.close_hour(*customers)
    await trio.sleep(HOUR_S)
    found = [one for one in await bench.deliveries() if one.created_ms == began_ms]
    late = [one.delivered_ms for one in found if one.customer_id in customers]
    assert None not in late, f"{late.count(None)} of {len(late)} did not arrive"
    return max(at_ms - began_ms for at_ms in late if at_ms is not None) / 1000


@pytest.mark.parametrize("outcome", [UNFIT, BROKEN], ids=["422", "500"])
@pytest.mark.parametrize("after_s", [0.01, 15], ids=["at once", "at the deadline"])
@pytest.mark.parametrize("others", [0, 40], ids=["alone", "among many"])
async def test_a_healthy_customer_waits_a_minute_at_most(
    autojump_clock: MockClock, outcome: Outcome, after_s: float, others: int
) -> None:
    """However many others are refused, for however long they have been."""
    bench = OutboxBench()
    Refusing(bench, outcome, after_s)
    async with bench.running():
        await bench.close_hour(*names("bad", 100))
        await trio.sleep(HOUR_S)
        waited = [await made_after(bench, "new", *names("good", others)) for _ in range(3)]
        assert max(waited) <= 61 + 2 * after_s, waited


async def test_a_healthy_customer_waits_a_minute_where_many_hang(
    autojump_clock: MockClock,
) -> None:
    """Which is the endpoint's failure: one attempt at a time, of either kind by turns."""
    bench = OutboxBench()
    Refusing(bench, Outcome("Request timeout"), after_s=15)
    async with bench.running():
        await bench.close_hour(*names("bad", 100))
        await trio.sleep(4 * HOUR_S)
        waited = [await made_after(bench, "new", *names("good", 40)) for _ in range(3)]
        assert max(waited) <= 95, waited


async def test_refused_messages_do_not_hold_up_the_first_attempts_behind_them(
    autojump_clock: MockClock,
) -> None:
    """Hundreds of customers at once whose webhooks the receiver does not take: who is last in line
    has its own within seconds.
    """
    bench = OutboxBench()
    Refusing(bench, UNFIT)
    async with bench.running():
        began_ms = bench.clock.now_ms()
        await bench.close_hour(*names("bad", 900), "good")
        await trio.sleep(60)
        (good,) = [one for one in await bench.deliveries() if one.customer_id == "good"]
        assert good.delivered_ms is not None
        assert good.delivered_ms - began_ms < 10_000


@pytest.mark.parametrize(("outcome", "firsts"), [(NOT_FOUND, 500), (BROKEN, 500), (AWAY, 80)])
async def test_who_refuses_everything_for_an_hour_costs_few_attempts(
    autojump_clock: MockClock, outcome: Outcome, firsts: int
) -> None:
    """One of each delivery's ten where it answers for itself, of some deliveries else; and two a
    minute. Back again it has everything by three quarters of an hour, but what failed the most.
    """
    bench = OutboxBench()
    receiver = Refusing(bench, outcome, whom="")
    async with bench.running():
        await bench.close_hour(*names("c", 500))
        await trio.sleep(HOUR_S)
        spent = [one.attempts for one in await bench.deliveries()]
        assert sum(count > 0 for count in spent) <= firsts
        assert sum(spent) <= firsts + 140
        receiver.whom = None
        await trio.sleep(45 * 60)
        states = {one.status for one in await bench.deliveries()}
        assert states <= {DeliveryStatus.DELIVERED, DeliveryStatus.PENDING}
        left = [one for one in await bench.deliveries() if one.delivered_ms is None]
        assert all(one.failures >= 3 for one in left)


async def test_repeats_have_half_of_the_slots(autojump_clock: MockClock) -> None:
    """Those that hang until their deadline each time leave the other half to who is new."""
    waits_ms = (HOUR_S * 1000 - 15_000,) * 9
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=4, schedule_ms=waits_ms))
    bench.below = lambda steps: steps // 2
    Refusing(bench, Outcome("Request timeout"), after_s=15)
    async with bench.running():
        await bench.close_hour(*names("bad", 9))  # not enough to let the endpoint alone
        await trio.sleep(HOUR_S)
        assert await made_after(bench, *names("good", 100)) < 5
