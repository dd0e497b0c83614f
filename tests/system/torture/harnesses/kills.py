"""SIGKILL before, half-way through and after each operation of the real engine on its files.

Lives over a store that is made, filled, closed, delivered from, stopped and started again: each is
lived anew for each of its operations, and killed there. Recovery is part of a life, so it is killed
as well.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

from tests.system.torture.children import Ended, Voice, fork
from tests.system.torture.engine_torture import (
    Afterwards,
    bases_of_scenarios,
    copy_store,
    freeze,
    in_worker,
    live,
)
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.shimmed import KILLS, How, Shim, hindrance, run_shimmed

if TYPE_CHECKING:
    from tests.system.torture.engine_scenario import Scenario
    from tests.system.torture.engine_torture import Base

# One kill in so many is followed to the end of all periods, which costs as much as four kills.
_FOLLOWED: Final = 4
# A mutant is killed at every fifth operation only, and so in five times as many lives: what it
# breaks lies open for a transaction, which has more.
_MUTANT_STRIDE: Final = 5


def torture(run: Run) -> Tally:
    """In a process with the shim."""
    tally = Tally()
    freeze()
    for told, base in bases_of_scenarios(run.seed, run.folder, tally):
        for how in KILLS:
            sweep = _Sweep(told, base, how, run)
            in_worker(run, sweep.run, tally, sweep.where)
            run.done(tally.done)
            if run.left(tally) == 0:
                return tally
    return tally


class _Sweep:
    """Kills a life at its first operation, at its second, ... until it lives to its end."""

    def __init__(self, told: Scenario, base: Base, how: How, run: Run) -> None:
        self._told, self._base, self._how, self._run = told, base, how, run
        self._folder = run.folder / "killed"
        self._shim = Shim()

    def where(self) -> str:
        return f"scenario {self._told.seed}, life {self._base.lived}, {self._how.name}"

    def run(self, run: Run, tally: Tally) -> None:
        afterwards = Afterwards(self._told, tally)
        data = self._folder / "data"
        for at in count(1, _MUTANT_STRIDE if self._run.mutant else 1):
            if run.left(tally) == 0:
                return
            where = f"{self.where()} at operation {at}"
            ended = self._live_until(at)
            if not ended.is_killed:
                if ended.exit_code:
                    tally.find(f"{where}: {ended}", wrong=1)
                return
            tally.done += 1
            is_followed = (at + self._how + self._told.seed) % _FOLLOWED == 0
            tally.seen["followed to the end"] += is_followed
            afterwards.look(data, self._base, ended.said, where, to_the_end=is_followed)

    def _live_until(self, at: int) -> Ended:
        copy_store(self._base.folder, self._folder / "data")

        def life(voice: Voice) -> int:
            self._shim.watch(self._folder)
            self._shim.arm(at, 1, self._how)
            return live(self._told, self._base, self._folder / "data", voice)

        return fork(life)


def _run(run: Run) -> Tally:
    return run_shimmed(run, __name__)


HARNESS = Harness(
    name="kills",
    unit="kills",
    promise="Whenever the process is killed, the next one has what was acknowledged, once.",
    short=2_000,
    long=100_000,
    run=_run,
    mutants=(
        "a_start_looks_at_what_closed_last",
        "acknowledge_before_commit",
        "asked_twice_goes_beside",
        "delivered_before_sent",
        "no_key_check",
        "recovery_counts_again",
        "revision_behind_its_mark",
        "total_without_event",
        "void_without_its_totals",
    ),
    hindrance=hindrance,
)
