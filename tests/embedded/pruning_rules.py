"""What the model test does with events whose time is over."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from meterd.domain.admission import Admission, Late
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from tests.embedded.model_choices import (
    EVENTS,
    close_due,
    closed_hours,
    forget_all,
    revise_late,
    run_until_cut,
)
from tests.ledger_bench import ALL, EVERY_EVENT, event, rules

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.events import UsageEvent
    from meterd.ledger import Ledger
    from tests.embedded.engine_bench import EngineBench
    from tests.embedded.trio_thread import TrioThread
    from tests.ledger_bench import SettableClock
    from tests.model_thresholds import ModelThresholds

T = TypeVar("T")

AGES = st.sampled_from([0, 60_000, HOUR_MS, 5 * HOUR_MS, DAY_MS, 40 * DAY_MS, 390 * DAY_MS])
# As if accept_past had been shorter before.
LONG_AGO = Admission(past_ms=3650 * DAY_MS, future_ms=300_000)
EVERYTHING = rules(*PeriodType)


async def prune_all(ledger: Ledger, before_ms: int, ended_ms: int, *, sweeps: bool) -> int:
    """How many events went. Perhaps indexes are swept meanwhile, and to the end."""
    pruned = 0
    while some := await ledger.prune_events(before_ms=before_ms, ended_ms=ended_ms):
        pruned += some
        if sweeps:
            await ledger.sweep_pruned()
    while sweeps and await ledger.sweep_pruned():
        pass
    return pruned


class PruningRules(RuleBasedStateMachine):
    """Part of ``EngineAndModel``."""

    bench: EngineBench
    clock: SettableClock
    loop: TrioThread
    model: ModelThresholds
    sent: list[list[UsageEvent]]
    happened: Counter[str]

    @abstractmethod
    def both(self, ask: Callable[[Ledger], Awaitable[T]]) -> T:
        """Asks the engine and the model; they must answer alike."""

    @abstractmethod
    def append(self, events: list[UsageEvent], *, partial: bool) -> None:
        """Both get them, and they are ``sent``."""

    @abstractmethod
    def void(self, place: int, late: Late, by: ClosingRules | None) -> None:
        """See ``VoidRules``."""

    @abstractmethod
    def forget(self) -> None:
        """Another engine runs."""

    @rule(
        passes=st.sampled_from([0, 0, 40 * DAY_MS, 450 * DAY_MS]),
        settles=st.sampled_from([True, True, True, False]),
        goes_on=st.booleans(),
        age=AGES,
        ended_age=AGES,
        sweeps=st.booleans(),
        cut=st.booleans(),
        transactions=st.integers(0, 2),
        commits=st.booleans(),
    )
    def prune(
        self,
        passes: int,
        age: int,
        ended_age: int,
        transactions: int,
        *,
        settles: bool,
        goes_on: bool,
        sweeps: bool,
        cut: bool,
        commits: bool,
    ) -> None:
        """Of what came before then what may go and must; perhaps with a crash amid it, behind which
        some of it is there, and all of it is whole. Mostly all that is over is closed, revised, and
        without its keys, and often there is what came since and must stay.
        """
        self.clock.now_ms += passes
        if settles:
            self.both(lambda ledger: close_due(ledger, self.clock, EVERYTHING))
            self.both(lambda ledger: revise_late(ledger, self.clock.now_ms, EVERYTHING))
            self.both(lambda ledger: forget_all(ledger, self.clock.now_ms))
        if goes_on:
            for customer in ("acme", "b"):
                self.append([event(customer)], partial=False)
        bounds = self.clock.now_ms - age, self.clock.now_ms - ended_age
        least, most = self.model.prunable(*bounds)
        before = self._stored()
        work = partial(prune_all, self.bench.ledger, *bounds, sweeps=sweeps)
        if cut:
            self.loop.call(run_until_cut, self.bench, work, transactions, commits)
            self.loop.call(self.bench.restart)
            self.forget()
            least = 0
        else:
            self.loop.call(work)
        pruned = before - self._stored()
        assert least <= pruned <= most
        self.model.prune_some(pruned)
        self.both(lambda ledger: ledger.pruned_until_ms())
        self.both(lambda ledger: ledger.count_kept())
        self.happened["events pruned"] += pruned
        self.happened["crashes in pruning"] += cut

    def _stored(self) -> int:
        return len(self.loop.call(partial(self.bench.ledger.events, EVERY_EVENT, limit=ALL)))

    @precondition(lambda self: bool(getattr(self, "bench", None) and closed_hours(self.model)))
    @rule(events=EVENTS, place=st.integers(0, 5), takes_back=st.booleans())
    def append_long_ago(self, events: list[UsageEvent], place: int, *, takes_back: bool) -> None:
        """Events of a closed hour, however long that is ago; of one of which some are pruned, where
        there is one. Perhaps the last is not meant.
        """
        closed, until_ms = closed_hours(self.model), self.model._until_ms()
        hours = [one for one in closed if one.start_ms < until_ms] or closed
        happened_ms = hours[-1 - place % len(hours)].start_ms + place
        late = [msgspec.structs.replace(one, timestamp_ms=happened_ms) for one in events]
        self.sent.append(late)
        self.both(lambda ledger: ledger.append(late, partial=True, admission=LONG_AGO))
        self.happened["late for what is pruned"] += happened_ms < until_ms
        if takes_back:
            self.void(0, Late.REVISE, None)
