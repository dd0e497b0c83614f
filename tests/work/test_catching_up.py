"""While a period closes, single posts keep step: what is made goes out before the next is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from meterd.domain.outcomes import Outcome
from tests.work.outbox_bench import BILLING, CRM, OutboxBench, failing, hanging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from meterd.domain.endpoints import Endpoint

# A portion of 30 deliveries over four slots, each of which takes a hundredth of a second.
PORTION = tuple(f"customer {number}" for number in range(30))
MANY = tuple(f"customer {number}" for number in range(200))
A_POST_S = 0.01
MADE_S = 0.04


def answering_in(seconds: float) -> Callable[[], Awaitable[Outcome]]:
    async def answer() -> Outcome:
        await trio.sleep(seconds)
        return Outcome()

    return answer


async def caught_up(bench: OutboxBench, customers: tuple[str, ...] = PORTION) -> tuple[float, int]:
    """How long it took, and how much had arrived by then; begun when the first have arrived."""
    await bench.close_hour(*customers)
    async with bench.running():
        await trio.sleep(A_POST_S * 1.5)
        began_s = trio.current_time()
        await bench.actor.catch_up(len(PORTION), MADE_S)
        took_s = trio.current_time() - began_s
        return took_s, len(bench.receivers.attempts) - bench.receivers.in_air


async def test_it_returns_when_less_waits_than_is_begun(autojump_clock: MockClock) -> None:
    """Sixteen are begun at once; of thirty, the last is claimed when ten or so have gone."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = answering_in(A_POST_S)
    took_s, arrived = await caught_up(bench)
    assert 0 < took_s < 3 * MADE_S
    assert 14 <= arrived < 30


async def test_it_takes_four_times_as_long_as_the_making_and_no_more(
    autojump_clock: MockClock,
) -> None:
    """However much there is to send: the period has to close."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = answering_in(A_POST_S)
    took_s, arrived = await caught_up(bench, MANY)
    assert took_s == pytest.approx(4 * MADE_S)
    assert arrived < 100


async def waited(answer_s: float, portions: int, *others: Endpoint) -> list[float]:
    """How long behind each portion, none of which takes any time; there is always more to send."""
    slots = 4 if answer_s <= A_POST_S else 2
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=slots), *others)
    bench.receivers.answers["billing"] = answering_in(answer_s)
    await bench.close_hour(*(f"customer {number}" for number in range(1000)))
    took: list[float] = []
    async with bench.running():
        await trio.sleep(answer_s * 1.5)
        for _ in range(portions):
            began_s = trio.current_time()
            await bench.actor.catch_up(len(PORTION), MADE_S)
            took.append(trio.current_time() - began_s)
    return took


async def test_receivers_that_are_slower_than_what_is_made_do_not_hold_up_the_close(
    autojump_clock: MockClock,
) -> None:
    """Who answers steadily, if late, is waited for once in a while: he may have become quicker."""
    took = await waited(0.03, 40)
    assert max(took) == pytest.approx(4 * MADE_S)
    assert sum(took) < 40 * MADE_S / 3
    assert [place for place, took_s in enumerate(took) if took_s] == [0, 17, 34]


async def test_a_slow_receiver_is_not_waited_for_because_another_is_quick(
    autojump_clock: MockClock,
) -> None:
    """Who has long sent all of its own."""
    took = await waited(0.03, 40, CRM)
    assert sum(took) < 40 * MADE_S / 2


@pytest.mark.parametrize("at_first", [("billing",), ("billing", "crm")])
async def test_each_receiver_is_left_out_by_itself(
    at_first: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """A slow one, although both together take more than half of what is made; the quick one is
    waited for meanwhile, whether or not it had anything to send when the slow one was left out.
    """
    bench = OutboxBench(msgspec.structs.replace(BILLING, slots=2), CRM)
    bench.receivers.answers |= {"billing": answering_in(0.03), "crm": answering_in(A_POST_S)}
    await bench.fill_hours(18, *PORTION)
    took: list[float] = []
    async with bench.running():
        for endpoints in (at_first, *[("billing", "crm")] * 17):
            await bench.close_next(*endpoints)
            await trio.sleep(0.03 * 1.5 if not took else A_POST_S * 1.5)
            began_s = trio.current_time()
            await bench.actor.catch_up(len(PORTION), MADE_S)
            took.append(trio.current_time() - began_s)
    assert [took[0], took[17]] == pytest.approx([4 * MADE_S] * 2)
    assert sum(took[1:17]) > 16 * MADE_S
    assert max(took[1:17]) < 3 * MADE_S


async def test_who_takes_as_much_as_is_made_is_waited_for_each_time(
    autojump_clock: MockClock,
) -> None:
    """Also where four times as long is not enough for all that waits."""
    took = await waited(A_POST_S, 8)
    assert min(took) == pytest.approx(4 * MADE_S)


async def test_a_portion_that_waited_for_room_on_the_disk_is_not_waited_for_as_long(
    autojump_clock: MockClock,
) -> None:
    """An hour of it would be up to four more, in which nothing closes."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = answering_in(A_POST_S)
    await bench.close_hour(*MANY)
    async with bench.running():
        await trio.sleep(A_POST_S * 1.5)
        bench.receivers.answers["billing"] = hanging
        began_s = trio.current_time()
        await bench.actor.catch_up(len(PORTION), 3600)
        assert trio.current_time() - began_s < 2


@pytest.mark.parametrize("answer", [hanging, failing, answering_in(10)])
async def test_who_does_not_answer_is_not_waited_for(
    answer: Callable[[], Awaitable[Outcome]], autojump_clock: MockClock
) -> None:
    """Nor who fails, of which nothing comes due soon; nor is that beside one who answers."""
    bench = OutboxBench()
    bench.receivers.answers["billing"] = answer
    assert (await caught_up(bench))[0] <= MADE_S
    alone = OutboxBench(CRM)
    alone.receivers.answers["crm"] = answering_in(A_POST_S)
    took_s, _ = await caught_up(alone)
    both = OutboxBench(CRM, BILLING)
    both.receivers.answers |= {"crm": answering_in(A_POST_S), "billing": answer}
    assert (await caught_up(both))[0] <= took_s + MADE_S


async def test_nobody_waits_for_batches(autojump_clock: MockClock) -> None:
    """They are the fuller the more there is to send, and of these more waits than is begun."""
    bench = OutboxBench(msgspec.structs.replace(BILLING, batch=2))
    bench.receivers.answers["billing"] = answering_in(A_POST_S)
    took_s, arrived = await caught_up(bench, MANY)
    assert (took_s, arrived) == (0, 4)


async def test_nobody_waits_where_nothing_is_sent(autojump_clock: MockClock) -> None:
    """Without an endpoint, and where all has been sent long ago."""
    bench = OutboxBench()
    async with bench.running():
        began_s = trio.current_time()
        await bench.actor.catch_up(len(PORTION), MADE_S)
        await bench.close_hour("acme")
        await trio.sleep(1)
        await bench.actor.catch_up(len(PORTION), MADE_S)
        assert trio.current_time() - began_s == 1
