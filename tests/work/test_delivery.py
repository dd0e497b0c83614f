"""From the outbox to the receivers: when, how many at once, and signed how."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from meterd.domain.config import Storage
from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS
from tests.model_ledger import ModelLedger
from tests.work.outbox_bench import (
    BILLING,
    CLOSED_MS,
    CRM,
    USER_AGENT,
    OutboxBench,
    failing,
    hanging,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from meterd.ledger import Claim

pytestmark = pytest.mark.usefixtures("autojump_clock")

MINUTE_MS = 60_000
# What comes between attempts, without the jitter: ten attempts, the last after 75 hours.
WAITS_MS = [
    5_000,
    5 * MINUTE_MS,
    30 * MINUTE_MS,
    2 * HOUR_MS,
    5 * HOUR_MS,
    10 * HOUR_MS,
    14 * HOUR_MS,
    20 * HOUR_MS,
    24 * HOUR_MS,
]
A_WEEK_S = 7 * 24 * 3600


def waits_ms(bench: OutboxBench) -> list[int]:
    times = [attempt.at_ms for attempt in bench.receivers.attempts]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


# -- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drawn", "percent"),
    [(lambda _: 0, 80), (lambda steps: steps // 2, 100), (lambda steps: steps - 1, 120)],
    ids=["earliest", "middle", "latest"],
)
async def test_ten_attempts_over_three_days_and_then_parked(
    autojump_clock: MockClock,
    drawn: Callable[[int], int],
    percent: int,
) -> None:
    """To the millisecond, with the jitter at its bounds; the last error stays."""
    bench = OutboxBench()
    bench.below = drawn
    await bench.close_hour("c")
    bench.receivers.answers["billing"] = failing
    async with bench.running():
        await trio.sleep(A_WEEK_S)
    assert bench.receivers.attempts[0].at_ms == CLOSED_MS
    assert waits_ms(bench) == [wait_ms * percent // 100 for wait_ms in WAITS_MS]
    [parked] = await bench.deliveries()
    assert parked.status is DeliveryStatus.PARKED
    assert (parked.attempts, parked.last_error) == (10, "HTTP 500: Internal Server Error")


async def test_receivers_that_failed_together_are_not_hit_together(
    autojump_clock: MockClock,
) -> None:
    """Each wait is spread by a fifth either way."""
    bench = OutboxBench()
    await bench.close_hour("a", "b", "c", "d")
    bench.receivers.answers["billing"] = failing
    async with bench.running():
        await trio.sleep(60)
    seconds = [attempt.at_ms for attempt in bench.receivers.attempts[4:]]
    assert len(seconds) == 4
    assert all(4_000 <= at_ms - CLOSED_MS <= 6_000 for at_ms in seconds)
    assert len(set(seconds)) > 1


async def test_a_restart_keeps_the_schedule(autojump_clock: MockClock) -> None:
    """Neither at once nor all over again, with a restart amid each of the nine waits: everything
    about a delivery is in the ledger.
    """
    bench = OutboxBench()
    bench.below = lambda steps: steps // 2
    await bench.close_hour("c")
    bench.receivers.answers["billing"] = failing
    before_ms = 0
    for wait_ms in [*WAITS_MS, HOUR_MS]:  # each process sees one attempt and half of the next wait
        async with bench.running():
            await trio.sleep((before_ms - before_ms // 2 + wait_ms // 2) / 1000)
        bench.ledger.restarted()
        before_ms = wait_ms
    async with bench.running():
        await trio.sleep(A_WEEK_S)
    assert bench.receivers.attempts[0].at_ms == CLOSED_MS
    assert waits_ms(bench) == WAITS_MS
    [parked] = await bench.deliveries()
    assert (parked.status, parked.attempts) == (DeliveryStatus.PARKED, 10)


async def test_what_closes_is_sent_at_once(autojump_clock: MockClock) -> None:
    """A worker that has nothing to do, or waits for a retry, hears of new deliveries."""
    bench = OutboxBench()
    async with bench.running():
        await wait_all_tasks_blocked()
        await bench.close_hour("c")
        await wait_all_tasks_blocked()
    assert [attempt.at_ms for attempt in bench.receivers.attempts] == [CLOSED_MS]
    [delivered] = await bench.deliveries()
    assert (delivered.status, delivered.attempts) == (DeliveryStatus.DELIVERED, 1)
    assert delivered.delivered_ms == CLOSED_MS


async def test_an_attempt_in_the_air_at_the_end_is_made_again_by_the_next_start(
    autojump_clock: MockClock,
) -> None:
    """Whether the receiver got it is unknown: it counts as tried, and comes under the same id."""
    bench = OutboxBench()
    await bench.close_hour("c")
    bench.receivers.answers["billing"] = hanging
    async with bench.running():
        await wait_all_tasks_blocked()
    [given_up] = await bench.deliveries()
    assert (given_up.status, given_up.attempts) == (DeliveryStatus.PENDING, 1)
    assert given_up.begun_ms == CLOSED_MS
    bench.ledger.restarted()
    del bench.receivers.answers["billing"]
    async with bench.running():
        await trio.sleep(3600)
    first, second = bench.receivers.attempts
    assert second.at_ms == CLOSED_MS
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    [delivered] = await bench.deliveries()
    assert (delivered.status, delivered.attempts) == (DeliveryStatus.DELIVERED, 2)


async def test_a_shutdown_lets_attempts_in_the_air_end_and_begins_no_more(
    autojump_clock: MockClock,
) -> None:
    """Then the actor is through; what was not begun is due at the next start."""
    bench = OutboxBench()
    may_end = trio.Event()

    async def answer_when_told() -> Outcome:
        await may_end.wait()
        return Outcome()

    bench.receivers.answers["billing"] = answer_when_told
    await bench.close_hour(*(f"c{number}" for number in range(10)))
    async with bench.running():
        await wait_all_tasks_blocked()
        bench.begin_shutdown()
        await wait_all_tasks_blocked()
        assert not bench.ended.is_set()
        may_end.set()
        await wait_all_tasks_blocked()
        assert bench.ended.is_set()
    assert len(bench.receivers.attempts) == 4
    deliveries = await bench.deliveries()
    assert sorted(delivery.attempts for delivery in deliveries) == [0] * 6 + [1] * 4
    assert {delivery.next_attempt_ms for delivery in deliveries if not delivery.attempts} == {
        CLOSED_MS
    }


async def test_a_shutdown_with_nothing_in_the_air_is_at_once(autojump_clock: MockClock) -> None:
    """Workers that wait for work, or for a retry far away, do not wait on."""
    bench = OutboxBench(BILLING, CRM)
    bench.receivers.answers["billing"] = failing
    async with bench.running():
        await bench.close_hour("c")
        await wait_all_tasks_blocked()
        bench.begin_shutdown()
        await wait_all_tasks_blocked()
        assert bench.ended.is_set()
        assert bench.receivers.open == []


# -- how many -------------------------------------------------------------------------------------


async def test_four_attempts_at_once_and_no_more(autojump_clock: MockClock) -> None:
    """A slot that is free again is used at once."""
    bench = OutboxBench()
    may_end = trio.Semaphore(0)

    async def answer_when_told() -> Outcome:
        await may_end.acquire()
        return Outcome()

    bench.receivers.answers["billing"] = answer_when_told
    await bench.close_hour(*(f"c{number}" for number in range(10)))
    async with bench.running():
        for begun in (4, 5, 6):
            await wait_all_tasks_blocked()
            assert (bench.receivers.in_air, len(bench.receivers.attempts)) == (4, begun)
            may_end.release()
        for _ in range(7):
            may_end.release()
        await wait_all_tasks_blocked()
        assert (bench.receivers.in_air, len(bench.receivers.attempts)) == (0, 10)
    assert len({attempt.headers["webhook-id"] for attempt in bench.receivers.attempts}) == 10


async def test_a_hanging_endpoint_holds_up_no_other(autojump_clock: MockClock) -> None:
    """Endpoints fail each on its own."""
    bench = OutboxBench(BILLING, CRM)
    bench.receivers.answers["billing"] = hanging
    await bench.close_hour(*(f"c{number}" for number in range(20)))
    async with bench.running():
        await wait_all_tasks_blocked()
        reached = [attempt.endpoint_id for attempt in bench.receivers.attempts]
    assert (reached.count("billing"), reached.count("crm")) == (4, 20)


class SilentLedger(ModelLedger):
    """As an engine is whose writer has failed: it does not answer."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        super().__init__(now_ms)
        self.answers = trio.Event()

    async def claim(self, endpoint_id: str, **wanted: Any) -> Claim:
        await self.answers.wait()
        return await super().claim(endpoint_id, **wanted)


async def test_a_ledger_that_does_not_answer_does_not_keep_the_actor(
    autojump_clock: MockClock,
) -> None:
    """A daemon that cannot go on ends, and is started again; it must not hang."""
    bench = OutboxBench()
    bench.ledger = silent = SilentLedger(bench.clock.now_ms)
    ended = trio.Event()

    async def run_and_end() -> None:
        async with bench.running():
            await wait_all_tasks_blocked()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_and_end)
        with trio.move_on_after(60):
            await ended.wait()
        in_time = ended.is_set()
        silent.answers.set()
    assert in_time


# -- what -----------------------------------------------------------------------------------------


async def test_each_attempt_is_signed_afresh(autojump_clock: MockClock) -> None:
    """Same id, same bytes; the time and both signatures are those of the attempt."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = failing
    await bench.close_hour("c")
    async with bench.running():
        await trio.sleep(600)
    attempts = bench.receivers.attempts
    assert len(attempts) == 3
    assert len({attempt.headers["webhook-id"] for attempt in attempts}) == 1
    assert len({attempt.headers["webhook-timestamp"] for attempt in attempts}) == 3
    [delivery] = await bench.deliveries()
    for attempt in attempts:
        headers = attempt.headers
        stamp = str(attempt.at_ms // 1000)
        assert headers["X-Webhook-Timestamp"] == headers["webhook-timestamp"] == stamp
        signed = stamp.encode() + b"." + attempt.body
        old = hmac.new(b"whsec_first", signed, hashlib.sha256).hexdigest()
        assert headers["X-Webhook-Signature"] == f"v1={old}"
        named = delivery.id.encode() + b"." + signed
        new = base64.b64encode(hmac.new(b"whsec_first", named, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{new}"
        assert headers["webhook-id"] == delivery.id
        assert (headers["Content-Type"], headers["User-Agent"]) == ("application/json", USER_AGENT)
        assert attempt.body == delivery.body


async def test_a_dry_run_sends_nothing_and_logs_what_it_would(autojump_clock: MockClock) -> None:
    """Headers and payload are there to be read, a token in the URL is not; it is delivered."""
    bench = OutboxBench()
    bench.config = msgspec.structs.replace(bench.config, dry_run=True)
    await bench.close_hour("c")
    with capture_logs() as logged:
        async with bench.running():
            await wait_all_tasks_blocked()
    assert bench.receivers.attempts == []
    [delivery] = await bench.deliveries()
    assert (delivery.status, delivery.dry_run) == (DeliveryStatus.DELIVERED, True)
    assert (delivery.attempts, delivery.delivered_ms) == (1, CLOSED_MS)
    [would] = [entry for entry in logged if entry["event"].startswith("dry run")]
    assert would["payload"] == delivery.body.decode()
    assert would["headers"]["webhook-id"] == delivery.id
    assert {"X-Webhook-Signature", "webhook-signature"} <= would["headers"].keys()
    assert "t0ps3cret" not in str(logged)


async def test_what_became_of_an_attempt_is_logged(autojump_clock: MockClock) -> None:
    """Failures as warnings with the next try, the last one as an error, success as information."""
    bench = OutboxBench(BILLING, CRM)
    bench.below = lambda steps: steps // 2
    bench.receivers.answers["billing"] = failing
    await bench.close_hour("c")
    with capture_logs() as logged:
        async with bench.running():
            await trio.sleep(A_WEEK_S)
    told = [entry for entry in logged if entry.get("endpoint") == "billing" and "attempt" in entry]
    assert [entry["log_level"] for entry in told] == ["warning"] * 9 + ["error"]
    assert told[0]["attempt"] == 1
    assert told[0]["next"] == "2026-03-10T10:00:05.000Z"
    assert told[-1]["event"] == "delivery parked: every attempt failed"
    assert {entry["error"] for entry in told} == {"HTTP 500: Internal Server Error"}
    [success] = [entry for entry in logged if entry.get("endpoint") == "crm"]
    assert (success["event"], success["log_level"]) == ("delivered", "info")


# -- the log of attempts --------------------------------------------------------------------------


async def test_attempts_are_forgotten_when_they_are_too_old(autojump_clock: MockClock) -> None:
    """Within an hour, as the configuration says at that moment."""
    bench = OutboxBench()
    await bench.close_hour("c")
    async with bench.running():
        await trio.sleep(3600)
        assert len(bench.ledger.attempts) == 1
        bench.reload(BILLING, storage=Storage(attempts_kept_ms=7200_000))
        await trio.sleep(3590)
        assert len(bench.ledger.attempts) == 1
        await trio.sleep(3700)
        assert bench.ledger.attempts == []


async def test_a_log_that_grows_is_looked_at_sooner(autojump_clock: MockClock) -> None:
    """At each thousandth attempt that is settled."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=1))
    bench.config = msgspec.structs.replace(bench.config, storage=Storage(attempts_kept_ms=0))

    async def take_a_moment() -> Outcome:
        await trio.sleep(0.01)
        return Outcome()

    bench.receivers.answers["billing"] = take_a_moment
    async with bench.running():
        await bench.close_hour(*(f"c{number}" for number in range(1100)))
        await trio.sleep(60)
    assert len(bench.receivers.attempts) == 1100
    assert len(bench.ledger.attempts) <= 100
