"""A full disk under a real daemon, and room again."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.system.torture.daemons.process import Forks
from tests.system.torture.disks import mounts
from tests.system.torture.disks.ext4 import MKFS
from tests.system.torture.disks.mounts import own_namespace
from tests.system.torture.full_disk.cycle import Cycle
from tests.system.torture.full_disk.places import PLACES
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.parts import in_child

if TYPE_CHECKING:
    from tests.system.torture.parts import Tell


def run(run: Run) -> Tally:
    """See ``HARNESS``."""
    return in_child(partial(_cycles, run), run.done)


def _cycles(run: Run, tell: Tell) -> Tally:
    own_namespace()
    tally = Tally()
    with Forks() as forks:
        for number in range(run.count):
            folder = run.folder / f"cycle-{number}"
            folder.mkdir()
            at = PLACES[number % len(PLACES)]
            with at(folder) as place:
                Cycle(f"{run.seed} {number}", folder, place, run.mutant, tally).run(forks)
            shutil.rmtree(folder)
            tally.seen[f"on {at.__name__}"] += 1
            tell(tally.done)
            if tally.broken:
                break
    return tally


HARNESS: Final = Harness(
    name="full_disk",
    unit="disks that ran full",
    promise="A full disk refuses events and loses none; reads go on; with room again events are "
    "taken by themselves.",
    short=6,
    long=200,
    run=run,
    mutants=(
        "full_disk_forgets",
        "full_disk_answers_201",
        "refused_and_stored",
        "refused_though_it_waits",
        "unposted_not_read",
    ),
    mutant_count=12,
    hindrance=lambda: mounts.hindrance(MKFS),
)
