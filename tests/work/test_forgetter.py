"""Keys are forgotten and events pruned when their time is over, in mock time."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, cast

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from meterd.domain.admission import Admission
from meterd.domain.config import Config, Retention
from meterd.domain.errors import CorruptRecordError, DiskFullError, MeterdError
from meterd.domain.periods import DAY_MS, HOUR_MS
from meterd.work.forgetter import Forgetter
from tests.fake_clock import FakeClock

if TYPE_CHECKING:
    from trio.testing import MockClock

    from meterd.forgetting import Forgetting

WINDOW_MS = 50 * HOUR_MS


class Keys:
    """A ledger with so many portions of keys to forget each time that it is looked."""

    def __init__(self, portions: int, takes_s: float = 0.0) -> None:
        self.asked: list[tuple[float, int]] = []
        self.fault: MeterdError | None = None
        self.last_ms = 0
        self._portions = self._left = portions
        self._takes_s = takes_s

    async def forget_keys(self, *, before_ms: int) -> int:
        self.asked.append((trio.current_time(), before_ms))
        if self.fault is not None:
            raise self.fault
        await trio.sleep(self._takes_s)
        self._left -= 1
        if self._left >= 0:
            return 1
        self._left = self._portions
        return 0

    def last_before_start_ms(self) -> int:
        return self.last_ms


class Events(Keys):
    """The same, of events to prune; there are no keys."""

    def __init__(self, portions: int, takes_s: float = 0.0) -> None:
        super().__init__(portions, takes_s)
        self.forgotten = 0
        self.pruned: list[tuple[int, int]] = []
        self.to_sweep = 0
        self.swept_at: list[float] = []

    async def forget_keys(self, *, before_ms: int) -> int:
        await trio.lowlevel.checkpoint()
        self.forgotten += 1
        return 0

    async def prune_events(self, *, before_ms: int, ended_ms: int) -> int:
        self.pruned.append((before_ms, ended_ms))
        return await super().forget_keys(before_ms=before_ms)

    async def sweep_pruned(self) -> int:
        await trio.sleep(self._takes_s)
        if not self.to_sweep:
            return 0
        self.to_sweep -= 1
        self.swept_at.append(trio.current_time())
        return 1

    async def pruned_until_ms(self) -> int:
        await trio.lowlevel.checkpoint()
        return 0


def forgetter(keys: Keys, clock: FakeClock) -> Forgetter:
    config = Config(idempotency_window_ms=WINDOW_MS)
    return Forgetter(cast("Forgetting", keys), clock, lambda: config)


async def test_each_hour_what_is_over_is_forgotten(autojump_clock: MockClock) -> None:
    """As the configuration has it; also behind an hour in which the disk was full."""

    async def pass_time(**by: float) -> None:
        autojump_clock.jump(dt.timedelta(**by).total_seconds())
        clock.advance(**by)
        await wait_all_tasks_blocked()

    keys, clock = Keys(portions=2), FakeClock("2026-01-14T00:00:00Z")
    first_ms = clock.now_ms() - WINDOW_MS
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forgetter(keys, clock).run)
        await wait_all_tasks_blocked()
        assert [before_ms - first_ms for _, before_ms in keys.asked] == [0, 0, 0]
        await pass_time(minutes=59)
        assert len(keys.asked) == 3
        keys.fault = DiskFullError("the disk is full")
        await pass_time(minutes=1)
        keys.fault = None
        await pass_time(hours=1)
        nursery.cancel_scope.cancel()
    hours = [(before_ms - first_ms) / HOUR_MS for _, before_ms in keys.asked]
    assert hours == [0, 0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(("days", "hours"), [(30, [0, 0, 1]), (-30, [0, -720, -719])])
async def test_a_clock_that_is_set_makes_no_key_older(
    autojump_clock: MockClock, days: int, hours: list[int]
) -> None:
    """Forward, and clients would still send again what they sent an hour ago; or back."""
    keys, clock = Keys(portions=0), FakeClock("2026-01-14T00:00:00Z")
    first_ms = clock.now_ms() - WINDOW_MS
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forgetter(keys, clock).run)
        await wait_all_tasks_blocked()
        clock.advance(days=days)
        await wait_all_tasks_blocked()
        autojump_clock.jump(3600)
        clock.advance(hours=1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [(before_ms - first_ms) / HOUR_MS for _, before_ms in keys.asked] == hours


async def test_it_rests_longer_than_it_works(autojump_clock: MockClock) -> None:
    """Whoever waits for the writer waits for one transaction."""
    keys, clock = Keys(portions=3, takes_s=2.0), FakeClock("2026-01-14T00:00:00Z")
    began_at = trio.current_time()
    with trio.move_on_after(60):
        await forgetter(keys, clock).run()
    assert [at - began_at for at, _ in keys.asked] == [0, 10, 20, 30]


async def test_events_are_pruned_as_long_after_their_time_as_a_clock_may_be_wrong(
    autojump_clock: MockClock,
) -> None:
    """By the configuration of that moment; without retention nothing is ever asked for; where the
    clock is set forward they are not older.
    """
    events, clock = Events(portions=1), FakeClock("2026-01-14T00:00:00Z")
    configs = [
        Config(),
        Config(admission=Admission(3 * DAY_MS, 0), retention=Retention(400 * DAY_MS)),
    ]
    began_ms = clock.now_ms()
    async with trio.open_nursery() as nursery:
        work = Forgetter(cast("Forgetting", events), clock, lambda: configs[0])
        nursery.start_soon(work.run)
        await wait_all_tasks_blocked()
        assert events.pruned == []
        configs.pop(0)
        autojump_clock.jump(3600)
        clock.advance(hours=1)
        await wait_all_tasks_blocked()
        clock.advance(days=30)
        await wait_all_tasks_blocked()
        events.fault = DiskFullError("the disk is full")
        autojump_clock.jump(3600)
        clock.advance(hours=1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    asked = [
        ((began_ms - before_ms) / HOUR_MS, (began_ms - ended_ms) / HOUR_MS)
        for before_ms, ended_ms in events.pruned
    ]
    days = (35 + 400) * 24, (35 + 3) * 24
    hours = [1, 1, 1, 1, 2]
    assert asked == [(days[0] - hour, days[1] - hour) for hour in hours]


RETAINED = Config(retention=Retention(400 * DAY_MS))


async def test_keys_are_forgotten_each_hour_however_much_there_is_to_prune(
    autojump_clock: MockClock,
) -> None:
    """A year's events may take days; each hour says what went of them, and so does a stop."""
    events, clock = Events(portions=10_000, takes_s=0.5), FakeClock("2026-01-14T00:00:00Z")
    with capture_logs() as logs, trio.move_on_after(3 * 3600 + 1800):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Forgetter(cast("Forgetting", events), clock, lambda: RETAINED).run)
            for _ in range(3):
                await trio.sleep(3600)
                clock.advance(hours=1)
            await trio.sleep_forever()
    assert events.forgotten == 4
    assert {before_ms for before_ms, _ in events.pruned} == {
        clock.now_ms() - (435 * 24 + hour) * HOUR_MS for hour in range(4)
    }
    said = [line["events"] for line in logs if line["event"] == "events were pruned"]
    assert said == [720, 720, 720, 360]


async def test_what_is_still_named_of_deleted_events_goes_in_turns_with_them(
    autojump_clock: MockClock,
) -> None:
    """With rests between, until both are done."""
    events, clock = Events(portions=2, takes_s=1.0), FakeClock("2026-01-14T00:00:00Z")
    events.to_sweep = 4
    began_at = trio.current_time()
    with trio.move_on_after(3000):
        await Forgetter(cast("Forgetting", events), clock, lambda: RETAINED).run()
    assert [at - began_at for at in events.swept_at] == [6, 16, 26, 36]
    assert len(events.pruned) == 6


async def test_damage_is_said_each_hour_and_ends_nothing(autojump_clock: MockClock) -> None:
    """Of a record that nobody may ask for any more; else no start would serve for a minute."""
    events, clock = Events(portions=1), FakeClock("2026-01-14T00:00:00Z")
    events.fault = CorruptRecordError("a record of events does not match its checksum")
    async with trio.open_nursery() as nursery:
        with capture_logs() as logs:
            nursery.start_soon(Forgetter(cast("Forgetting", events), clock, lambda: RETAINED).run)
            await wait_all_tasks_blocked()
            autojump_clock.jump(3600)
            clock.advance(hours=1)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [(line["log_level"], line["error"]) for line in logs] == [
        ("error", str(events.fault))
    ] * 2


@pytest.mark.parametrize(("days", "pruned"), [(35, [0, 1]), (36, [35 * 24, 35 * 24 + 1])])
async def test_a_start_far_ahead_of_all_that_is_stored_prunes_nothing_at_first(
    autojump_clock: MockClock, days: int, pruned: list[int]
) -> None:
    """Whether meterd was off, or the clock is wrong: what goes by a wrong one never comes back."""
    events, clock = Events(portions=0), FakeClock("2026-01-14T00:00:00Z")
    began_ms = clock.now_ms()
    events.last_ms = began_ms - days * DAY_MS
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Forgetter(cast("Forgetting", events), clock, lambda: RETAINED).run)
            await wait_all_tasks_blocked()
            while len(events.pruned) < 2:
                autojump_clock.jump(3600)
                clock.advance(hours=1)
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    first_ms = began_ms - 435 * DAY_MS
    assert [(before_ms - first_ms) // HOUR_MS for before_ms, _ in events.pruned] == pruned
    said = [line["until"] for line in logs if line["log_level"] == "warning"]
    assert said == (["2026-02-18T00:00:00.000Z"] if days > 35 else [])
