"""A disk that fails for a moment, under a real ext4: what was acknowledged is there after the next
start, also where the kernel takes for written what never reached the disk.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
from collections import Counter
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from meterd.domain.errors import MeterdError, StoreError
from meterd.embedded import data_folder
from meterd.embedded.store import Store
from tests.system.torture import mutants
from tests.system.torture.disks import mounts
from tests.system.torture.disks.ext4 import MKFS, recorded_ext4
from tests.system.torture.disks.life import Mark, Step, live, make_steps
from tests.system.torture.disks.mounts import die_with_parent, own_namespace
from tests.system.torture.disks.recorder import Kind
from tests.system.torture.disks.witness import Witness, read_all
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.parts import in_child, in_parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.domain.stored_events import StoredEvent
    from tests.system.torture.disks.recorder import Operation, Recorder
    from tests.system.torture.parts import Tell

_SIZE: Final = 24 << 20
_STEPS: Final = 25
# Of one life, which is also lived without errors to know what it leads to.
_CASES_EACH: Final = 50


class Fault(msgspec.Struct, frozen=True):
    """``requests`` fail, from ``after`` requests behind the mark of that ``number`` on."""

    number: int
    after: int
    requests: int
    # Or else the next engine reads what the kernel still has in memory.
    remounts: bool
    # The next engine comes while a backup, say, has the store in its memory too.
    is_read: bool


def run(run: Run) -> Tally:
    """See ``HARNESS``."""
    return in_parts(run, _CASES_EACH, partial(_one_life, run))


def _one_life(run: Run, number: int, cases: int, tell: Tell) -> Tally:
    own_namespace()
    mutants.apply(run.mutant)
    rng = random.Random(f"{run.seed} {number}")
    steps = make_steps(rng, _STEPS)
    marks: list[Mark] = []
    log = live(run.folder / f"calm{number}", steps, marks.append)
    tally = Tally()
    for _ in range(cases):
        fault = Fault(
            rng.randrange(len(marks)),
            after=rng.choice((0, 0, 1, 2, 5)),
            requests=rng.choice((1, 1, 2, 4)),
            remounts=rng.random() < 0.25,
            is_read=rng.random() < 0.5,
        )
        found = in_child(partial(_one_case, run.folder, steps, log, fault))
        found.first = found.first and f"life {number}, {fault}: {found.first}"
        tally.add(found)
        tally.done += 1
        tell(tally.done)
        if tally.broken:
            break
    return tally


def _one_case(
    folder: Path, steps: list[Step], log: list[StoredEvent], fault: Fault, _: Tell
) -> Tally:
    with recorded_ext4(folder, _SIZE) as ext4:
        data = ext4.place / "data"
        with ext4.mounted():
            tally = in_child(partial(_live, data, steps, fault, ext4.recorder))
            tally.seen["requests failed"] += ext4.recorder.fail(0)
            witness = _heard(Witness(steps, log), ext4.recorder.operations(folder))
            tally.acknowledged = len(witness.acknowledged)
            stays = not fault.remounts and _is_writable(ext4.place)
            if stays and fault.is_read:
                with _read(data / "store" / "data.mdb"):
                    tally.add(in_child(partial(_look_beside, witness, data)))
            if stays:
                tally.add(in_child(partial(_look, witness, data)))
                tally.add(in_child(partial(_note_content, data, folder / "content")))
        with ext4.mounted():
            if not stays:
                tally.seen["mounted anew before the start"] += 1
                tally.add(in_child(partial(_look, witness, data)))
            else:
                tally.add(in_child(partial(_compare_content, data, folder / "content")))
    return tally


def _live(data: Path, steps: list[Step], fault: Fault, recorder: Recorder, _: Tell) -> Tally:
    """An engine in a process of its own, as meterd is: what it holds is gone with it."""
    tally = Tally()
    marks = 0

    def mark(mark: Mark) -> None:
        nonlocal marks
        if marks == fault.number:
            recorder.fail(fault.requests, after=fault.after)
        marks += 1
        recorder.mark(msgspec.msgpack.encode(mark))

    try:
        live(data, steps, mark)
    except* MeterdError:
        tally.seen["the engine ended"] += 1
    except* trio.TooSlowError:
        tally.seen["the engine waited"] += 1
    except* Exception as group:  # noqa: BLE001 - whatever it is, meterd has no name for it
        tally.find(f"the engine ended with {group.exceptions!r}", wrong=1)
    else:
        tally.seen["the engine lived on"] += 1
    return tally


def _heard(witness: Witness, operations: list[Operation]) -> Witness:
    for operation in operations:
        if operation.kind is Kind.MARK:
            witness.hear(msgspec.msgpack.decode(operation.data, type=Mark))
    return witness


def _look(witness: Witness, data: Path, _: Tell) -> Tally:
    return witness.look(data)


def _look_beside(witness: Witness, data: Path, tell: Tell) -> Tally:
    """A start beside a reader is refused, or need not believe the disk."""
    data_folder.READERS_SECONDS = 0.0  # type: ignore[misc]
    try:
        Store(data).close()
    except StoreError as fault:
        if "is still read by" in str(fault):
            return Tally(seen=Counter({"refused beside a reader": 1}))
    return _look(witness, data, tell)


@contextmanager
def _read(file: Path) -> Iterator[None]:
    """Another process has all of the file mapped, as who reads it with LMDB."""
    reading, writing = os.pipe()
    reader = os.fork()
    if not reader:
        die_with_parent()
        if file.exists():
            with file.open("rb") as opened:
                data_folder.share(opened.fileno())
                with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                    sum(mapped[place] for place in range(0, len(mapped), mmap.PAGESIZE))
                    os.write(writing, b".")
                    signal.pause()
        os._exit(0)
    os.close(writing)
    os.read(reading, 1)  # or its end
    try:
        yield
    finally:
        os.kill(reader, signal.SIGKILL)
        os.waitpid(reader, 0)
        os.close(reading)


def _is_writable(place: Path) -> bool:
    """ext4 takes nothing more when its own journal has failed."""
    try:
        with (place / "probe").open("wb") as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError:
        return False
    return True


def _note_content(data: Path, to: Path, _: Tell) -> Tally:
    """Of all that is stored but the number of starts."""
    content: list[tuple[str, bytes, bytes]] = []
    with closing(Store(data)) as opened:
        read_all(opened, lambda *record: content.append(record))
    to.write_bytes(msgspec.msgpack.encode([one for one in content if one[1] != b"meta"]))
    return Tally()


def _compare_content(data: Path, before: Path, tell: Tell) -> Tally:
    """Now that the kernel has forgotten, the disk must say the same."""
    content = before.read_bytes()
    tally = Tally()
    try:
        _note_content(data, before, tell)
    except Exception as fault:  # noqa: BLE001 - whatever it is, it is wrong
        tally.find(f"what was written without errors cannot be read: {fault!r}", wrong=1)
    if before.read_bytes() != content:
        tally.find("the disk holds something else than the kernel did", wrong=1)
    return tally


HARNESS: Final = Harness(
    name="ext4_errors",
    unit="disks that failed for a moment",
    promise="Behind an I/O error of the disk, wherever it comes, all that was acknowledged is "
    "there after the next start.",
    short=30,
    long=1_500,
    run=run,
    mutants=("failed_commit_counts", "cache_is_believed", "readers_are_passed_over"),
    mutant_count=200,
    hindrance=lambda: mounts.hindrance(MKFS),
)
