"""Keys are forgotten when their time is over, in mock time."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.domain.admission import Admission
from meterd.domain.config import Config, Retention
from meterd.domain.errors import DiskFullError
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
        self.is_full = False
        self._portions = self._left = portions
        self._takes_s = takes_s

    async def forget_keys(self, *, before_ms: int) -> int:
        self.asked.append((trio.current_time(), before_ms))
        if self.is_full:
            raise DiskFullError("the disk is full")
        await trio.sleep(self._takes_s)
        self._left -= 1
        if self._left >= 0:
            return 1
        self._left = self._portions
        return 0


class Events(Keys):
    """The same, of events to prune; there are no keys."""

    def __init__(self, portions: int) -> None:
        super().__init__(portions)
        self.pruned: list[tuple[int, int]] = []

    async def forget_keys(self, *, before_ms: int) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    async def prune_events(self, *, before_ms: int, ended_ms: int) -> int:
        self.pruned.append((before_ms, ended_ms))
        return await super().forget_keys(before_ms=before_ms)

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
        keys.is_full = True
        await pass_time(minutes=1)
        keys.is_full = False
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
        events.is_full = True
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
