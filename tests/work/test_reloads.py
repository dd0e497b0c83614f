"""What an endpoint said holds for the URL that said it, whatever is reloaded, enabled or killed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.endpoint_states import disabled, enabled
from meterd.domain.outcomes import Outcome
from tests.model_ledger import ModelLedger
from tests.work.outbox_bench import BILLING, CLOSED_MS, OutboxBench, failing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio.testing import MockClock

    from meterd.domain.deliveries import Attempt, Delivery
    from meterd.domain.endpoint_states import Change
    from meterd.ledger import Claim

GONE = Outcome("HTTP 410: Gone", status=410)
TOMORROW = Outcome("HTTP 503: x", status=503, headers=(("Retry-After", "86400"),))
MOVED = msgspec.structs.replace(BILLING, url="http://new.test/")
MORE_SLOTS = msgspec.structs.replace(BILLING, slots=5)


class SlowLedger(ModelLedger):
    """A claim and a settlement are on disk a moment before it says so, as after a sync."""

    async def claim(self, endpoint_id: str, **wanted: Any) -> Claim:
        claim = await super().claim(endpoint_id, **wanted)
        await trio.sleep(0.05)
        return claim

    async def settle(
        self,
        deliveries: Sequence[Delivery],
        attempts: Sequence[Attempt] = (),
        changes: Sequence[tuple[str, Change]] = (),
    ) -> None:
        await trio.sleep(0.05)
        await super().settle(deliveries, attempts, changes)


def once(outcome: Outcome, after_s: float = 0) -> Callable[[], Awaitable[Outcome]]:
    """The first attempt is answered so, after so long; all others with 200 at once."""
    left = [outcome]

    async def answer() -> Outcome:
        if not left:
            return Outcome()
        found = left.pop()
        await trio.sleep(after_s)
        return found

    return answer


def asked(bench: OutboxBench) -> list[str]:
    return [attempt.url for attempt in bench.receivers.attempts]


def slow(bench: OutboxBench) -> None:
    bench.ledger = SlowLedger(bench._ledger_ms)


async def is_disabled(bench: OutboxBench, url: str = BILLING.url) -> bool:
    return (await bench.ledger.endpoint_state("billing")).is_disabled(url)


@pytest.mark.parametrize("said", [GONE, TOMORROW], ids=["410", "Retry-After"])
async def test_what_the_url_of_before_says_is_not_said_of_the_new_one(
    said: Outcome, autojump_clock: MockClock
) -> None:
    """Its attempt was in the air when the configuration changed."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=1))
    bench.receivers.answers["billing"] = once(said, after_s=5)
    await bench.close_hour("a", "b")
    async with bench.running():
        await trio.sleep(1)
        bench.reload(msgspec.structs.replace(MOVED, slots=1))
        await trio.sleep(600)
        assert MOVED.url in asked(bench)
        assert not await is_disabled(bench, MOVED.url)
        state = await bench.ledger.endpoint_state("billing")
        assert state.pause_end_ms(MOVED.url) == 0


async def test_a_new_url_does_not_inherit_a_pause(autojump_clock: MockClock) -> None:
    """The old one asked to be left alone for a day, and nobody else did."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=1))
    bench.receivers.answers["billing"] = once(TOMORROW)
    await bench.close_hour("a", "b")
    async with bench.running():
        await trio.sleep(60)
        assert len(asked(bench)) == 1
        bench.reload(msgspec.structs.replace(MOVED, slots=1))
        await trio.sleep(60)
        assert MOVED.url in asked(bench)


@pytest.mark.parametrize("to", [BILLING, MORE_SLOTS], ids=["nothing changed", "other slots"])
@pytest.mark.parametrize("at_s", [0.02, 1, 5.02])
async def test_a_reload_does_not_forget_that_an_endpoint_is_gone(
    to: object, at_s: float, autojump_clock: MockClock
) -> None:
    """Before the claim is heard of, in the air, or while the answer is being written down."""
    bench = OutboxBench(BILLING)
    slow(bench)
    bench.receivers.answers["billing"] = once(GONE, after_s=5)
    await bench.close_hour("a")
    async with bench.running():
        await trio.sleep(at_s)
        bench.reload(to)  # type: ignore[arg-type]
        await trio.sleep(86400)
        assert await is_disabled(bench)
    assert len(asked(bench)) == 1


async def test_enabled_while_a_claim_is_under_way(autojump_clock: MockClock) -> None:
    """Which has found the endpoint disabled: it is asked again at once."""
    bench = OutboxBench(BILLING)
    slow(bench)
    gone = partial(disabled, url=BILLING.url, now_ms=CLOSED_MS)
    await bench.ledger.change_endpoint("billing", gone)
    await bench.close_hour("a")
    async with bench.running():
        await trio.sleep(0.02)
        await bench.ledger.change_endpoint("billing", enabled)
        bench.actor.reconsider("billing")
        await trio.sleep(1)
        assert {one.status for one in await bench.deliveries()} == {DeliveryStatus.DELIVERED}


async def test_killed_when_the_answer_is_on_disk(autojump_clock: MockClock) -> None:
    """The next process knows what the answer said of the endpoint."""
    bench = OutboxBench(BILLING)
    bench.receivers.answers["billing"] = once(GONE)
    await bench.close_hour("a")
    settle, settled = bench.ledger.settle, trio.Event()

    async def and_no_further(*written: object) -> None:
        await settle(*written)  # type: ignore[arg-type]
        settled.set()
        await trio.sleep_forever()

    bench.ledger.settle = and_no_further  # type: ignore[method-assign, assignment]
    async with bench.running():
        await settled.wait()
    bench.ledger.settle = settle  # type: ignore[method-assign]
    bench.ledger.restarted()
    async with bench.running():
        await trio.sleep(86400)
    assert len(asked(bench)) == 1


async def test_what_was_claimed_for_the_url_of_before_asks_for_the_new_one_first(
    autojump_clock: MockClock,
) -> None:
    """That may have said long ago that it is gone."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=1))
    bench.receivers.answers["billing"] = once(Outcome(), after_s=5)
    gone = partial(disabled, url=MOVED.url, now_ms=CLOSED_MS)
    await bench.ledger.change_endpoint("billing", gone)
    await bench.close_hour("a", "b", "c")
    async with bench.running():
        await trio.sleep(1)
        bench.reload(msgspec.structs.replace(MOVED, slots=1))
        await trio.sleep(3600)
    assert asked(bench) == [BILLING.url]
    assert sorted(one.attempts for one in await bench.deliveries()) == [0, 0, 1]


# -- rests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({}, 0),
        ({"description": "new"}, 0),
        ({"slots": 5}, 0),
        ({"secrets": ("whsec_new",)}, 1),
        ({"allow_private": ("x",)}, 1),
        ({"url": "http://new.test/"}, 1),
    ],
)
async def test_a_reload_ends_a_rest_where_an_attempt_may_end_otherwise(
    change: dict[str, object], more: int, autojump_clock: MockClock
) -> None:
    """Twenty reloads for something else are no twenty attempts at a dead endpoint."""
    bench = OutboxBench(BILLING)
    bench.receivers.answers["billing"] = failing
    await bench.close_hour(*(f"c{number}" for number in range(100)))
    async with bench.running():
        await trio.sleep(630)
        made = len(asked(bench))
        for _ in range(20):
            bench.reload(msgspec.structs.replace(BILLING, **change))
            await trio.sleep(0.01)
        assert (len(asked(bench)) > made) == bool(more)
        assert len(asked(bench)) <= made + 1 + 19 * more


async def test_enabled_by_hand_it_is_asked_at_once(autojump_clock: MockClock) -> None:
    """Whatever rest it had."""
    bench = OutboxBench(BILLING)
    bench.receivers.answers["billing"] = failing
    await bench.close_hour(*(f"c{number}" for number in range(100)))
    async with bench.running():
        await trio.sleep(630)
        made = len(asked(bench))
        bench.receivers.answers = {}
        bench.actor.reconsider("billing")
        await wait_all_tasks_blocked()
        assert len(asked(bench)) > made
