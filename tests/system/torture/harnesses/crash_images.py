"""The power goes off at any operation of the real engine on its files: what the disk may then hold.

A life is recorded once, with a fault in every third, and the disk behind it is made again as it may
be found at each of its operations: with any part of what is not synced. The engine starts on each
of these images. Those of a life that creates its store, before it is ready, are no store or a good
one.
"""

from __future__ import annotations

import errno
import random
import shutil
from typing import TYPE_CHECKING, Final

from tests.system.torture.children import Voice, fork
from tests.system.torture.disk_model import Disk, Kind, Operation, read_record
from tests.system.torture.engine_torture import (
    Afterwards,
    bases_of_scenarios,
    copy_store,
    freeze,
    in_worker,
)
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.harnesses.io_faults import Fault, faults_of, live_with
from tests.system.torture.shimmed import How, Shim, hindrance, run_shimmed

if TYPE_CHECKING:
    from tests.system.torture.engine_scenario import Scenario
    from tests.system.torture.engine_torture import Base

_DATA: Final = "data/store/data.mdb"
# At each operation so many images, and more where there are to be many in all.
_AT_ONCE: Final = 8
_IMAGES_OF_EIGHT: Final = 25_000
# One image in so many is followed to the end of all periods.
_FOLLOWED: Final = 16
_NO_FAULT: Final = Fault(0, errno.EIO, How.FAIL, is_sticky=False, is_little_room=False)


class _RecordingVoice(Voice):
    """Marks in the record when something was heard: how many bytes have been said."""

    def __init__(self, voice: Voice, shim: Shim) -> None:
        self._voice, self._shim, self._said = voice, shim, 0

    def say(self, text: str) -> None:
        self._voice.say(text)
        self._said += len(text.encode()) + 1
        self._shim.mark(self._said)


def torture(run: Run) -> Tally:
    """In a process with the shim."""
    tally = Tally()
    freeze()
    for told, base in bases_of_scenarios(run.seed, run.folder, tally):
        trial = _Trial(told, base, run)
        in_worker(run, trial.run, tally, trial.where)
        run.done(tally.done)
        if run.left(tally) == 0:
            break
    return tally


class _Trial:
    """One life, recorded, and the images of it."""

    def __init__(self, told: Scenario, base: Base, run: Run) -> None:
        self._told, self._base = told, base
        self._recorded, self._image = run.folder / "recorded", run.folder / "image"
        self._record = run.folder / "record"
        self._source = random.Random(f"{told.seed} {base.lived}")
        self._at_once = max(_AT_ONCE, run.count * _AT_ONCE // _IMAGES_OF_EIGHT)
        self._fault = _NO_FAULT

    def where(self) -> str:
        fault = "" if self._fault is _NO_FAULT else f", {self._fault}"
        return f"scenario {self._told.seed}, life {self._base.lived}{fault}"

    def run(self, run: Run, tally: Tally) -> None:
        said = self._live()
        tally.seen["lives"] += 1
        if self._source.random() < 1 / 3:
            operations = sum(each.kind is not Kind.MARK for each in read_record(self._record))
            self._fault = self._source.choice(faults_of(operations))
            said = self._live()
            tally.seen["lives with a fault"] += 1
        self._explore(said, run, tally)

    def _live(self) -> bytes:
        copy_store(self._base.folder, self._recorded / "data")

        def life(voice: Voice) -> int:
            shim = Shim()
            shim.record(self._record)
            recording = _RecordingVoice(voice, shim)
            folder = self._recorded / "data"
            return live_with(shim, self._fault, self._told, self._base, folder, recording)

        return fork(life).said

    def _explore(self, said: bytes, run: Run, tally: Tally) -> None:
        afterwards, heard = Afterwards(self._told, tally), 0
        data = self._base.folder / "store" / "data.mdb"
        disk = Disk({_DATA: data.read_bytes()} if data.exists() else {})
        for number, operation in enumerate(read_record(self._record), 1):
            if operation.kind is Kind.MARK:
                heard = operation.offset
                continue
            if _is_of_no_account(operation):
                continue
            disk.begin(operation)
            # Sorted, as a set of tuples is in no order that would be the same again.
            for image, choice in enumerate(sorted(disk.choices(self._source, self._at_once))):
                if run.left(tally) == 0:
                    return
                shutil.rmtree(self._image, ignore_errors=True)
                self._image.mkdir()
                disk.make(choice, self._image)
                where = f"{self.where()}, at operation {number}, image {image} {choice[1]}"
                tally.done += 1
                is_followed = tally.done % _FOLLOWED == 0
                tally.seen["followed to the end"] += is_followed
                tally.seen["of a creation"] += not data.exists() and b"ready" not in said[:heard]
                afterwards.look(
                    self._image / "data", self._base, said[:heard], where, to_the_end=is_followed
                )
            disk.end(operation)


def _is_of_no_account(operation: Operation) -> bool:
    """The two lock files: nobody reads what they held before a start."""
    return operation.path.endswith(("/lock", "/lock.mdb"))


def _run(run: Run) -> Tally:
    return run_shimmed(run, __name__)


HARNESS = Harness(
    name="crash_images",
    unit="images",
    promise="Whenever the power goes off, what was acknowledged is on the disk, once, and whole.",
    short=5_000,
    long=200_000,
    run=_run,
    mutants=("folder_not_synced", "metasync_off", "plain_creation", "sync_off"),
    hindrance=hindrance,
)
