"""Who watches usage tells of thresholds by itself: as events come, at a start, at a reload."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from meterd.domain.alerts import Alert
from meterd.domain.config import Config, EventType
from meterd.domain.endpoints import Endpoint
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType
from meterd.ledger import DeliveryQuery
from meterd.work import threshold_watcher
from meterd.work.threshold_watcher import LOOKS_AT_ONCE, ThresholdWatcher
from tests.fake_clock import FakeClock
from tests.ledger_bench import ALL, event
from tests.model_thresholds import ModelThresholds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import pytest
    from trio.testing import MockClock

    from meterd.domain.thresholds import Reached, Watched
    from meterd.watching import Look


def alerts(*thresholds: int) -> tuple[Alert, ...]:
    return (Alert("calls", "sum", PeriodType.DAILY, tuple(map(Decimal, thresholds))),)


CONFIG = Config(
    periods=tuple(PeriodType),
    events={"sum": EventType(Operation.SUM)},
    webhooks=(
        Endpoint("billing", "http://billing.test/", ("secret",)),
        Endpoint("off", "http://off.test/", ("secret",), enabled=False),
    ),
    alerts=alerts(2, 4),
)


class CountingLedger(ModelThresholds):
    """Counts what it is asked, may hold a teller up, and may forget whom it noted."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock.now_ms)
        self.began: list[Watched | None] = []
        self.looked_at: list[int] = []
        self.looked_at_s: list[float] = []
        self.takes_s = 0.0
        self.is_lost = False

    def watch(self, watched: Watched | None) -> Mapping[PeriodType, int]:
        self.began.append(watched)
        return super().watch(watched)

    async def changed(self, *, limit: int) -> list[Look]:
        found = await super().changed(limit=limit)
        if self.is_lost:
            self.is_lost = False
            return []
        return found

    async def tell(
        self, watched: Watched, looks: Sequence[Look], endpoints: tuple[str, ...]
    ) -> list[Reached]:
        self.looked_at.append(len(looks))
        self.looked_at_s.append(trio.current_time())
        await trio.sleep(self.takes_s)
        return await super().tell(watched, looks, endpoints)


class Bench:
    """How long anything takes is the test's, by ``time``."""

    def __init__(self, time: MockClock) -> None:
        self.time = time
        self.ledger = CountingLedger(FakeClock("2026-01-14T11:15:00Z"))
        self.config = CONFIG
        self.watcher = ThresholdWatcher(self.ledger, lambda: self.config)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.watcher.run)
            await wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()

    async def append(self, *customers: str) -> None:
        await self.ledger.append([event(one) for one in customers])
        await wait_all_tasks_blocked()

    async def reload(self, **changes: object) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)
        self.watcher.reconfigure()
        await wait_all_tasks_blocked()

    async def told(self) -> list[str]:
        """``acme 2 to billing``, the first first."""
        found = await self.ledger.deliveries(DeliveryQuery(), limit=ALL)
        return [
            f"{one.customer_id} {json.loads(one.body)['data']['threshold']} to {one.endpoint_id}"
            for one in reversed(found)
        ]


async def test_it_tells_as_events_come(autojump_clock: MockClock) -> None:
    """Each enabled webhook, once."""
    bench = Bench(autojump_clock)
    async with bench.running():
        await bench.append("acme")
        assert await bench.told() == []
        await bench.append("acme", "b")
        assert await bench.told() == ["acme 2 to billing"]
        for _ in range(5):
            await bench.append("acme")
        assert await bench.told() == ["acme 2 to billing", "acme 4 to billing"]
        assert bench.watcher.reached == 2


async def test_the_log_says_whose_threshold_was_reached(autojump_clock: MockClock) -> None:
    """Which one, in which period, and how much it was by then; a line for each."""
    bench = Bench(autojump_clock)
    with capture_logs() as logged:
        async with bench.running():
            await bench.append("acme", "acme", "b", "acme")
            await bench.told()
    assert logged == [
        {
            "event": "threshold reached",
            "log_level": "info",
            "alert": "calls",
            "customer": "acme",
            "event_type": "sum",
            "period": "daily",
            "period_key": "20260114",
            "threshold": "2",
            "value": "3",
        }
    ]


async def test_it_begins_with_everybody(autojump_clock: MockClock) -> None:
    """What came while nobody watched; a second start tells nothing again."""
    bench = Bench(autojump_clock)
    customers = [f"c{number:02}" for number in range(LOOKS_AT_ONCE + 1)]
    await bench.ledger.append([event(one) for one in customers * 2])
    for _ in range(2):
        async with bench.running():
            assert sorted(await bench.told()) == [f"{one} 2 to billing" for one in customers]
    assert max(bench.ledger.looked_at) == LOOKS_AT_ONCE


async def test_a_reload_tells_of_new_thresholds_that_are_passed(autojump_clock: MockClock) -> None:
    """Of those that stay not again, nor of those that are taken out and put in again."""
    bench = Bench(autojump_clock)
    async with bench.running():
        await bench.append(*["acme"] * 3)
        await bench.reload(alerts=alerts(2, 3))
        assert await bench.told() == ["acme 2 to billing", "acme 3 to billing"]
        await bench.reload(alerts=alerts(5))
        await bench.reload(alerts=alerts(2, 3))
        assert len(await bench.told()) == 2
        await bench.reload(alerts=())
        await bench.append("acme", "acme")
        await bench.reload(alerts=alerts(5))
        assert (await bench.told())[2:] == ["acme 5 to billing"]


async def test_a_reload_of_anything_else_looks_at_nobody(autojump_clock: MockClock) -> None:
    """But an operation is what a figure is made of; and who is told is asked each time."""
    bench = Bench(autojump_clock)
    async with bench.running():
        await bench.append("acme")
        looked_at = len(bench.ledger.looked_at)
        await bench.reload(grace_ms=1, webhooks=CONFIG.webhooks[1:])
        assert (len(bench.ledger.looked_at), len(bench.ledger.began)) == (looked_at, 1)
        await bench.append("acme")
        assert await bench.told() == []
        await bench.reload(events={"sum": EventType(Operation.COUNT)}, webhooks=CONFIG.webhooks)
        assert len(bench.ledger.began) == 2


async def test_without_alerts_nothing_is_done(autojump_clock: MockClock) -> None:
    """Nothing is noted, nobody looked at, until there are some."""
    bench = Bench(autojump_clock)
    bench.config = msgspec.structs.replace(CONFIG, alerts=())
    async with bench.running():
        await bench.append("acme", "acme")
        assert (bench.ledger.began, bench.ledger.looked_at) == ([None], [])
        await bench.reload(alerts=alerts(2))
        assert await bench.told() == ["acme 2 to billing"]


async def test_where_changes_were_lost_everybody_is_looked_at(autojump_clock: MockClock) -> None:
    """There were more than can be remembered."""
    bench = Bench(autojump_clock)
    async with bench.running():
        bench.ledger.is_lost = True
        await bench.append("acme", "acme", "b", "b")
        assert sorted(await bench.told()) == ["acme 2 to billing", "b 2 to billing"]
        await bench.append("acme", "acme")
        assert "acme 4 to billing" in await bench.told()


async def test_it_rests_as_long_as_it_works(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """However much there is to look at, half of the time is others'."""
    monkeypatch.setattr(threshold_watcher, "LOOKS_AT_ONCE", 1)
    bench = Bench(autojump_clock)
    bench.ledger.takes_s = 3.0
    await bench.ledger.append([event(f"c{number}") for number in range(4)])
    began_at = trio.current_time()
    with trio.move_on_after(60):
        await bench.watcher.run()
    assert [at - began_at for at in bench.ledger.looked_at_s] == [0, 6, 12, 18]
