"""Waiting for a time of day that is set while one waits."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import assert_checkpoints

from meterd.work.clock import NAP_SECONDS, WallClock

if TYPE_CHECKING:
    from trio.testing import MockClock

START_MS = 1_773_136_680_000
HOUR_S = 3600


class TimeOfDay:
    """Goes with trio's clock, and can be set."""

    def __init__(self) -> None:
        self._ahead_ns = START_MS * 1_000_000

    def time_ns(self) -> int:
        return self._ahead_ns + round(trio.current_time() * 1e9)

    async def step(self, by_s: int, *, after_s: float) -> None:
        await trio.sleep(after_s)
        self._ahead_ns += by_s * 1_000_000_000


@pytest.fixture
def time_of_day(monkeypatch: pytest.MonkeyPatch) -> TimeOfDay:
    machine = TimeOfDay()
    monkeypatch.setattr(time, "time_ns", machine.time_ns)
    return machine


def test_now_is_whole_milliseconds_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instant never moves into the future by being read."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_773_136_680_123_999_999)
    assert WallClock().now_ms() == 1_773_136_680_123


class Booted:
    """A machine that has been running for some time, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running_s = 1000
        self.clock_s = START_MS // 1000
        monkeypatch.setattr(time, "clock_gettime_ns", lambda _: self.running_s * 1_000_000_000)
        monkeypatch.setattr(time, "time_ns", lambda: self.clock_s * 1_000_000_000)


DAY_S = 24 * HOUR_S


def test_a_step_of_more_than_a_month_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on as before and says so, until it is set right; a new process believes it."""
    machine = Booted(monkeypatch)
    clock = WallClock()
    with capture_logs() as logged:
        machine.clock_s += 365 * DAY_S
        assert clock.fault() == (
            "the clock of this machine stepped forward by 365d: set it right, or restart meterd"
            " if it is right"
        )
        machine.clock_s += 60
        machine.running_s += 60
        assert clock.now_ms() == START_MS + 60_000
        assert WallClock().now_ms() == START_MS + 60_000 + 365 * DAY_S * 1000
        machine.clock_s -= 365 * DAY_S - 1
        assert clock.fault() is None
        assert clock.now_ms() == START_MS + 61_000
        clock.now_ms()
    assert [entry["log_level"] for entry in logged] == ["critical", "warning"]


@pytest.mark.parametrize("step_s", [35 * DAY_S, -365 * DAY_S, 1, -1])
def test_other_steps_are_followed(monkeypatch: pytest.MonkeyPatch, step_s: int) -> None:
    """One after another, and by a machine that was suspended too."""
    machine = Booted(monkeypatch)
    clock = WallClock()
    for times in (1, 2, 3):
        machine.clock_s += step_s
        assert (clock.now_ms(), clock.fault()) == (START_MS + times * step_s * 1000, None)


def test_what_passes_while_nobody_looks_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a machine that sleeps: it counts that as running."""
    machine = Booted(monkeypatch)
    clock = WallClock()
    machine.clock_s += 400 * DAY_S
    machine.running_s += 400 * DAY_S
    assert (clock.now_ms(), clock.fault()) == (START_MS + 400 * DAY_S * 1000, None)


async def test_it_waits_to_the_millisecond(
    time_of_day: TimeOfDay, autojump_clock: MockClock
) -> None:
    """Naps do not add up to more, and a short wait is one."""
    await WallClock().wait_until(START_MS + 40_123)
    assert trio.current_time() == pytest.approx(40.123, abs=1e-6)
    await WallClock().wait_until(START_MS + 40_124)
    assert trio.current_time() == pytest.approx(40.124, abs=1e-6)


async def test_what_has_passed_is_not_waited_for(
    time_of_day: TimeOfDay, autojump_clock: MockClock
) -> None:
    """And yet others get their turn, so that a loop around it can be cancelled."""
    with assert_checkpoints():
        await WallClock().wait_until(START_MS - 1)


async def test_a_step_forward_is_noticed_within_a_nap(
    time_of_day: TimeOfDay, autojump_clock: MockClock
) -> None:
    """A machine that slept, or whose clock was put right, is not late by what it skipped."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(time_of_day.step, HOUR_S, after_s=20))
        await WallClock().wait_until(START_MS + HOUR_S * 1000)
    assert trio.current_time() == pytest.approx(2 * NAP_SECONDS)


async def test_a_step_back_ends_the_wait(time_of_day: TimeOfDay, autojump_clock: MockClock) -> None:
    """Whoever waits looks anew: else nothing would close for as long as the clock was ahead."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(time_of_day.step, -HOUR_S, after_s=5))
        await WallClock().wait_until(START_MS + 20 * HOUR_S * 1000)
    assert trio.current_time() <= 5 + NAP_SECONDS
