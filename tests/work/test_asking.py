"""What people ask of an endpoint's worker: a test, its counts, a delivery once more."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meterd.domain.endpoint_states import EndpointState, enabled
from meterd.domain.events import UsageEvent
from meterd.domain.outcomes import Outcome
from meterd.domain.signatures import sign
from meterd.domain.statistics import Statistics
from meterd.work.closer import rules_of
from tests.work.outbox_bench import BILLING, CLOSED_MS, CRM, OutboxBench, failing, hanging

GONE = Outcome("HTTP 410: Gone", status=410)


async def gone() -> Outcome:
    return GONE


async def test_a_test_is_signed_and_sent_as_a_delivery_is(autojump_clock: MockClock) -> None:
    """It answers with what came of it, and leaves nothing in the ledger."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = failing
    bench.below = lambda limit: limit - 1
    async with bench.running():
        worker = bench.actor.worker("billing")
        assert worker is not None
        message, attempt = await worker.probe()
        assert worker.statistics == Statistics()
    (sent,) = bench.receivers.attempts
    assert (sent.body, sent.headers["webhook-id"]) == (message.body, "msg_" + "f" * 32)
    expected = sign(
        sent.body,
        message_id=message.id,
        timestamp_s=CLOSED_MS // 1000,
        secrets=BILLING.secrets,
    )
    assert expected.items() <= sent.headers.items()
    assert json.loads(sent.body)["type"] == "webhook.test"
    assert attempt.outcome.error == "HTTP 500: Internal Server Error"
    assert dict(attempt.headers) == sent.headers
    assert (await bench.deliveries(), bench.ledger.attempts) == ([], [])


async def test_a_test_waits_for_nothing(autojump_clock: MockClock) -> None:
    """Neither for deliveries that hang in every slot nor for an endpoint that is gone."""
    bench = OutboxBench(BILLING, CRM)
    bench.receivers.answers = {"billing": hanging, "crm": gone}
    await bench.close_hour(*"abcdef")
    async with bench.running():
        await wait_all_tasks_blocked()
        worker = bench.actor.worker("billing")
        assert worker is not None
        assert worker.in_air == BILLING.slots
        bench.receivers.answers = {}
        for endpoint_id in ("billing", "crm"):
            worker = bench.actor.worker(endpoint_id)
            assert worker is not None
            with trio.fail_after(1):
                _, attempt = await worker.probe()
            assert attempt.outcome == Outcome()
        assert bench.actor.worker("nobody") is None


async def test_a_test_does_not_disable_nor_pause(autojump_clock: MockClock) -> None:
    """Whatever it is answered."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = gone
    async with bench.running():
        worker = bench.actor.worker("billing")
        assert worker is not None
        for _ in range(20):
            await worker.probe()
        assert await bench.ledger.endpoint_state("billing") == EndpointState()
        bench.receivers.answers = {}
        await bench.ledger.append([UsageEvent("a", "api.calls", Decimal(1), b"{}")])
        await trio.sleep(3600)
        period = await bench.ledger.next_to_close()
        assert period is not None
        await bench.ledger.close(period, rules_of(bench.config))
        await wait_all_tasks_blocked()
    assert [one.attempts for one in await bench.deliveries()] == [1]


async def test_a_dry_run_sends_no_test_either(autojump_clock: MockClock) -> None:
    """And says that it was one."""
    bench = OutboxBench()
    bench.config = msgspec.structs.replace(bench.config, dry_run=True)
    async with bench.running():
        worker = bench.actor.worker("billing")
        assert worker is not None
        _, attempt = await worker.probe()
    assert attempt.outcome == Outcome(dry_run=True)
    assert bench.receivers.attempts == []


async def test_attempts_are_counted(autojump_clock: MockClock) -> None:
    """By what came of them; and that the endpoint is let alone is told."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = failing
    await bench.close_hour(*(f"c{number}" for number in range(10)))
    async with bench.running():
        worker = bench.actor.worker("billing")
        assert worker is not None
        await trio.sleep(1)
        failed = worker.statistics
        assert failed.attempts == failed.failed == failed.failing >= 10
        assert failed.last_error == "HTTP 500: Internal Server Error"
        assert worker.is_failing
        bench.receivers.answers = {}
        await trio.sleep(600)
        assert (worker.statistics.delivered, worker.statistics.failing) == (10, 0)
        assert not worker.is_failing


async def test_a_retry_is_noticed_at_once(autojump_clock: MockClock) -> None:
    """By a worker that has nothing to do."""
    bench = OutboxBench()
    await bench.close_hour("a")
    async with bench.running():
        await trio.sleep(10)
        (done,) = await bench.deliveries()
        await bench.ledger.retry(done.id)
        await trio.sleep(0.1)
    assert [attempt.headers["webhook-id"] for attempt in bench.receivers.attempts] == [done.id] * 2


async def test_an_endpoint_that_is_enabled_gets_what_waited(autojump_clock: MockClock) -> None:
    """At once, when the worker is told."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = gone
    await bench.close_hour("a")
    async with bench.running():
        await trio.sleep(3600)
        bench.receivers.answers = {}
        await bench.ledger.change_endpoint("billing", enabled)
        bench.actor.reconsider("billing")
        bench.actor.reconsider("nobody")
        await trio.sleep(0.1)
    assert [one.delivered_ms is not None for one in await bench.deliveries()] == [True]
