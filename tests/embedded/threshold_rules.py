"""What the model test does with thresholds: whoever looks when, they agree on what is told."""

from __future__ import annotations

from abc import abstractmethod
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from meterd.domain.alerts import WATCHABLE, Alert
from meterd.domain.periods import PeriodType
from meterd.domain.thresholds import Watched
from tests.embedded.model_choices import LIMITS, TYPES, VALUES, run_until_cut

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from meterd.domain.thresholds import Reached
    from meterd.ledger import Ledger
    from tests.embedded.engine_bench import EngineBench
    from tests.embedded.trio_thread import TrioThread
    from tests.model_thresholds import ModelThresholds

T = TypeVar("T")

# Everybody that the test knows, to have them posted.
EVERYBODY = ("acme", "acme2", "b", "Ærø", "c1", "c2", "c3")
# The small ones are reached by most.
THRESHOLDS = st.sampled_from([Decimal("0.001"), Decimal(1)]) | VALUES.filter(
    lambda value: value > 0
)
ALERTS = st.lists(
    st.builds(
        lambda event, period, thresholds, customer: Alert(
            "any", event, period, tuple(sorted(thresholds)), customer
        ),
        st.sampled_from(TYPES),
        st.sampled_from(PeriodType),
        st.frozensets(THRESHOLDS, min_size=1, max_size=4),
        st.none() | st.none() | st.sampled_from(EVERYBODY),
    ),
    min_size=2,
    max_size=6,
)
WATCHED = st.builds(
    Watched,
    ALERTS,
    st.fixed_dictionaries({name: st.sampled_from(WATCHABLE) for name in TYPES}),
)
ENDPOINTS = st.sampled_from([("billing",), ("billing", "crm"), ()])


async def post_all(ledger: Any) -> None:
    """Has what is in the log in everybody's totals."""
    for customer_id in EVERYBODY:
        await ledger.customer_usage(customer_id, PeriodType.HOURLY)


async def tell_all(
    ledger: Any, watched: Watched, endpoints: tuple[str, ...], limit: int
) -> list[Reached]:
    """What who begins to watch tells, of everybody whose events are posted."""
    await post_all(ledger)
    since_ms, after, told = ledger.watch(None), None, list[Any]()
    while looks := await ledger.users(watched, since_ms, limit=limit, after=after):
        after = looks[-1].customer_id
        told += await ledger.tell(watched, looks, endpoints)
    return told


class ThresholdRules(RuleBasedStateMachine):
    """Part of ``EngineAndModel``."""

    bench: EngineBench
    model: ModelThresholds
    loop: TrioThread
    happened: Counter[str]

    @abstractmethod
    def both(self, ask: Callable[[Ledger], Awaitable[T]]) -> T:
        """Asks the engine and the model; they must answer alike."""

    @abstractmethod
    def forget(self) -> None:
        """What a process has in memory only."""

    @rule(watched=WATCHED, endpoints=ENDPOINTS, limit=LIMITS)
    def tell(self, watched: Watched, endpoints: tuple[str, ...], limit: int) -> None:
        """Each threshold once, whoever asked before, of what is not closed or closed last."""
        told = self.both(lambda ledger: tell_all(ledger, watched, endpoints, limit))
        self.happened["thresholds"] += len(told)

    @rule(
        watched=WATCHED, endpoints=ENDPOINTS, transactions=st.integers(0, 3), commits=st.booleans()
    )
    def crash_in_telling(
        self, watched: Watched, endpoints: tuple[str, ...], transactions: int, *, commits: bool
    ) -> None:
        """The next process tells the rest; then all is as if nothing had happened.

        All is posted before, so that the few transactions until the crash are those that tell.
        """
        self.happened["crashes in telling"] += 1
        self.loop.call(post_all, self.bench.ledger)
        work = partial(tell_all, self.bench.ledger, watched, endpoints, 2)
        self.loop.call(run_until_cut, self.bench, work, transactions, commits)
        self.loop.call(self.bench.restart)
        for ledger in (self.bench.ledger, self.model):
            self.loop.call(tell_all, ledger, watched, endpoints, 2)
        self.forget()
