"""The engine against the plain model, through everything that may happen to it: events, time and
clocks that step back, closes and snapshots, deliveries, a full disk, restarts and crashes at any
transaction.

Both must always agree on the whole log, on every aggregation with its deliveries, and on what is to
close next: nothing is lost, nothing counts twice.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import hypothesis.strategies as st
import trio
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, precondition, rule
from trio.testing import wait_all_tasks_blocked

from meterd.domain.periods import DAY_MS, HOUR_MS, PeriodType
from meterd.embedded.posting import POST_SECONDS
from meterd.embedded.registry import SWEEP_SECONDS
from meterd.embedded.verification import verify
from meterd.ledger import (
    AggregationPlace,
    AggregationQuery,
    DeliveryQuery,
    EventQuery,
)
from tests.embedded.configuration_rules import ConfigurationRules
from tests.embedded.delivery_rules import DeliveryRules
from tests.embedded.engine_bench import EngineBench
from tests.embedded.full_disk_rules import FullDiskRules
from tests.embedded.late_rules import LateRules
from tests.embedded.model_choices import (
    AGES,
    CUSTOMERS,
    EVENTS,
    LIMITS,
    RULES,
    TYPES,
    close_due,
    forget_all,
    run_until_cut,
    shown,
)
from tests.embedded.proved import prove_in
from tests.embedded.pruning_rules import PruningRules
from tests.embedded.threshold_rules import ThresholdRules
from tests.embedded.trio_thread import TrioThread
from tests.embedded.void_rules import VoidRules
from tests.ledger_bench import (
    ALL,
    EVERY_AGGREGATION,
    EVERY_EVENT,
    START_MS,
    SettableClock,
    event,
    rules,
)
from tests.model_thresholds import ModelThresholds

if TYPE_CHECKING:
    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent
    from meterd.domain.idempotency import Recorded
    from meterd.ledger import Ledger

T = TypeVar("T")

# In how many steps everything is compared; it takes as long as all else.
LOOKED_AT_EVERY = 4
# Crashes here are none of the machine: a disk would only make it slow.
MEMORY = Path("/dev/shm")


class EngineAndModel(
    DeliveryRules,
    ConfigurationRules,
    LateRules,
    ThresholdRules,
    VoidRules,
    PruningRules,
    FullDiskRules,
):
    """Both share one clock."""

    @initialize(hours=st.integers(0, 3))
    def begin(self, hours: int) -> None:
        """Most with closed hours, since deliveries are rarely made by chance."""
        in_memory = MEMORY if os.access(MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="meterd-model-", dir=in_memory))
        self.clock = SettableClock(START_MS)
        self.model = ModelThresholds(self.clock)
        self.claimed: dict[str, Delivery] = {}
        self.sent: list[list[UsageEvent]] = []
        self.copies = self.steps = 0
        self.happened: Counter[str] = Counter()
        self.loop = TrioThread()
        self.bench = EngineBench(self.folder / "0", self.loop.nursery, self.clock)
        self.loop.call(self.bench.start)
        self.begin_configured()
        for _ in range(hours):
            self.append([event(customer) for customer in ("acme", "b", "c1")], partial=False)
            self.clock.now_ms += HOUR_MS
            self.close(rules(PeriodType.HOURLY, endpoints=("billing", "crm")))

    def teardown(self) -> None:
        self.loop.call(self.bench.stop)
        self.loop.close()
        assert [str(found) for found in verify(self.bench.folder)] == []
        self.happened["proved"] += len(prove_in(self.bench.folder))
        shutil.rmtree(self.folder)

    # What callers do, beside what they do with deliveries

    @rule(events=EVENTS, partial=st.booleans())
    def append(self, events: list[UsageEvent], *, partial: bool) -> None:
        self.sent.append(events)
        self.both(lambda ledger: ledger.append(events, partial=partial))

    @precondition(lambda self: bool(getattr(self, "sent", None)))
    @rule(back=st.integers(0, 5), with_more=st.none() | EVENTS)
    def append_again(self, back: int, with_more: list[UsageEvent] | None) -> None:
        """Whatever became of it: answered, conflicting, or cut off by a crash."""
        self.happened["appends again"] += 1
        again = self.sent[-1 - back % len(self.sent)]
        self.append(again + (with_more or []), partial=True)

    @rule(events=EVENTS)
    def append_at_once(self, events: list[UsageEvent]) -> None:
        """Twice the same, each before the other is on disk; which of them is first is all one."""
        outcomes: list[Recorded] = []

        async def append(ledger: Ledger) -> None:
            outcomes.extend(await ledger.append(events, partial=True))

        async def append_twice(ledger: Ledger) -> object:
            outcomes.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(append, ledger)
                nursery.start_soon(append, ledger)
            return sorted(outcome.name for outcome in outcomes)

        self.both(append_twice)

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

    # What happens to the machine

    @rule(ms=st.sampled_from([1, 60_000, HOUR_MS // 2, HOUR_MS, 5 * HOUR_MS, DAY_MS, 40 * DAY_MS]))
    def time_passes(self, ms: int) -> None:
        self.clock.now_ms += ms

    @rule(ms=st.sampled_from([1, 60_000, HOUR_MS, 5 * HOUR_MS, DAY_MS]))
    def the_clock_steps_back(self, ms: int) -> None:
        self.happened["clock steps back"] += 1
        self.clock.now_ms -= ms

    @rule(seconds=st.sampled_from([POST_SECONDS / 2, POST_SECONDS, POST_SECONDS + 1]))
    def a_pass_goes_on(self, seconds: float) -> None:
        """Totals and keys are posted, each at its pace, or not yet."""
        self.happened["passes"] += 1

        async def pass_some_time() -> None:
            self.loop.clock.jump(seconds)
            await wait_all_tasks_blocked()

        self.loop.call(pass_some_time)

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
        self.happened["restarts"] += 1
        self.loop.call(self.bench.restart)
        self.forget()

    @rule()
    def crash(self) -> None:
        """The next engine opens what the disk held while the last one was running."""
        self.happened["crashes"] += 1
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
        self.happened["crashes in an append"] += 1
        self.sent.append(events)
        work = partial(self.bench.ledger.append, events)
        self.loop.call(run_until_cut, self.bench, work, 0, commits)
        if commits:
            self.loop.call(self.model.append, events)
        self.loop.call(self.bench.restart)
        self.forget()

    @rule(by=RULES, transactions=st.integers(0, 12), commits=st.booleans())
    def crash_in_a_close(self, by: ClosingRules, transactions: int, *, commits: bool) -> None:
        """The next process does what is left of it; then all is as if nothing had happened."""
        self.happened["crashes in a close"] += 1
        work = partial(close_due, self.bench.ledger, self.clock, by)
        self.loop.call(run_until_cut, self.bench, work, transactions, commits)
        self.loop.call(self.bench.restart)
        for ledger in (self.bench.ledger, self.model):
            self.loop.call(close_due, ledger, self.clock, by)
        self.forget()

    @rule(
        age=st.sampled_from([-1, 0, 60_000, HOUR_MS, DAY_MS, 40 * DAY_MS]),
        cut=st.booleans(),
        transactions=st.integers(0, 3),
        commits=st.booleans(),
    )
    def forget_keys(self, age: int, transactions: int, *, cut: bool, commits: bool) -> None:
        """Perhaps with a crash amid it: the next process goes on where it was."""
        before_ms = self.clock.now_ms - age
        if cut:
            work = partial(forget_all, self.bench.ledger, before_ms)
            self.loop.call(run_until_cut, self.bench, work, transactions, commits)
            self.loop.call(self.bench.restart)
            self.forget()
        self.both(lambda ledger: forget_all(ledger, before_ms))
        self.happened["keys forgotten"] += 1

    # What must always hold

    @invariant()
    def they_agree(self) -> None:
        """Now and then: what is wrong stays so."""
        if not hasattr(self, "bench"):
            return
        self.steps += 1
        if self.steps % LOOKED_AT_EVERY:
            return

        async def everything(ledger: Ledger) -> object:
            log = shown(await ledger.events(EVERY_EVENT, limit=ALL))
            deliveries = await ledger.deliveries(DeliveryQuery(), limit=ALL)
            aggregations = await ledger.aggregations(EVERY_AGGREGATION, limit=ALL)
            return log, aggregations, deliveries, await ledger.endpoints()

        self.both(everything)

    @rule()
    def what_is_next_to_close_is_the_same(self) -> None:
        """Not always looked at, because looking posts what was counted."""
        self.both(lambda ledger: ledger.next_to_close())


TestEngineAndModel = EngineAndModel.TestCase
TestEngineAndModel.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
