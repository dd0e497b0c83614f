"""Random decimals through the engine, summed to the last digit.

The oracle never adds a decimal: it keeps a whole number for each exponent, and makes one fraction
of these at the end. Events go the usual way, in batches, over hours that close and are handed up to
their year, which is read at the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal
from fractions import Fraction
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from meterd.domain.aggregations import ClosingRules
from meterd.domain.events import UsageEvent
from meterd.domain.periods import HOUR_MS, PeriodType
from tests.embedded.engine_bench import EngineBench
from tests.ledger_bench import START_MS
from tests.system.torture.harness import Harness, Run, Tally
from tests.system.torture.mutants import apply
from tests.system.torture.parts import in_child

if TYPE_CHECKING:
    from tests.system.torture.parts import Tell

_BATCH: Final = 1_000
_HOURS: Final = 20
_CUSTOMERS: Final = ("acme", "globex", "initech")
_TYPES: Final = ("money", "anything", "cancelling")
# Of what is let in: so many digits, and from 1e-400 to less than 1e308.
_DIGITS: Final = 64
_LEAST, _BEYOND = -400, 308
_RULES: Final = ClosingRules({}, frozenset(), ())

Name = tuple[str, str]


class _Oracle:
    """Exact without decimals."""

    def __init__(self) -> None:
        self._sums: defaultdict[Name, Counter[int]] = defaultdict(Counter)
        self.counts: Counter[Name] = Counter()

    def add(self, name: Name, digits: int, exponent: int) -> None:
        self._sums[name][exponent] += digits
        self.counts[name] += 1

    def total(self, name: Name) -> Fraction:
        scaled = (
            digits * Fraction(10) ** exponent for exponent, digits in self._sums[name].items()
        )
        return sum(scaled, Fraction(0))


class _Quantities:
    """Digits and an exponent, by event type."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)
        self._to_cancel: tuple[int, int] | None = None

    def next(self, event_type: str) -> tuple[int, int]:
        chance = self._chance
        if event_type == "money":
            return chance.getrandbits(36) - (1 << 34), -int(chance.random() * 7)
        if event_type == "cancelling" and self._to_cancel is not None:
            # All but the last digit goes again.
            (digits, exponent), self._to_cancel = self._to_cancel, None
            return 1 - digits, exponent
        size = 1 + int(chance.random() * _DIGITS)
        digits = 10 ** (size - 1) + chance.getrandbits(240) % (9 * 10 ** (size - 1))
        exponent = _LEAST + int(chance.random() * (_BEYOND - _LEAST)) - (size - 1)
        digits = digits if chance.random() < 0.5 else -digits
        if event_type == "cancelling":
            self._to_cancel = digits, exponent
        return digits, exponent


def torture(run: Run) -> Tally:
    # In one child, since it is to be one sum.
    return in_child(partial(_sum_up, run), run.done)


def _sum_up(run: Run, tell: Tell) -> Tally:
    apply(run.mutant)
    tally, oracle = Tally(), _Oracle()
    trio.run(_append_all, run, oracle, tally, tell)
    return tally


async def _append_all(run: Run, oracle: _Oracle, tally: Tally, tell: Tell) -> None:
    quantities, places = _Quantities(run.seed), Random(run.seed + 1)
    async with trio.open_nursery() as nursery:
        bench = EngineBench(run.folder / "sums", nursery)
        await bench.start()
        for done in range(0, run.count, _BATCH):
            bench.clock.now_ms = START_MS + done * _HOURS // run.count * HOUR_MS
            await _close_ended(bench)
            events = []
            for _ in range(min(_BATCH, run.count - done)):
                name = places.choice(_CUSTOMERS), places.choice(_TYPES)
                digits, exponent = quantities.next(name[1])
                oracle.add(name, digits, exponent)
                events.append(UsageEvent(*name, Decimal(f"{digits}E{exponent}"), b"{}"))
            await bench.ledger.append(events)
            tally.done += len(events)
            tally.acknowledged += len(events)
            tell(tally.done)
        for customer_id in _CUSTOMERS:
            found = await bench.ledger.customer_usage(customer_id, PeriodType.YEARLY)
            for event_type, totals in found.window.by_type.items():
                name = customer_id, event_type
                counted, missing = totals.count, oracle.counts.pop(name) - totals.count
                if Fraction(totals.sum) != oracle.total(name):
                    tally.find(f"seed {run.seed}: {name}: the sum of {counted} is off", wrong=1)
                if missing:
                    what = f"seed {run.seed}: {name}: {missing} not counted"
                    tally.find(what, lost=max(missing, 0), twice=max(-missing, 0))
        lost = oracle.counts.total()
        if lost:
            tally.find(f"seed {run.seed}: without totals: {oracle.counts}", lost=lost)
        await bench.stop()


async def _close_ended(bench: EngineBench) -> None:
    """As the closer does."""
    ledger = bench.ledger
    while (period := await ledger.next_to_close()) and period.end_ms <= bench.clock.now_ms:
        await ledger.close(period, _RULES)


HARNESS = Harness(
    name="sums",
    unit="random decimals",
    promise="Totals are exact to the last digit, of any quantities that are let in.",
    short=100_000,
    long=10_000_000,
    run=torture,
    mutants=("sums_of_700_digits", "sums_of_34_digits"),
    mutant_count=20_000,
)
