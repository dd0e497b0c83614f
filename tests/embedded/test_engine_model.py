"""The engine against the plain model, through everything that may happen to it: events, time and
clocks that step back, closes and snapshots, deliveries, restarts and crashes at any transaction.

Both must always agree on the whole log, on every aggregation with its deliveries, and on what is to
close next: nothing is lost, nothing counts twice.
"""

from __future__ import annotations

import shutil
import tempfile
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import hypothesis.strategies as st
import trio
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import wait_all_tasks_blocked

from meterd.domain.aggregations import ClosingRules
from meterd.domain.deliveries import Outcome, settle_attempt
from meterd.domain.events import UsageEvent
from meterd.domain.operations import Operation
from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from meterd.embedded.posting import POST_SECONDS
from meterd.embedded.registry import SWEEP_SECONDS
from meterd.ledger import AggregationPlace, AggregationQuery, EventQuery
from tests.embedded.engine_bench import EngineBench
from tests.embedded.trio_thread import TrioThread
from tests.ledger_bench import ALL, EVERY_AGGREGATION, EVERY_EVENT, START_MS, SettableClock
from tests.model_ledger import ModelLedger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meterd.domain.deliveries import Delivery
    from meterd.domain.periods import Period
    from meterd.ledger import Closed, Ledger, StoredEvent

T = TypeVar("T")

CUSTOMERS = st.sampled_from(["acme", "acme2", "b", "Ærø", "c1", "c2", "c3"])
TYPES = ("api.calls", "api", "Größe", "x")
VALUES = st.one_of(
    st.integers(-1000, 1000).map(Decimal),
    st.decimals(-10, 10, places=3),
    st.sampled_from(["1e308", "-1e308", "1E-400", "9007199254740993", "0.10", "-0"]).map(Decimal),
)
EVENTS = st.lists(
    st.builds(
        UsageEvent, CUSTOMERS, st.sampled_from(TYPES), VALUES, st.sampled_from([b"{}", b'{"a":1}'])
    ),
    min_size=1,
    max_size=8,
)
RULES = st.builds(
    ClosingRules,
    st.dictionaries(st.sampled_from(TYPES), st.sampled_from(Operation), min_size=1),
    st.one_of(st.just(frozenset(PeriodType)), st.frozensets(st.sampled_from(PeriodType))),
    st.sampled_from([("billing",), ("billing", "crm"), ()]),
)
# Around the present of the machine, in steps that fall on and beside the bounds of periods.
AGES = st.none() | st.sampled_from([-1, 0, 1, 60_000, HOUR_MS, DAY_MS, 40 * DAY_MS, 800 * DAY_MS])
LIMITS = st.integers(1, 12)
ENDPOINTS = st.sampled_from(["billing", "crm"])
OUTCOMES = st.sampled_from([Outcome(), Outcome(dry_run=True), Outcome("Request timeout")])


async def close_due(ledger: Ledger, clock: SettableClock, by: ClosingRules) -> list[object]:
    """What the closer does; every period with its counts."""
    closed: list[tuple[Period, Closed]] = []
    while (period := await ledger.next_to_close()) and period.end_ms <= clock.now_ms:
        closed.append((period, await ledger.close(period, by)))
    return list(closed)


class EngineAndModel(RuleBasedStateMachine):
    """``engine`` and ``model`` share one clock."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="meterd-model-"))
        self.clock = SettableClock(START_MS)
        self.model = ModelLedger(self.clock)
        self.claimed: dict[str, Delivery] = {}
        self.copies = 0
        self.loop = TrioThread()
        self.bench = EngineBench(self.folder / "0", self.loop.nursery, self.clock)
        self.loop.call(self.bench.start)

    def teardown(self) -> None:
        self.loop.close()
        shutil.rmtree(self.folder)

    def both(self, ask: Callable[[Ledger], Awaitable[T]]) -> T:
        """Asks the engine and the model; they must answer alike."""
        answer = self.loop.call(ask, self.bench.ledger)
        expected = self.loop.call(ask, self.model)
        assert answer == expected
        return answer

    # What callers do

    @rule(events=EVENTS)
    def append(self, events: list[UsageEvent]) -> None:
        self.both(lambda ledger: ledger.append(events))

    @rule(by=RULES)
    def close(self, by: ClosingRules) -> None:
        made = self.bench.ledger.deliveries_made(), self.model.deliveries_made()
        self.both(lambda ledger: close_due(ledger, self.clock, by))
        assert (
            self.bench.ledger.deliveries_made() - made[0] == self.model.deliveries_made() - made[1]
        )

    @rule(by=RULES)
    def trigger(self, by: ClosingRules) -> None:
        self.close(by)
        self.both(lambda ledger: ledger.snapshot(by))

    @rule(endpoint=ENDPOINTS, limit=LIMITS)
    def claim(self, endpoint: str, limit: int) -> None:
        claim = self.both(lambda ledger: ledger.claim(endpoint, limit=limit))
        self.claimed |= {delivery.id: delivery for delivery in claim.deliveries}

    @precondition(lambda self: bool(getattr(self, "claimed", None)))
    @rule(outcome=OUTCOMES, jitter=st.sampled_from([Fraction(-1), Fraction(0), Fraction(1, 3)]))
    def settle(self, outcome: Outcome, jitter: Fraction) -> None:
        now_ms = self.clock.now_ms
        settled = [
            settle_attempt(begun, outcome, now_ms, jitter) for begun in self.claimed.values()
        ]
        self.both(lambda ledger: ledger.settle(settled))
        self.claimed = {}

    @rule(
        customer=st.none() | CUSTOMERS,
        event_type=st.none() | st.sampled_from(TYPES),
        from_age=AGES,
        to_age=AGES,
        limit=LIMITS,
        skipped=st.integers(0, 30),
    )
    def read_events(
        self,
        customer: str | None,
        event_type: str | None,
        from_age: int | None,
        to_age: int | None,
        limit: int,
        skipped: int,
    ) -> None:
        query = EventQuery(customer, event_type, self.ago(from_age), self.ago(to_age))

        async def page(ledger: Ledger) -> tuple[list[object], list[object] | None]:
            log = await ledger.events(EVERY_EVENT, limit=ALL)
            before = log[skipped].id if skipped < len(log) else None
            found = await ledger.events(query, limit=limit, before=before)
            end = await ledger.page_end(query, limit=limit, before=before)
            rest = None if end is None else await ledger.events(query, limit=ALL, before=end)
            return shown(found), None if rest is None else shown(rest)

        self.both(page)

    @rule(
        customer=st.none() | CUSTOMERS,
        kind=st.none() | st.sampled_from(PeriodType),
        from_age=AGES,
        to_age=AGES,
        limit=LIMITS,
        skipped=st.integers(0, 30),
    )
    def read_aggregations(
        self,
        customer: str | None,
        kind: PeriodType | None,
        from_age: int | None,
        to_age: int | None,
        limit: int,
        skipped: int,
    ) -> None:
        query = AggregationQuery(customer, kind, self.ago(from_age), self.ago(to_age))

        async def page(ledger: Ledger) -> object:
            every = await ledger.aggregations(EVERY_AGGREGATION, limit=ALL)
            after = None
            if skipped < len(every):
                last = every[skipped].aggregation
                after = AggregationPlace(last.start_ms, last.customer_id, last.period_type)
            found = await ledger.aggregations(query, limit=limit, after=after)
            end = await ledger.aggregations_page_end(query, limit=limit, after=after)
            return found, end

        self.both(page)

    def ago(self, age_ms: int | None) -> int | None:
        return None if age_ms is None else self.clock.now_ms - age_ms

    # What happens to the machine

    @rule(ms=st.sampled_from([1, 60_000, HOUR_MS // 2, HOUR_MS, 5 * HOUR_MS, DAY_MS, 40 * DAY_MS]))
    def time_passes(self, ms: int) -> None:
        self.clock.now_ms += ms

    @rule(ms=st.sampled_from([1, 60_000, HOUR_MS, 5 * HOUR_MS, DAY_MS]))
    def the_clock_steps_back(self, ms: int) -> None:
        self.clock.now_ms -= ms

    @rule()
    def nobody_comes_for_a_while(self) -> None:
        """Every customer's actor retires."""

        async def pass_two_sweeps() -> None:
            for _ in range(int(2 * SWEEP_SECONDS / POST_SECONDS) + 1):
                self.loop.clock.jump(POST_SECONDS + 1)
                await wait_all_tasks_blocked()

        self.loop.call(pass_two_sweeps)
        assert len(self.bench.ledger._registry) == 0

    @rule()
    def restart(self) -> None:
        self.loop.call(self.bench.restart)
        self.forget()

    @rule()
    def crash(self) -> None:
        """The next engine opens what the disk held while the last one was running."""
        self.copies += 1
        copy = self.folder / str(self.copies)
        shutil.copytree(self.bench.folder / "store", copy / "store")
        self.loop.call(self.bench.stop)
        self.bench.folder = copy
        self.loop.call(self.bench.start)
        self.forget()

    @rule(events=EVENTS, commits=st.booleans())
    def crash_in_an_append(self, events: list[UsageEvent], *, commits: bool) -> None:
        """Nobody is answered. Cut behind the commit, all of it is stored, else nothing."""
        work = partial(self.bench.ledger.append, events)
        self.loop.call(self.run_until_cut, work, 0, commits)
        if commits:
            self.loop.call(self.model.append, events)
        self.loop.call(self.bench.restart)
        self.forget()

    @rule(by=RULES, transactions=st.integers(0, 12), commits=st.booleans())
    def crash_in_a_close(self, by: ClosingRules, transactions: int, *, commits: bool) -> None:
        """The next process does what is left of it; then all is as if nothing had happened."""
        work = partial(close_due, self.bench.ledger, self.clock, by)
        self.loop.call(self.run_until_cut, work, transactions, commits)
        self.loop.call(self.bench.restart)
        for ledger in (self.bench.ledger, self.model):
            self.loop.call(close_due, ledger, self.clock, by)
        self.forget()

    def forget(self) -> None:
        """What lived in the last process only."""
        self.claimed = {}
        self.model.restarted()

    async def run_until_cut(
        self, work: Callable[[], Awaitable[object]], transactions: int, commits: bool
    ) -> None:
        """Until the power goes off, or the work is done because it took fewer transactions."""
        self.bench.hop.cut_after, self.bench.hop.commits_unheard = transactions, commits
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await work()
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            await self.bench.stopped.wait()
            nursery.cancel_scope.cancel()

    # What must always hold

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "bench"):
            return

        async def log(ledger: Ledger) -> list[object]:
            return shown(await ledger.events(EVERY_EVENT, limit=ALL))

        self.both(log)
        self.both(lambda ledger: ledger.aggregations(EVERY_AGGREGATION, limit=ALL))

    @rule()
    def what_is_next_to_close_is_the_same(self) -> None:
        """Not always looked at, because looking posts what was counted."""
        self.both(lambda ledger: ledger.next_to_close())


def shown(found: list[StoredEvent]) -> list[object]:
    """Events without their ids, which every engine makes for itself."""
    assert len({one.id for one in found}) == len(found)
    return [(one.event, one.received_ms) for one in found]


TestEngineAndModel = EngineAndModel.TestCase
TestEngineAndModel.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
