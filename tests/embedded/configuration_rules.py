"""What the model test does with a configuration that is changed while all else goes on."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, rule

from meterd.domain.operations import Operation
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from meterd.embedded import keys, records
from tests.embedded.model_choices import TYPES, close_due, revise_late, run_until_cut
from tests.ledger_bench import rules

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.periods import Period
    from meterd.embedded.store import Store
    from meterd.ledger import Ledger
    from tests.embedded.engine_bench import EngineBench
    from tests.embedded.trio_thread import TrioThread
    from tests.ledger_bench import SettableClock
    from tests.model_thresholds import ModelThresholds

T = TypeVar("T")

KINDS = st.sampled_from(PeriodType)
CHANGES = st.lists(
    st.one_of(
        KINDS,
        st.tuples(st.sampled_from(TYPES), st.sampled_from(Operation)),
        st.sampled_from(TYPES),
    ),
    min_size=1,
    max_size=3,
)


def changed(by: ClosingRules, change: PeriodType | tuple[str, Operation] | str) -> ClosingRules:
    """With a period type more or less, with an event type's operation, or without the type."""
    if isinstance(change, PeriodType):
        return msgspec.structs.replace(by, published=by.published ^ {change})
    if isinstance(change, tuple):
        return msgspec.structs.replace(by, operations={**by.operations, change[0]: change[1]})
    left = {name: operation for name, operation in by.operations.items() if name != change}
    return msgspec.structs.replace(by, operations=left or by.operations)


def totals_closed(store: Store, *, behind: Period | None) -> set[tuple[str, Period]]:
    """Whose totals of which periods behind that one are closed already."""
    with store.read() as txn:
        found = {
            (keys.totals_customer(key), keys.totals_period(key))
            for part in range(store.parts)
            for key, payload in txn.forward("totals", bytes([part]), bytes([part]))
            if records.decode_totals(payload).closed
        }
    return {place for place in found if behind is None or place[1] > behind}


class ConfigurationRules(RuleBasedStateMachine):
    """Part of ``EngineAndModel``; ``configured`` is what is in force until it is changed.

    Other rules close by whatever they draw, as after many changes at once.
    """

    bench: EngineBench
    clock: SettableClock
    configured: ClosingRules
    loop: TrioThread
    model: ModelThresholds
    happened: Counter[str]

    @abstractmethod
    def both(self, ask: Callable[[Ledger], Awaitable[T]]) -> T:
        """Asks the engine and the model; they must answer alike."""

    @abstractmethod
    def forget(self) -> None:
        """Another engine runs."""

    def begin_configured(self) -> None:
        """With what is published mostly, so that there is something to add, and to take."""
        self.configured = rules(
            PeriodType.HOURLY,
            PeriodType.MONTHLY,
            endpoints=("billing", "crm"),
            operations=dict.fromkeys(TYPES, Operation.SUM),
        )

    @rule(kind=KINDS)
    def period_added_or_taken(self, kind: PeriodType) -> None:
        """What it runs in from then on is published whole, with what came before that."""
        self.configured = changed(self.configured, kind)
        added = kind in self.configured.published
        self.happened["periods added" if added else "periods taken"] += 1

    @rule(event_type=st.sampled_from(TYPES), operation=st.sampled_from(Operation))
    def operation_changed(self, event_type: str, operation: Operation) -> None:
        self.happened["operations changed"] += 1
        self.configured = changed(self.configured, (event_type, operation))

    @rule(
        ms=st.sampled_from([0, HOUR_MS, DAY_MS, 8 * DAY_MS, 40 * DAY_MS]),
        shows=st.booleans(),
        revises=st.booleans(),
    )
    def close_as_configured(self, ms: int, *, shows: bool, revises: bool) -> None:
        """What the daemon does by itself, or by a trigger."""
        self.clock.now_ms += ms
        by = self.configured
        closed = self.both(lambda ledger: close_due(ledger, self.clock, by))
        self.happened["closed as configured"] += len(closed)
        if shows:
            self.both(lambda ledger: ledger.snapshot(by))
        if revises:
            now_ms = self.clock.now_ms
            *_, revised = self.both(lambda ledger: revise_late(ledger, now_ms, by))
            self.happened["revised as configured"] += revised

    @rule(
        ms=st.sampled_from([0, HOUR_MS, DAY_MS, 40 * DAY_MS]),
        changes=CHANGES,
        transactions=st.integers(0, 40),
        commits=st.booleans(),
    )
    def crash_in_a_close_and_reconfigure(
        self,
        ms: int,
        changes: list[PeriodType | tuple[str, Operation] | str],
        transactions: int,
        *,
        commits: bool,
    ) -> None:
        """The next process is configured anew: who was closed stays so, the rest closes by that."""
        self.clock.now_ms += ms
        former, last = self.configured, max(self.model._closed, default=None)
        work = partial(close_due, self.bench.ledger, self.clock, former)
        self.loop.call(run_until_cut, self.bench, work, transactions, commits)
        self.loop.call(self.bench.restart)
        done = totals_closed(self.bench.store, behind=last)
        self.happened["closed in front of a crash"] += bool(done)
        for change in changes:
            self.configured = changed(self.configured, change)
        self.model.closed_by = dict.fromkeys(done, former)
        self.loop.call(close_due, self.model, self.clock, self.configured)
        self.model.closed_by = {}
        self.loop.call(close_due, self.bench.ledger, self.clock, self.configured)
        self.forget()
