"""Period ends: which periods are closed, in which order, and when to the millisecond."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.config import Config, EventType
from meterd.domain.endpoints import Endpoint
from meterd.domain.errors import DiskFullError, UnavailableError
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType
from meterd.work.closer import Closer, Triggered, rules_of
from tests.fake_clock import FakeClock
from tests.ledger_bench import event
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.periods import Period
    from meterd.ledger import CatchUp, Closed

MINUTE_MS = 60_000
CONFIG = Config(
    periods=tuple(PeriodType),
    grace_ms=5 * MINUTE_MS,
    events={"sum": EventType(Operation.SUM)},
    webhooks=(Endpoint("billing", "http://billing.test/", ("secret",)),),
)


class WatchedLedger(ModelLedger):
    """Remembers what was closed; a close may be held up, and something happen during a look."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock.now_ms)
        self.closed: list[str] = []
        self.may_close = trio.Event()
        self.may_close.set()
        self.during_next_look: Callable[[], Awaitable[None]] | None = None
        self.full = trio.Event()

    async def wait_full(self) -> None:
        await self.full.wait()

    async def next_to_close(self) -> Period | None:
        if self.full.is_set():
            raise DiskFullError("the disk is full")
        found = await super().next_to_close()
        during, self.during_next_look = self.during_next_look, None
        if during is not None:
            await during()
        return found

    async def close(
        self, period: Period, rules: ClosingRules, *, catch_up: CatchUp | None = None
    ) -> Closed:
        await self.may_close.wait()
        closed = await super().close(period, rules, catch_up=catch_up)
        self.closed.append(f"{period.type}_{period.key}")
        return closed


class Bench:
    """A closer over a watched ledger; ``config`` may be replaced."""

    def __init__(self, now: str) -> None:
        self.clock = FakeClock(now)
        self.ledger = WatchedLedger(self.clock)
        self.config = CONFIG
        self.closer = Closer(self.ledger, self.clock, lambda: self.config)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.closer.run)
            await wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()

    async def append_at(self, now: str, customer_id: str = "acme") -> None:
        self.clock.set(now)
        await self.ledger.append([event(customer_id)])

    async def closed_at(self, now: str) -> list[str]:
        """All that is closed when that moment's work is done."""
        self.clock.set(now)
        await wait_all_tasks_blocked()
        return self.ledger.closed

    def set_grace(self, grace_ms: int) -> None:
        self.config = msgspec.structs.replace(self.config, grace_ms=grace_ms)
        self.closer.reconfigure()


@pytest.fixture
def bench() -> Bench:
    return Bench("2026-03-10T09:58:00Z")


async def test_a_period_closes_at_the_moment_its_grace_is_over(bench: Bench) -> None:
    """Not a millisecond earlier, hour after hour."""
    await bench.append_at("2026-03-10T09:59:59.999Z")
    async with bench.running():
        await bench.append_at("2026-03-10T10:00:00Z")
        assert await bench.closed_at("2026-03-10T10:04:59.999Z") == []
        assert await bench.closed_at("2026-03-10T10:05:00Z") == ["hourly_2026031009"]
        assert len(await bench.closed_at("2026-03-10T11:04:59.999Z")) == 1
        assert (await bench.closed_at("2026-03-10T11:05:00Z"))[1:] == ["hourly_2026031010"]


async def test_deliveries_may_keep_step_with_a_close(bench: Bench) -> None:
    """Of a period that ended, and of one that is closed on request."""
    caught_up: list[float] = []

    async def catch_up(made: int, made_s: float) -> None:
        await trio.lowlevel.checkpoint()
        caught_up.append(made_s)

    bench.closer = Closer(bench.ledger, bench.clock, lambda: bench.config, catch_up)
    await bench.append_at("2026-03-10T09:59:00Z")
    async with bench.running():
        await bench.closed_at("2026-03-10T10:05:00Z")
        assert len(caught_up) == 1
        await bench.append_at("2026-03-10T10:30:00Z")
        bench.clock.set("2026-03-10T11:00:00Z")
        await bench.closer.trigger()
        assert len(caught_up) == 2


async def test_a_grace_longer_than_an_hour_is_waited_for(bench: Bench) -> None:
    """Periods then wait for their turn behind others that are still open."""
    bench.set_grace(150 * MINUTE_MS)
    await bench.append_at("2026-03-10T09:00:00Z")
    async with bench.running():
        assert await bench.closed_at("2026-03-10T12:29:59.999Z") == []
        assert await bench.closed_at("2026-03-10T12:30:00Z") == ["hourly_2026031009"]


async def test_all_that_is_overdue_closes_at_start_oldest_first(bench: Bench) -> None:
    """By end, and the finest of those that end together first: days are made of hours."""
    await bench.append_at("2024-12-31T23:30:00Z", "a")
    await bench.append_at("2025-01-01T00:10:00Z", "b")
    bench.clock.set("2025-01-06T00:05:00Z")
    async with bench.running():
        assert bench.ledger.closed == [
            "hourly_2024123123",
            "daily_20241231",
            "monthly_202412",
            "yearly_2024",
            "hourly_2025010100",
            "daily_20250101",
            "weekly_202501",
        ]


async def test_an_end_that_passes_while_the_closer_looks_is_not_overlooked(bench: Bench) -> None:
    """An event of the last millisecond, stored when the ledger had been read already."""
    bench.set_grace(0)
    bench.clock.set("2026-03-10T09:59:59.999Z")

    async def hour_ends() -> None:
        await bench.ledger.append([event()])
        bench.clock.set("2026-03-10T10:00:00Z")

    bench.ledger.during_next_look = hour_ends
    async with bench.running():
        assert bench.ledger.closed == ["hourly_2026031009"]


async def test_a_clock_set_back_while_the_closer_looks_is_not_slept_through(bench: Bench) -> None:
    """Until the time that it showed before comes again: a day late."""
    bench.set_grace(0)
    bench.clock.set("2026-03-11T09:30:00Z")

    async def clock_is_put_right() -> None:
        bench.clock.set("2026-03-10T09:30:00Z")

    bench.ledger.during_next_look = clock_is_put_right
    async with bench.running():
        await bench.append_at("2026-03-10T09:59:59.999Z")
        assert await bench.closed_at("2026-03-10T10:00:00Z") == ["hourly_2026031009"]


async def test_a_shorter_grace_takes_effect_at_once(bench: Bench) -> None:
    """A period whose new grace is over closes without waiting for the clock."""
    await bench.append_at("2026-03-10T09:58:00Z")
    async with bench.running():
        assert await bench.closed_at("2026-03-10T10:02:00Z") == []
        bench.set_grace(2 * MINUTE_MS)
        await wait_all_tasks_blocked()
        assert bench.ledger.closed == ["hourly_2026031009"]


async def test_a_longer_grace_takes_effect_at_once(bench: Bench) -> None:
    """The moment that was waited for before closes nothing."""
    await bench.append_at("2026-03-10T09:58:00Z")
    async with bench.running():
        bench.set_grace(10 * MINUTE_MS)
        await wait_all_tasks_blocked()
        assert await bench.closed_at("2026-03-10T10:05:00Z") == []
        assert await bench.closed_at("2026-03-10T10:10:00Z") == ["hourly_2026031009"]


async def test_a_change_during_a_close_is_not_missed(bench: Bench) -> None:
    """A reload that comes while a period is being closed is acted upon when that is done."""
    await bench.append_at("2026-03-10T08:30:00Z")
    await bench.append_at("2026-03-10T09:58:00Z")
    bench.ledger.may_close = trio.Event()
    bench.clock.set("2026-03-10T10:04:00Z")
    async with bench.running():
        bench.set_grace(4 * MINUTE_MS)
        bench.ledger.may_close.set()
        await wait_all_tasks_blocked()
        assert bench.ledger.closed == ["hourly_2026031008", "hourly_2026031009"]


async def test_it_has_caught_up_when_all_that_was_overdue_is_closed(bench: Bench) -> None:
    """Not before, so that who asks does not read totals that are about to become final."""
    await bench.append_at("2026-03-10T09:58:00Z")
    bench.ledger.may_close = trio.Event()
    bench.clock.set("2026-03-10T10:05:00Z")
    async with bench.running():
        assert not bench.closer.caught_up.is_set()
        bench.ledger.may_close.set()
        await wait_all_tasks_blocked()
        assert bench.ledger.closed
        assert bench.closer.caught_up.is_set()


async def test_a_full_disk_is_waited_for(bench: Bench) -> None:
    """What is overdue closes when there is room, without being told."""
    await bench.append_at("2026-03-10T09:58:00Z")
    bench.clock.set("2026-03-10T10:05:00Z")
    bench.ledger.during_next_look = no_room
    async with bench.running():
        await wait_all_tasks_blocked()
        assert not bench.closer.caught_up.is_set()
        assert bench.ledger.closed == []
        bench.clock.set("2026-03-10T10:05:01Z")
        await wait_all_tasks_blocked()
        assert bench.ledger.closed
        assert bench.closer.caught_up.is_set()


async def test_a_trigger_does_not_wait_for_room(bench: Bench) -> None:
    """Of a disk that runs full amid it; asked for again, it does what is left."""
    await bench.append_at("2026-03-10T09:58:00Z")
    bench.clock.set("2026-03-10T10:05:00Z")
    bench.ledger.may_close = trio.Event()

    async def let_go() -> None:
        with pytest.raises(UnavailableError):
            await bench.closer.trigger()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_go)
            await wait_all_tasks_blocked()
            bench.ledger.full.set()
    assert bench.ledger.closed == []
    bench.ledger.full = trio.Event()
    bench.ledger.may_close.set()
    assert (await bench.closer.trigger()).customers == 1
    assert bench.ledger.closed == ["hourly_2026031009"]


async def test_a_trigger_on_a_full_disk_is_refused(bench: Bench) -> None:
    """It has done nothing, and says so."""
    bench.ledger.full.set()
    with pytest.raises(DiskFullError):
        await bench.closer.trigger()


async def no_room() -> None:
    raise DiskFullError("the disk is full")


async def test_nothing_overdue_is_caught_up(bench: Bench) -> None:
    """An empty ledger too."""
    async with bench.running():
        assert bench.closer.caught_up.is_set()


async def test_a_trigger_closes_what_has_ended_and_shows_what_runs(bench: Bench) -> None:
    """Grace or not. Counted are aggregations made and made anew, and what they stand for."""
    await bench.append_at("2026-03-10T09:58:00Z", "a")
    await bench.append_at("2026-03-10T10:01:00Z", "a")
    await bench.ledger.append([event("b")])
    # a: the hour that ended, and its hour, day, week, month and year; b: these five.
    assert await bench.closer.trigger() == Triggered(created=11, updated=0, customers=2, events=3)
    assert bench.ledger.closed == ["hourly_2026031009"]
    assert await bench.closer.trigger() == Triggered(created=0, updated=10, customers=2, events=3)
    # Closing makes a snapshot final: that is updated too, with the four others of b and a.
    bench.clock.set("2026-03-10T11:00:00Z")
    assert await bench.closer.trigger() == Triggered(created=0, updated=10, customers=2, events=3)
    assert bench.ledger.closed == ["hourly_2026031009", "hourly_2026031010"]


async def test_triggers_at_once_close_each_period_once(bench: Bench) -> None:
    """Beside the closer's own work: nothing is delivered twice, nothing counted twice."""
    await bench.append_at("2026-03-10T08:30:00Z")
    await bench.append_at("2026-03-10T09:58:00Z")
    bench.clock.set("2026-03-10T10:05:00Z")
    done: list[Triggered] = []

    async def trigger() -> None:
        done.append(await bench.closer.trigger())

    async with bench.running(), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(trigger)
    assert bench.ledger.deliveries_made() == 2
    assert len(done) == 3
    assert sum(one.created for one in done) <= 2 + 4
    assert await bench.closer.trigger() == Triggered(created=0, updated=4, customers=1, events=2)


async def test_the_configuration_of_the_moment_closes(bench: Bench) -> None:
    """An endpoint that was added a moment ago gets what closes now."""
    await bench.append_at("2026-03-10T09:58:00Z")
    crm = Endpoint("crm", "http://crm.test/", ("secret",))
    bench.config = msgspec.structs.replace(CONFIG, webhooks=(*CONFIG.webhooks, crm))
    async with bench.running():
        await bench.closed_at("2026-03-10T10:05:00Z")
    assert bench.ledger.deliveries_made() == 2


def test_the_rules_are_what_the_configuration_says() -> None:
    """Operations in its order, the configured periods, and the endpoints that are enabled."""
    config = Config(
        periods=(PeriodType.DAILY, PeriodType.HOURLY),
        events={"z": EventType(Operation.MAX), "a": EventType(Operation.SUM)},
        webhooks=(
            Endpoint("one", "http://one.test/", ("s",)),
            Endpoint("off", "http://off.test/", ("s",), enabled=False),
            Endpoint("two", "http://two.test/", ("s",)),
        ),
    )
    rules = rules_of(config)
    assert list(rules.operations.items()) == [("z", Operation.MAX), ("a", Operation.SUM)]
    assert rules.published == {PeriodType.DAILY, PeriodType.HOURLY}
    assert rules.endpoints == ("one", "two")


def test_now_is_written_as_the_contract_writes_it(bench: Bench) -> None:
    """UTC, milliseconds, Z."""
    assert bench.closer.now() == "2026-03-10T09:58:00.000Z"
