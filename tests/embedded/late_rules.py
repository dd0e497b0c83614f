"""What the model test does with events that say when they happened."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from meterd.domain.idempotency import Recorded
from meterd.domain.periods import HOUR_MS
from tests.embedded.model_choices import (
    ADMISSIONS,
    EVENT_AGES,
    EVENTS,
    RULES,
    closed_hours,
    dated,
    revise_late,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from meterd.domain.admission import Admission
    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.events import UsageEvent
    from meterd.ledger import Ledger
    from tests.ledger_bench import SettableClock
    from tests.model_thresholds import ModelThresholds

T = TypeVar("T")


class LateRules(RuleBasedStateMachine):
    """Part of ``EngineAndModel``."""

    clock: SettableClock
    model: ModelThresholds
    sent: list[list[UsageEvent]]
    happened: Counter[str]

    @abstractmethod
    def both(self, ask: Callable[[Ledger], Awaitable[T]]) -> T:
        """Asks the engine and the model; they must answer alike."""

    @rule(events=EVENTS, ages=EVENT_AGES, admission=ADMISSIONS, partial=st.booleans())
    def append_dated(
        self,
        events: list[UsageEvent],
        ages: list[int | None],
        admission: Admission,
        *,
        partial: bool,
    ) -> None:
        """Events that say when they happened: in this hour, in one that is over, or closed."""
        events = dated(events, ages, self.clock)
        self.sent.append(events)
        outcomes = self.both(
            lambda ledger: ledger.append(events, partial=partial, admission=admission)
        )
        self.happened["dated appends"] += 1
        self.happened["times refused"] += any(
            one.is_refusal and one is not Recorded.CONFLICT for one in outcomes
        )

    @precondition(lambda self: bool(getattr(self, "bench", None) and closed_hours(self.model)))
    @rule(events=EVENTS, place=st.integers(0, 5), by=RULES, waits=st.booleans())
    def append_late(
        self, events: list[UsageEvent], place: int, by: ClosingRules, *, waits: bool
    ) -> None:
        """Events of a closed hour, which are published at once or some time later."""
        hours = closed_hours(self.model)
        happened_ms = hours[-1 - place % len(hours)].start_ms + place
        late = [msgspec.structs.replace(one, timestamp_ms=happened_ms) for one in events]
        self.sent.append(late)
        self.happened["late appends"] += 1
        self.both(lambda ledger: ledger.append(late, partial=True))
        if not waits:
            self.revise(by, 0)

    @rule(by=RULES, age=st.sampled_from([0, 60_000, HOUR_MS]))
    def revise(self, by: ClosingRules, age: int) -> None:
        until_ms = self.clock.now_ms - age
        *_, revised = self.both(lambda ledger: revise_late(ledger, until_ms, by))
        self.happened["revisions"] += revised
