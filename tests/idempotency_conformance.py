"""What every engine must keep of ``Ledger.append`` about events that are sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from meterd.domain.idempotency import Recorded
from meterd.domain.periods import HOUR_MS, PeriodType
from tests.ledger_bench import START_MS, close_ended, event, figures, rules, stored

if TYPE_CHECKING:
    from meterd.domain.events import UsageEvent
    from tests.ledger_bench import Bench

R, D, C, W = Recorded.RECORDED, Recorded.DUPLICATE, Recorded.CONFLICT, Recorded.WITHHELD


def keyed(key: str, value: int = 1, customer_id: str = "acme") -> UsageEvent:
    return msgspec.structs.replace(event(customer_id, "sum", value), idempotency_key=key)


async def values(bench: Bench) -> list[int]:
    """Of all stored events, oldest first."""
    return [int(one.event.value) for one in reversed(await stored(bench))]


async def forget(bench: Bench, before_ms: int) -> None:
    while await bench.ledger.forget_keys(before_ms=before_ms):
        pass


class IdempotencyConformance:
    async def test_a_repeat_is_stored_and_counted_once(self, bench: Bench) -> None:
        """Whoever sends it again, alone, in a batch, or behind a restart; the key is read back."""
        assert await bench.ledger.append([keyed("a", 5)]) == [R]
        assert await bench.ledger.append([keyed("a", 5)]) == [D]
        assert await bench.ledger.append([keyed("b", 7), keyed("a", 5), keyed("b", 7)]) == [R, D, D]
        await bench.restart()
        assert await bench.ledger.append([keyed("b", 7)]) == [D]
        assert await values(bench) == [5, 7]
        assert [one.event.idempotency_key for one in await stored(bench)] == ["b", "a"]
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=START_MS + HOUR_MS)
        assert await figures(bench, "acme_hourly_2026011411") == {"sum": "12"}

    async def test_a_repeat_in_a_later_period_is_still_one(self, bench: Bench) -> None:
        """Identity is decided before the period."""
        await bench.ledger.append([keyed("a", 5)])
        await close_ended(bench, rules(PeriodType.HOURLY), clock_ms=START_MS + HOUR_MS)
        assert await bench.ledger.append([keyed("a", 5)]) == [D]
        assert await values(bench) == [5]

    async def test_keys_are_each_customers_own(self, bench: Bench) -> None:
        """Also where customer and key together spell the same."""
        pairs = [("ab", "c"), ("a", "bc"), ("b", "c"), ("ab", "C"), ("ab", "c" * 255)]
        pairs += [("ab", "é" * 255), ("ab", "é" * 254 + "e"), ("ab", "é" * 254)]
        events = [keyed(key, 1, customer_id) for customer_id, key in pairs]
        assert await bench.ledger.append(events) == [R] * len(pairs)
        assert await bench.ledger.append(events) == [D] * len(pairs)

    async def test_a_conflict_stores_nothing_of_its_append(self, bench: Bench) -> None:
        """Unless a part is wanted; what was withheld may come again."""
        await bench.ledger.append([keyed("a", 5)])
        mixed = [keyed("b", 1), keyed("a", 6), keyed("a", 5)]
        assert await bench.ledger.append(mixed) == [W, C, D]
        assert await values(bench) == [5]
        assert await bench.ledger.append(mixed, partial=True) == [R, C, D]
        assert await values(bench) == [5, 1]
        assert await bench.ledger.append([keyed("c", 1), keyed("c", 2)]) == [W, C]
        assert await bench.ledger.append([keyed("c", 2)]) == [R]

    async def test_a_forgotten_key_is_new(self, bench: Bench) -> None:
        """Of events received before a moment, and of no other; behind a restart too."""
        await bench.ledger.append([keyed("a", 1), keyed("b", 2), event("acme", "sum", 9)])
        bench.clock.now_ms += HOUR_MS
        await bench.ledger.append([keyed("c", 3)])
        await forget(bench, before_ms=START_MS)
        assert await bench.ledger.append([keyed("a", 1)]) == [D]
        await forget(bench, before_ms=START_MS + 1)
        assert await bench.ledger.append([keyed("a", 4), keyed("c", 3)]) == [R, D]
        await bench.restart()
        assert await bench.ledger.append([keyed("b", 2), keyed("a", 4), keyed("c", 3)]) == [R, D, D]
        assert await values(bench) == [1, 2, 9, 3, 4, 2]
        await forget(bench, before_ms=START_MS + 1)
        assert await bench.ledger.append([keyed("a", 5)], partial=True) == [C]

    async def test_many_keys_are_forgotten_in_the_order_of_their_events(self, bench: Bench) -> None:
        """A portion at a time, each of which is whole."""
        many = [keyed(f"k{number}", number) for number in range(1000)]
        await bench.ledger.append(many)
        assert await bench.ledger.forget_keys(before_ms=START_MS + 1) > 0
        outcomes = await bench.ledger.append(many)
        assert outcomes == sorted(outcomes, key=[R, D].index)
        await forget(bench, before_ms=START_MS + 1)

    async def test_repeats_at_the_same_time_count_once(self, bench: Bench) -> None:
        """Thirty callers send the same ten events; one of them records each."""
        outcomes: list[Recorded] = []

        async def send(caller: int) -> None:
            for number in range(10):
                outcomes.extend(await bench.ledger.append([keyed(f"k{number}", number)]))
                if caller % 3 == 0:
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for caller in range(30):
                nursery.start_soon(send, caller)
        assert sorted(await values(bench)) == list(range(10))
        assert (outcomes.count(R), outcomes.count(D)) == (10, 290)
