"""Power loss under a real ext4: the engine writes to one whose disk is recorded, and every image
that the disk may hold afterwards is mounted, with the kernel's own recovery, and opened.
"""

from __future__ import annotations

import random
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.stored_events import StoredEvent
from tests.system.torture import mutants
from tests.system.torture.disks import mounts
from tests.system.torture.disks.ext4 import MKFS, recorded_ext4
from tests.system.torture.disks.images import Disk, Luck
from tests.system.torture.disks.life import Mark, Step, live, make_steps
from tests.system.torture.disks.mounts import looped, own_namespace
from tests.system.torture.disks.recorder import Kind, Operation
from tests.system.torture.disks.witness import Witness
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.parts import in_child, in_parts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.torture.parts import Tell


_SIZE: Final = 24 << 20
# Of one life on one disk: some 400 crash points, each with one or two of its images.
_IMAGES_EACH: Final = 500
_STEPS: Final = 40
# A disk that is never told to flush, as behind a controller that lies: not meterd's fault, but to
# be noticed, or nothing here proves that flushes matter.
_NO_BARRIER: Final = "nobarrier"


class Life(msgspec.Struct, frozen=True):
    """A life that was recorded: ``log`` is what its engine had stored at the end."""

    steps: list[Step]
    operations: list[Operation]
    log: list[StoredEvent]


def run(run: Run) -> Tally:
    """See ``HARNESS``."""
    return in_parts(run, _IMAGES_EACH, partial(_one_life, run))


def _one_life(run: Run, number: int, images: int, tell: Tell) -> Tally:
    """In a process of its own, with its own mounts."""
    own_namespace()
    mutants.apply(None if run.mutant == _NO_BARRIER else run.mutant)
    rng = random.Random(f"{run.seed} {number}")
    life = _record(run, rng, run.folder)
    return _explore(life, f"life {number}", images, rng, run.folder, tell)


def _record(run: Run, rng: random.Random, folder: Path) -> Life:
    options = [rng.choice(("data=ordered", "data=writeback"))]
    if run.mutant == _NO_BARRIER:
        options.append(_NO_BARRIER)
    block = rng.choice((1024, 4096))
    steps = make_steps(rng, _STEPS)
    with recorded_ext4(folder, _SIZE, block=block, options=",".join(options)) as ext4:
        with ext4.mounted():
            log = live(
                ext4.place / "data",
                steps,
                lambda mark: ext4.recorder.mark(msgspec.msgpack.encode(mark)),
            )
        return Life(steps, ext4.recorder.operations(folder), log)


def _explore(
    life: Life,
    name: str,
    images: int,
    rng: random.Random,
    folder: Path,
    tell: Tell,
) -> Tally:
    tally = Tally()
    points = _crash_points(life.operations)
    # Spread evenly, so that each has one before any has two.
    shares = [images * at // len(points) for at in range(len(points) + 1)]
    share = dict(zip(points, (end - start for start, end in pairwise(shares)), strict=True))
    disk, witness, lucks = Disk(_SIZE), Witness(life.steps, life.log), list(Luck)
    for at, operation in enumerate(life.operations):
        for _ in range(share.get(at, 0)):
            luck = lucks[tally.done % len(lucks)]
            disk.write_image(folder / "image", luck, rng)
            found = in_child(lambda tell: _look(witness, folder))
            found.first = found.first and f"{name}, operation {at}, {luck.name}: {found.first}"
            tally.add(found)
            tally.done += 1
            tally.seen[f"with {luck.name}"] += 1
            tell(tally.done)
        tally.seen["crash points"] += share.get(at, 0) > 0
        disk.take(operation)
        if operation.kind is Kind.MARK:
            witness.hear(msgspec.msgpack.decode(operation.data, type=Mark))
    tally.acknowledged = len(witness.acknowledged)
    return tally


def _crash_points(operations: list[Operation]) -> list[int]:
    """In front of which operations the power may be lost: while an engine runs.

    Not while ext4 is unmounted: it then writes its superblock in place, which is two sectors.
    """
    kinds = [one.kind for one in operations]
    marks = [at for at, kind in enumerate(kinds) if kind is Kind.MARK]
    first, last = marks[0], marks[-1]
    told = [at for at in range(first, last) if kinds[at] is not Kind.MARK]
    repeated = (Kind.FLUSH, Kind.FLUSH)
    return [*(at for at in told if (kinds[at - 1], kinds[at]) != repeated), last]


def _look(witness: Witness, folder: Path) -> Tally:
    own_namespace()
    try:
        with looped(folder / "image") as device:
            mounts.mount(device, folder / "mounted", "ext4")
    except OSError as fault:
        tally = Tally()
        tally.find(f"cannot be mounted: {fault}", wrong=1)
        return tally
    try:
        return witness.look(folder / "mounted" / "data")
    finally:
        mounts.unmount(folder / "mounted")


HARNESS: Final = Harness(
    name="ext4_images",
    unit="images of a real ext4",
    promise="Whatever a disk keeps of what it was not told to flush, ext4 and meterd recover all "
    "that was acknowledged, once.",
    short=100,
    long=10_000,
    run=run,
    mutants=("sync_off", _NO_BARRIER),
    hindrance=lambda: mounts.hindrance(MKFS),
)
