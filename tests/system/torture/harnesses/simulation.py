"""A whole daemon through simulated years, a year for each seed: see ``tests/simulation``."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.simulation.books import BrokenPromiseError
from tests.simulation.world import YEAR_DAYS, World
from tests.system.torture.catalogue import empty_folder
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.mutants import apply
from tests.system.torture.parts import in_child

if TYPE_CHECKING:
    from tests.system.torture.parts import Tell

# A year takes a minute. One that does not end is a finding too.
_YEAR_MAX_S: Final = 600


def torture(run: Run) -> Tally:
    """Each year in a process of its own: memory is given back, and a mutant is applied for good."""
    tally, began = Tally(), time.monotonic()
    for number in range(run.count):
        seed = run.seed * 1_000 + number
        lived = in_child(partial(_live, seed, run.mutant), seconds=_YEAR_MAX_S)
        if not lived.done:  # it did not come to the end of a year, nor to a broken promise
            lived.first = f"{lived.first}: {_again(seed)}"
        tally.add(lived)
        run.done(tally.done)
        if tally.broken:
            break
    # Both are added up where runs are, as a rate would not be.
    tally.seen["simulated months"] = 12 * tally.done
    tally.seen["seconds for them"] = round(time.monotonic() - began)
    return tally


def _live(seed: int, mutant: str | None, _: Tell) -> Tally:
    """A year of that seed."""
    apply(mutant)
    tally = Tally(done=1)
    with empty_folder() as folder:
        world = World(seed, folder, YEAR_DAYS)
        try:
            world.run()
        except BrokenPromiseError as broken:
            what = f"{broken}\nonce more: {_again(seed)}\n{world.trace.tail()}"
            tally.find(what, **{broken.kind: 1})
        # The daemon broke: an assertion of its own.
        except BaseException as broken:  # noqa: BLE001
            what = f"{broken!r}\nonce more: {_again(seed)}\n{world.trace.tail()}"
            tally.find(what, wrong=1)
        tally.acknowledged = world.clients.answers.acknowledged
        tally.seen = world.trace.seen
    return tally


def _again(seed: int) -> str:
    return f"python -m tests.simulation {seed}"


HARNESS = Harness(
    name="simulation",
    unit="simulated years",
    promise="Whatever happens, and whenever: nothing is lost, nothing counts twice, all that ends "
    "is closed in order, revised and delivered, each threshold told once, and the same seed is the "
    "same world.",
    short=2,
    long=100,
    mutant_count=25,
    run=torture,
    mutants=(
        "acknowledge_before_commit",
        "delivered_before_sent",
        "no_key_check",
        "recovery_counts_again",
        "lost_event_at_midnight",
        "clock_step_back_reopens",
        "closed_twice",
        "floor_forgotten",
        "closes_before_grace",
        "only_what_is_new_is_sent",
        "rules_of_the_start",
        "interrupted_was_not_begun",
        "batch_is_formed_anew",
        "late_events_are_never_published",
        "late_events_stay_in_their_hour",
        "thresholds_are_told_behind_their_record",
        "prunes_a_record_too_many",
        "prunes_what_is_not_closed",
    ),
)
