"""Each operation of the real engine on its files fails, in every way that an operation can.

A disk that is full is waited for, and nothing is lost; whatever else fails ends the process, and
the next one recovers. In between reads go on, and who is refused has nothing stored.
"""

from __future__ import annotations

import errno
import random
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from meterd.domain.errors import DiskFullError
from meterd.domain.events import UsageEvent
from meterd.ledger import EventQuery
from tests.system.torture.children import Ended, Voice, fork
from tests.system.torture.engine_torture import (
    BROKEN_DISK,
    NO_START,
    Afterwards,
    bases_of_scenarios,
    copy_store,
    freeze,
    in_worker,
    live,
)
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.shimmed import FOR_EVER, How, Shim, hindrance, run_shimmed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.torture.engine_life import Living
    from tests.system.torture.engine_scenario import Scenario
    from tests.system.torture.engine_torture import Base

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WAYS: Final = (How.FAIL, How.DO_AND_FAIL, How.HALF)
_LITTLE: Final = 1 << 20
_PLENTY: Final = 1 << 40
# Of each life at least so many of its faults, chosen at random: a life has thousands.
_OF_A_LIFE_MIN: Final = 25
_LIVES: Final = 50
_NEVER_STORED: Final = UsageEvent("acme", "sum", 1, b'{"n":1000000}')  # type: ignore[arg-type]


class Fault(msgspec.Struct, frozen=True):
    """``how`` the operation with that number fails, or all from there on until there is room."""

    at: int
    error: int
    how: How
    is_sticky: bool
    is_little_room: bool

    def __str__(self) -> str:
        room = ", little room" if self.is_little_room else ""
        often = "from" if self.is_sticky else "at"
        return f"{errno.errorcode[self.error]} {self.how.name}{room} {often} operation {self.at}"

    def is_full_disk(self, operation: str) -> bool:
        """Whether that is what a full disk does; it never does it to what is there already."""
        if operation.startswith("synced write"):
            return False
        if self.how is How.HALF and operation.startswith("write"):
            return self.is_little_room
        return self.error in FULL


def faults_of(operations: int) -> list[Fault]:
    """Every index, every error, every way, once and for good."""
    kinds = [(error, True) for error in FULL]
    kinds += [(errno.EIO, True), (errno.EIO, False), (errno.EROFS, False)]
    return [
        Fault(at, error, how, is_sticky, is_little_room)
        for at, (error, is_little_room), how, is_sticky in product(
            range(1, operations + 1), kinds, WAYS, (False, True)
        )
    ]


def torture(run: Run) -> Tally:
    """In a process with the shim."""
    tally, source = Tally(), random.Random(run.seed)
    freeze()
    for told, base in bases_of_scenarios(run.seed, run.folder, tally):
        trial = _Trial(told, base, run.folder / "faulty")
        faults = faults_of(trial.operations())
        share = max(_OF_A_LIFE_MIN, run.count // _LIVES)
        chosen = source.sample(faults, min(len(faults), share))
        in_worker(run, partial(trial.run, chosen), tally, trial.where)
        run.done(tally.done)
        if run.left(tally) == 0:
            break
    return tally


class _Trial:
    """One life, lived with one fault after another."""

    def __init__(self, told: Scenario, base: Base, folder: Path) -> None:
        self._told, self._base = told, base
        self._data = folder / "data"
        self._shim = Shim()

    def where(self) -> str:
        return f"scenario {self._told.seed}, life {self._base.lived}"

    def operations(self) -> int:
        """How many the life has while nothing fails."""
        ended = self._live_with(Fault(0, errno.EIO, How.FAIL, False, False))
        return int(_said(ended, "operations"))

    def run(self, faults: list[Fault], run: Run, tally: Tally) -> None:
        afterwards = Afterwards(self._told, tally)
        for fault in faults:
            if run.left(tally) == 0:
                return
            where = f"{self.where()}, {fault}"
            ended = self._live_with(fault)
            tally.done += 1
            operation = _said(ended, "hit")
            wrong = _is_wrong_end(fault, operation, ended)
            if wrong:
                tally.find(f"{where} ({operation}): {wrong}", wrong=1)
            tally.seen[_ENDS.get(ended.exit_code, "other end")] += 1
            tally.seen["waited for room"] += b"\nwaited" in ended.said
            afterwards.look(self._data, self._base, ended.said, where, to_the_end=True)

    def _live_with(self, fault: Fault) -> Ended:
        copy_store(self._base.folder, self._data)

        def life(voice: Voice) -> int:
            code = live_with(self._shim, fault, self._told, self._base, self._data, voice)
            voice.say(f"operations {self._shim.seen()}")
            voice.say(f"hit {self._shim.last()}")
            return code

        return fork(life)


def live_with(
    shim: Shim, fault: Fault, told: Scenario, base: Base, folder: Path, voice: Voice
) -> int:
    """Lives that life with the fault; there is room again when what may be done then was seen."""
    shim.watch(folder.parent)
    shim.room(_LITTLE if fault.is_little_room else _PLENTY)
    shim.arm(fault.at, FOR_EVER if fault.is_sticky else 1, fault.how, fault.error)
    return live(told, base, folder, voice, _Watch(shim, voice).until_there_is_room)


class _Watch:
    """Looks whether the disk is full, at what may be done then, and makes room."""

    def __init__(self, shim: Shim, voice: Voice) -> None:
        self._shim, self._voice = shim, voice

    async def until_there_is_room(self, living: Living) -> None:
        while True:
            await trio.sleep(2.5)
            if not living.is_full:
                continue
            if living.ledger.started.is_set():
                await living.ledger.events(EventQuery(), limit=3)
                try:
                    await living.ledger.append([_NEVER_STORED])
                except DiskFullError:
                    pass
                else:
                    raise AssertionError("an event was taken by a full disk")
            self._shim.disarm()
            self._voice.say("waited")


_ENDS: Final = {0: "lived on", BROKEN_DISK: "ended", NO_START: "did not start"}


def _said(ended: Ended, word: str) -> str:
    found = [
        line.removeprefix(f"{word} ")
        for line in ended.said.decode().splitlines()
        if line.startswith(f"{word} ")
    ]
    return found[-1] if found else ""


def _is_wrong_end(fault: Fault, operation: str, ended: Ended) -> str | None:
    """Why the life should not have ended like that, if it should not."""
    if ended.killed or ended.exit_code not in _ENDS:
        return f"ended with {ended.killed or ended.exit_code}"
    is_ready = ended.said.startswith(b"ready\n")
    if not operation.endswith("store/data.mdb") or not is_ready:
        return None
    if fault.is_full_disk(operation):
        return None if ended.exit_code == 0 else "a full disk was not waited for"
    return None if ended.exit_code == BROKEN_DISK else "a broken disk did not end it"


def _run(run: Run) -> Tally:
    return run_shimmed(run, __name__)


HARNESS = Harness(
    name="io_faults",
    unit="faults",
    promise="A full disk is waited for, any other failure ends the process; neither loses a thing.",
    short=500,
    long=20_000,
    run=_run,
    mutants=("broken_is_full", "no_waiting_for_room"),
    hindrance=hindrance,
)
