"""Endpoints that are taken out, put back and changed while their deliveries are on their way."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.outcomes import Outcome
from tests.work.outbox_bench import BILLING, CRM, OutboxBench, failing, hanging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from meterd.domain.deliveries import Delivery
    from meterd.domain.endpoints import Endpoint
    from meterd.ledger import Claim


@pytest.mark.parametrize(
    "rest", [(), (msgspec.structs.replace(BILLING, enabled=False),)], ids=["removed", "disabled"]
)
async def test_an_endpoint_taken_out_ends_in_peace_and_goes_on_when_put_back(
    autojump_clock: MockClock, rest: tuple[Endpoint, ...]
) -> None:
    """Attempts in the air are settled, the connections closed; what is left waits in the ledger."""
    bench = OutboxBench()
    may_end = trio.Event()

    async def answer_when_told() -> Outcome:
        await may_end.wait()
        return Outcome()

    bench.receivers.answers["billing"] = answer_when_told
    await bench.close_hour(*(f"c{number}" for number in range(10)))
    async with bench.running():
        await wait_all_tasks_blocked()
        bench.reload(*rest)
        await wait_all_tasks_blocked()
        assert bench.receivers.in_air == 4
        may_end.set()
        await trio.sleep(3600)
        states = [delivery.status for delivery in await bench.deliveries()]
        assert states.count(DeliveryStatus.DELIVERED) == 4
        assert states.count(DeliveryStatus.PENDING) == 6
        assert bench.receivers.open == []
        bench.reload(BILLING)
        await wait_all_tasks_blocked()
    deliveries = await bench.deliveries()
    assert {delivery.status for delivery in deliveries} == {DeliveryStatus.DELIVERED}
    assert {delivery.attempts for delivery in deliveries} == {1}
    assert len(bench.receivers.attempts) == 10


async def test_an_endpoint_that_is_switched_on_is_told_what_it_lacks(
    autojump_clock: MockClock,
) -> None:
    """What closed meanwhile was not made for it. Not at a start, nor where slots have changed."""
    bench = OutboxBench()
    with capture_logs() as logged:
        async with bench.running():
            bench.reload(msgspec.structs.replace(BILLING, slots=2))
            bench.reload(msgspec.structs.replace(BILLING, enabled=False), CRM)
            bench.reload(BILLING, CRM)
    told = [one for one in logged if one["event"].startswith("endpoint is on")]
    assert [one["endpoint"] for one in told] == ["crm", "billing"]
    assert all("meterd deliveries replay" in one["event"] for one in told)


async def test_an_endpoint_taken_out_with_a_long_queue_claims_no_more(
    autojump_clock: MockClock,
) -> None:
    """However fast its receiver is: what was claimed is sent, and no more."""
    bench = OutboxBench()
    await bench.close_hour(*(f"c{number:03d}" for number in range(100)))

    async def take_out() -> Outcome:
        if bench.config.webhooks:
            bench.reload()
        return Outcome()

    bench.receivers.answers["billing"] = take_out
    async with bench.running():
        await trio.sleep(3600)
    assert len(bench.receivers.attempts) <= 8
    delivered = [d for d in await bench.deliveries() if d.status is DeliveryStatus.DELIVERED]
    assert len(delivered) == len(bench.receivers.attempts)


async def test_an_endpoint_put_back_while_its_last_attempts_are_in_the_air(
    autojump_clock: MockClock,
) -> None:
    """Nothing is sent twice, nothing waits for the hanging ones."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = hanging
    await bench.close_hour(*(f"c{number}" for number in range(10)))
    async with bench.running():
        await wait_all_tasks_blocked()
        bench.reload()
        del bench.receivers.answers["billing"]
        bench.reload(BILLING)
        await wait_all_tasks_blocked()
        sent = [attempt.headers["webhook-id"] for attempt in bench.receivers.attempts]
        assert len(sent) == len(set(sent)) == 10


async def test_a_changed_endpoint_is_used_by_the_next_attempt(autojump_clock: MockClock) -> None:
    """URL and secret, over the connections that are open; the id and the body stay."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = failing
    await bench.close_hour("c")
    moved = msgspec.structs.replace(BILLING, url="http://new.test/", secrets=("whsec_second",))
    async with bench.running():
        await wait_all_tasks_blocked()
        bench.reload(moved)
        await trio.sleep(60)
        assert bench.receivers.ever_opened == ["billing"]
    before, after = bench.receivers.attempts
    assert (before.url, after.url) == (BILLING.url, moved.url)
    stamp = after.headers["X-Webhook-Timestamp"].encode()
    signature = hmac.new(b"whsec_second", stamp + b"." + after.body, hashlib.sha256).hexdigest()
    assert after.headers["X-Webhook-Signature"] == f"v1={signature}"
    assert before.headers["webhook-id"] == after.headers["webhook-id"]
    assert before.body == after.body


async def test_what_was_claimed_for_another_url_is_given_back(autojump_clock: MockClock) -> None:
    """The old one may be gone by then, for all that a claim knew. The next claim is of the new."""
    bench = OutboxBench()
    moved = msgspec.structs.replace(BILLING, url="http://new.test/")
    claim = bench.ledger.claim
    settled: list[Delivery] = []
    settle = bench.ledger.settle

    async def reload_meanwhile(endpoint_id: str, **asked: Any) -> Claim:
        claimed = await claim(endpoint_id, **asked)
        if claimed.deliveries and asked["url"] == BILLING.url:
            bench.reload(moved)
        return claimed

    async def note(deliveries: Sequence[Delivery], *more: Any) -> None:
        settled.extend(deliveries)
        await settle(deliveries, *more)

    bench.ledger.claim = reload_meanwhile  # type: ignore[method-assign]
    bench.ledger.settle = note  # type: ignore[method-assign, assignment]
    await bench.close_hour("a", "b")
    async with bench.running():
        await trio.sleep(60)
    assert [one.status for one in settled] == [DeliveryStatus.PENDING] * 2 + (
        [DeliveryStatus.DELIVERED] * 2
    )
    assert {attempt.url for attempt in bench.receivers.attempts} == {moved.url}
    assert {one.attempts for one in await bench.deliveries()} == {1}


async def test_a_new_endpoint_is_served_at_once(autojump_clock: MockClock) -> None:
    """And gets what closes from then on."""
    bench = OutboxBench()
    async with bench.running():
        bench.reload(BILLING, CRM)
        await bench.close_hour("c")
        await wait_all_tasks_blocked()
    reached = {attempt.endpoint_id for attempt in bench.receivers.attempts}
    assert reached == {"billing", "crm"}


async def test_dry_run_may_be_switched_while_deliveries_wait(autojump_clock: MockClock) -> None:
    """The next attempt obeys."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = failing
    await bench.close_hour("c")
    async with bench.running():
        await wait_all_tasks_blocked()
        bench.reload(BILLING, dry_run=True)
        await trio.sleep(60)
    assert len(bench.receivers.attempts) == 1
    [delivery] = await bench.deliveries()
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.DELIVERED, 2)
