"""kill -9 of the real daemon under load, over and over, also while periods end, webhooks go out and
old events are pruned, and while it starts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tests.system.torture.daemons.life import ANY_MOMENT, Life
from tests.system.torture.daemons.process import Forks
from tests.system.torture.harness import Harness, Run, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

# Then a new folder: what is read back and counted again stays small, and creation is killed too.
KILLS_OF_A_LIFE: Final = 100


def kill(run: Run, odds: tuple[int, ...] = ANY_MOMENT) -> Tally:
    """``count`` kills, in lives of a hundred; ``odds`` are of the moments of ``Life``."""
    tally = Tally()
    with Forks() as forks:
        while tally.done < run.count and not tally.broken:
            begun = tally.done
            folder = run.folder / f"life-{begun}"
            folder.mkdir()
            life = Life(f"{run.seed}-{begun}", folder, forks, run.mutant, tally, odds)
            life.run(min(KILLS_OF_A_LIFE, run.count - begun), partial(_done, run.done, begun))
    return tally


def _done(tell: Callable[[int], None], begun: int, kills: int) -> None:
    tell(begun + kills)


HARNESS = Harness(
    name="daemon_kills",
    unit="kills",
    promise="What is acknowledged survives any kill, once, and so do the webhooks that follow.",
    short=50,
    long=2_000,
    run=kill,
    mutants=(
        "acknowledge_before_commit",
        "no_key_check",
        "delivered_before_sent",
        "recovery_counts_again",
        "void_is_answered_before_commit",
        "prunes_a_record_too_many",
        "prunes_in_front_of_its_mark",
    ),
    mutant_count=40,
)
