"""One endpoint: what it asks for and what it is spared, and what that means for what waits."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.endpoint_states import enabled
from meterd.domain.outcomes import REST_AFTER_CUT_MS, Outcome
from tests.work.outbox_bench import BILLING, CLOSED_MS, CRM, OutboxBench, failing, hanging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from meterd.domain.deliveries import Delivery

BUSY = Outcome("HTTP 429: Too Many Requests", status=429, headers=(("Retry-After", "90"),))
GONE = Outcome("HTTP 410: Gone", status=410)


def answering(*outcomes: Outcome) -> Callable[[], Awaitable[Outcome]]:
    """One after the other, and then 200."""
    left = list(outcomes)

    async def answer() -> Outcome:
        return left.pop(0) if left else Outcome()

    return answer


async def attempts_of(bench: OutboxBench) -> list[int]:
    return [delivery.attempts for delivery in await bench.deliveries()]


async def states_of(bench: OutboxBench) -> set[DeliveryStatus]:
    return {delivery.status for delivery in await bench.deliveries()}


def seconds(bench: OutboxBench, endpoint_id: str = "billing") -> list[float]:
    """When each attempt was made, since the close."""
    return [
        (attempt.at_ms - CLOSED_MS) / 1000
        for attempt in bench.receivers.attempts
        if attempt.endpoint_id == endpoint_id
    ]


# -- Retry-After ----------------------------------------------------------------------------------


async def test_an_endpoint_that_asks_to_wait_is_left_alone(autojump_clock: MockClock) -> None:
    """All of it, for as long as it says; nothing of any schedule is spent. Others go on."""
    bench = OutboxBench(BILLING, CRM)
    bench.receivers.answers["billing"] = answering(*[BUSY] * 4)
    await bench.close_hour(*(f"c{number}" for number in range(30)))
    async with bench.running():
        await wait_all_tasks_blocked()
        assert len(seconds(bench)) == 4
        assert len(seconds(bench, "crm")) == 30
        await trio.sleep(89)
        assert len(seconds(bench)) == 4
        await trio.sleep(2)
    assert set(seconds(bench)[4:]) == {90.0}
    assert await states_of(bench) == {DeliveryStatus.DELIVERED}
    assert {delivery.failures for delivery in await bench.deliveries()} == {0}


async def test_a_pause_outlives_a_restart(autojump_clock: MockClock) -> None:
    """The endpoint did not ask this process."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = answering(BUSY)
    await bench.close_hour("a")
    async with bench.running():
        await wait_all_tasks_blocked()
    bench.ledger.restarted()
    async with bench.running():
        await trio.sleep(300)
    assert seconds(bench) == [0.0, 90.0]


@pytest.mark.parametrize("status", [429, 503])
async def test_what_a_pause_made_wait_ends_with_it(autojump_clock: MockClock, status: int) -> None:
    """Also the delivery that was answered with it, when the endpoint is enabled."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=1))
    busy = Outcome(f"HTTP {status}: x", status=status, headers=(("Retry-After", "86400"),))
    bench.receivers.answers["billing"] = answering(busy)
    await bench.close_hour("a", "b", "c")
    with capture_logs() as logged:
        async with bench.running():
            await trio.sleep(60)
            assert seconds(bench) == [0.0]
            await bench.ledger.change_endpoint("billing", enabled)
            bench.actor.reconsider("billing")
            await wait_all_tasks_blocked()
    assert set(seconds(bench)[1:]) == {60.0}
    assert await states_of(bench) == {DeliveryStatus.DELIVERED}
    [failed] = [entry for entry in logged if entry["event"] == "attempt failed"]
    assert failed["next"] == "2026-03-11T10:00:00.000Z", "the pause is what it waits for"


async def test_the_last_attempt_is_that_of_the_log(autojump_clock: MockClock) -> None:
    """To the millisecond, however long it waited for its slot."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=1))

    async def take_a_second() -> Outcome:
        await trio.sleep(1)
        return Outcome()

    bench.receivers.answers["billing"] = take_a_second
    await bench.close_hour("a", "b")
    async with bench.running():
        await trio.sleep(10)
    logged = [attempt.begun_ms for attempt in bench.ledger.attempts]
    assert logged == [CLOSED_MS, CLOSED_MS + 1000]
    assert sorted(one.last_attempt_ms or 0 for one in await bench.deliveries()) == logged


async def test_what_waits_for_a_slot_when_the_pause_begins_was_never_begun(
    autojump_clock: MockClock,
) -> None:
    """However many the worker had claimed ahead."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=1))
    bench.receivers.answers["billing"] = answering(BUSY)
    await bench.close_hour("a", "b", "c", "d")
    async with bench.running():
        await wait_all_tasks_blocked()
        assert sorted(await attempts_of(bench)) == [0, 0, 0, 1]
        assert {delivery.begun_ms for delivery in await bench.deliveries()} == {None}


# -- answers without end --------------------------------------------------------------------------


async def test_a_slot_rests_behind_an_answer_that_went_on_and_on(autojump_clock: MockClock) -> None:
    """They are taken for received, and cost nobody else's time."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=2))
    bench.receivers.answers["billing"] = answering(*[Outcome(status=200, cut=True)] * 6)
    await bench.close_hour(*(f"c{number}" for number in range(6)))
    began_ms = bench.clock.now_ms()
    async with bench.running():
        await trio.sleep(1)
    waited = sorted(attempt.at_ms - began_ms for attempt in bench.receivers.attempts)
    rest = REST_AFTER_CUT_MS
    assert waited == [0, 0, rest, rest, 2 * rest, 2 * rest]
    assert await attempts_of(bench) == [1] * 6


# -- 410 ------------------------------------------------------------------------------------------


async def test_an_endpoint_that_is_gone_is_disabled(autojump_clock: MockClock) -> None:
    """Over restarts, however much closes; its deliveries wait, others are not concerned."""
    bench = OutboxBench(BILLING, CRM)
    bench.receivers.answers["billing"] = answering(GONE)
    await bench.close_hour("a", "b")
    with capture_logs() as logged:
        async with bench.running():
            await trio.sleep(86400)
    [told] = [entry for entry in logged if "410" in entry["event"]]
    assert (told["log_level"], told["endpoint"]) == ("error", "billing")
    bench.ledger.restarted()
    async with bench.running():
        await trio.sleep(86400)
    assert len(seconds(bench)) <= 2
    assert len(seconds(bench, "crm")) == 2
    state = await bench.ledger.endpoint_state("billing")
    assert state.is_disabled(BILLING.url)


async def test_what_was_given_a_slot_just_before_is_not_sent(autojump_clock: MockClock) -> None:
    """One ends and hands its slot on, the next one says that it is gone: in one turn of all tasks,
    whose order is this or the reverse.
    """
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=3))
    ends = [trio.Event() for _ in range(3)]
    left = list(zip(ends, (Outcome(), GONE, Outcome()), strict=True))

    async def answer() -> Outcome:
        if not left:
            return Outcome()
        end, outcome = left.pop(0)
        await end.wait()
        return outcome

    bench.receivers.answers["billing"] = answer
    await bench.close_hour("a", "b", "c", "d", "e")
    async with bench.running():
        await wait_all_tasks_blocked()
        for end in ends:
            end.set()
        await trio.sleep(86400)
    assert len(seconds(bench)) == 3
    assert sorted(await attempts_of(bench)) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("by", ["configuration", "operator"])
async def test_who_is_gone_comes_back(autojump_clock: MockClock, by: str) -> None:
    """With another URL, or when an operator says so; then all that waits is sent."""
    bench = OutboxBench(BILLING)
    bench.receivers.answers["billing"] = answering(GONE)
    await bench.close_hour("a")
    async with bench.running():
        await trio.sleep(86400)
        if by == "configuration":
            bench.reload(msgspec.structs.replace(BILLING, url="http://new.test/"))
        else:
            await bench.ledger.change_endpoint("billing", enabled)
            bench.actor.reconsider("billing")
        await wait_all_tasks_blocked()
        assert await states_of(bench) == {DeliveryStatus.DELIVERED}


async def test_a_reload_that_changes_nothing_leaves_it_disabled(autojump_clock: MockClock) -> None:
    """A SIGHUP for something else."""
    bench = OutboxBench(BILLING)
    bench.receivers.answers["billing"] = answering(GONE)
    await bench.close_hour("a")
    async with bench.running():
        await trio.sleep(3600)
        bench.reload(BILLING)
        await trio.sleep(3600)
    assert len(seconds(bench)) == 1


# -- a receiver that fails again and again --------------------------------------------------------


async def test_a_dead_endpoint_gets_one_attempt_at_a_time(autojump_clock: MockClock) -> None:
    """With longer and longer pauses: what waits spends nothing of its schedule."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = failing
    await bench.close_hour(*(f"c{number}" for number in range(100)))
    async with bench.running():
        await trio.sleep(3600)
        made = seconds(bench)
        assert 120 <= len(made) <= 140
        assert max(later - earlier for earlier, later in itertools.pairwise(made)) <= 31
        assert sum(await attempts_of(bench)) == len(made)


async def test_an_endpoint_that_is_back_gets_everything_within_a_minute(
    autojump_clock: MockClock,
) -> None:
    """The attempt that shows it is the first of many."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = failing
    await bench.close_hour(*(f"c{number}" for number in range(100)))
    with capture_logs() as logged:
        async with bench.running():
            await trio.sleep(1800)
            del bench.receivers.answers["billing"]
            await trio.sleep(61)
            delivered = [
                one for one in await bench.deliveries() if one.status is DeliveryStatus.DELIVERED
            ]
            assert len(delivered) > 60
            await trio.sleep(3600)
            assert await states_of(bench) == {DeliveryStatus.DELIVERED}
    assert "endpoint is back" in {entry["event"] for entry in logged}


# -- the log of attempts --------------------------------------------------------------------------


async def test_each_attempt_is_logged_with_what_was_sent_and_what_came(
    autojump_clock: MockClock,
) -> None:
    """In the ledger, with its delivery; a token in the URL is not."""
    bench = OutboxBench()
    bench.below = lambda steps: steps // 2
    bench.receivers.answers["billing"] = answering(Outcome("HTTP 500: x", status=500))
    await bench.close_hour("a")
    async with bench.running():
        await trio.sleep(60)
    first, second = bench.ledger.attempts
    [delivery] = await bench.deliveries()
    assert [(one.number, one.sequence, one.begun_ms) for one in (first, second)] == [
        (1, 1, CLOSED_MS),
        (2, 1, CLOSED_MS + 5000),
    ]
    assert (first.outcome.status, second.outcome.error) == (500, None)
    assert dict(first.headers) == bench.receivers.attempts[0].headers
    assert first.body_sha256 == hashlib.sha256(delivery.body).hexdigest()
    assert first.url == "http://billing.test/hook?token=***"


# -- order ----------------------------------------------------------------------------------------


async def test_a_customers_later_ones_wait_for_its_first_and_nobody_elses_do(
    autojump_clock: MockClock,
) -> None:
    """A delivery that fails for an hour holds back its own customer."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=1))
    refused = "a"

    async def answer() -> Outcome:
        customer = msgspec.json.decode(bench.receivers.attempts[-1].body)["customerId"]
        return await failing() if customer == refused else Outcome()

    bench.receivers.answers["billing"] = answer
    async with bench.running():
        for _ in range(3):
            await bench.close_hour("a", "b")
            await trio.sleep(3600)
        by_customer = await delivered_by_customer(bench)
        assert by_customer == {"a": 0, "b": 3}
        refused = ""
        await trio.sleep(86400)
        assert await delivered_by_customer(bench) == {"a": 3, "b": 3}
    keys = [
        msgspec.json.decode(attempt.body)["data"]["periodKey"]
        for attempt in bench.receivers.attempts
        if b'"customerId":"a"' in attempt.body
    ]
    assert keys == sorted(keys)


async def delivered_by_customer(bench: OutboxBench) -> dict[str, int]:
    deliveries: list[Delivery] = await bench.deliveries()
    return {
        customer: sum(
            one.status is DeliveryStatus.DELIVERED
            for one in deliveries
            if one.customer_id == customer
        )
        for customer in sorted({one.customer_id for one in deliveries})
    }


# -- slots ----------------------------------------------------------------------------------------


async def test_another_number_of_slots_opens_other_connections(autojump_clock: MockClock) -> None:
    """What hangs in the old ones is nobody's concern; nothing is sent twice."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=2))
    bench.receivers.answers["billing"] = hanging
    await bench.close_hour(*(f"c{number}" for number in range(9)))
    async with bench.running():
        await wait_all_tasks_blocked()
        assert bench.receivers.in_air == 2
        bench.reload(msgspec.structs.replace(BILLING, slots=5))
        await wait_all_tasks_blocked()
        assert bench.receivers.in_air == 7
    sent = [attempt.headers["webhook-id"] for attempt in bench.receivers.attempts]
    assert len(set(sent)) == len(sent) == 7
