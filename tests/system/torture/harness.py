"""What every harness of the torture suite is: something done to meterd many times, and counted.

A harness does its thing ``count`` times, all from one seed, and says what came of it in a Tally.
The same function serves the short tier (``tests/system/test_torture.py``, in `make test`), the long
one (`make torture`), and the mutants: meterd with one promise taken out, which must be noticed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec


class Run(msgspec.Struct, frozen=True):
    """What a run is given: how often, from which seed, in which empty folder.

    ``mutant`` is the name of one in ``mutants``, to be run in place of meterd as it is.
    ``done`` is to be called with the number done so far, now and then.
    """

    count: int
    seed: int
    folder: Path
    mutant: str | None = None
    done: Callable[[int], None] = lambda _: None

    def left(self, tally: Tally) -> int:
        """How many more are to be done; none once a mutant is noticed."""
        return 0 if self.mutant and tally.broken else self.count - tally.done


class Tally(msgspec.Struct):
    """What a run did, and what it found.

    ``done`` counts what the harness's unit says. Of acknowledged events ``lost`` are not stored,
    ``twice`` are counted more than once; ``wrong`` counts every other broken promise. ``first``
    describes the first of all these, with what is needed to have it again. ``seen`` has what else
    is worth knowing: how often the thing that was provoked really happened, for one.
    """

    done: int = 0
    acknowledged: int = 0
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    first: str = ""
    seen: Counter[str] = msgspec.field(default_factory=Counter)

    @property
    def broken(self) -> int:
        """How many promises were found broken."""
        return self.lost + self.twice + self.wrong

    def find(self, what: str, *, lost: int = 0, twice: int = 0, wrong: int = 0) -> None:
        """Counts broken promises; ``what`` says where, so that it can be done again."""
        self.lost += lost
        self.twice += twice
        self.wrong += wrong
        self.first = self.first or what

    def add(self, other: Tally) -> None:
        """Counts what another part of the same run did and found."""
        self.done += other.done
        self.acknowledged += other.acknowledged
        self.seen.update(other.seen)
        self.find(other.first, lost=other.lost, twice=other.twice, wrong=other.wrong)

    def line(self, unit: str) -> str:
        """For people: ``2,000 kills, 35,866 acknowledged, lost 0, twice 0, wrong 0; ...``."""
        counts = f"{self.done:,} {unit}"
        if self.acknowledged:
            counts += f", {self.acknowledged:,} events acknowledged"
        counts += f", lost {self.lost}, twice {self.twice}, wrong {self.wrong}"
        seen = ", ".join(f"{name} {number:,}" for name, number in self.seen.most_common())
        return f"{counts}; {seen}" if seen else counts


class Harness(msgspec.Struct, frozen=True):
    """``short`` and ``long`` are the counts of the two tiers.

    Each of ``mutants`` must be found broken within ``mutant_count``, forty short tiers unless
    given: a run ends with the first it finds, so this is for a harness that finds none.
    """

    name: str
    unit: str
    promise: str
    short: int
    long: int
    run: Callable[[Run], Tally]
    mutants: tuple[str, ...] = ()
    mutant_count: int = 0
    # Why it cannot be run on this machine, if it cannot.
    hindrance: Callable[[], str | None] = lambda: None
