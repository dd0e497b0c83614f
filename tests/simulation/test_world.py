"""One seed is one world, to the byte, and a broken promise says how to see it again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

from meterd.daemon import running
from tests.simulation.clock import VirtualClock
from tests.simulation.weather import first_config
from tests.simulation.world import World
from tests.system.torture.harness import Run
from tests.system.torture.harnesses.simulation import HARNESS

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

SEED, DAYS = 6, 15


def lived(folder: Path) -> World:
    world = World(SEED, folder, DAYS, keep=True)
    world.run()
    return world


def test_a_seed_is_one_world(tmp_path: Path) -> None:
    """Requests, answers, commits with what is in them, deliveries: all of it, with its time."""
    first, second = lived(tmp_path), lived(tmp_path)
    assert first.trace.lines == second.trace.lines
    assert first.trace.sum() == second.trace.sum()
    seen = first.trace.seen
    assert min(seen["crash"], seen["closed"], seen["delivered"], seen["answers 201"]) > 0


def test_it_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Where sets of strings have another order."""
    command = [sys.executable, "-m", "tests.simulation", str(SEED), "--days", str(DAYS)]
    environ = {**os.environ, "PYTHONHASHSEED": "77"}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert f"trace {lived(tmp_path).trace.sum()}" in ran.stdout


def test_other_seeds_are_other_worlds(tmp_path: Path) -> None:
    """What is compared above does depend on the seed."""
    other = World(SEED + 1, tmp_path, DAYS)
    other.run()
    assert other.trace.sum() != lived(tmp_path).trace.sum()


def test_a_broken_promise_can_be_seen_again(tmp_path: Path) -> None:
    """The command that is printed with it breaks the same promise, at the same moment."""
    tally = HARNESS.run(Run(1, 7, tmp_path, mutant="delivered_before_sent"))
    said, command, *tail = tally.first.splitlines()
    told = re.fullmatch(r"once more: python -m (tests\.simulation \d+)", command)
    assert told is not None, tally.first
    again = [sys.executable, "-m", *told[1].split(), "--mutant", "delivered_before_sent"]
    ran = subprocess.run(again, capture_output=True, text=True)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert tail[-1] in ran.stderr


class Turns(trio.abc.Instrument):
    """How often anything ran."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_an_idle_daemon_sleeps(tmp_path: Path, autojump_clock: MockClock) -> None:
    """In a day without clients only the closer looks, once an hour."""
    world = World(SEED, tmp_path, DAYS)
    clock = VirtualClock(0, world._random("clock"))
    async with running(first_config(tmp_path / "data", 0), clock, world.machine):
        await trio.sleep(1)
        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        await trio.sleep(86_400)
        trio.lowlevel.remove_instrument(turns)
    assert 24 <= turns.count < 24 * 15
