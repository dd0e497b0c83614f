"""What the model test does with deliveries: claimed, settled, asked for again, looked into."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from meterd.domain.deliveries import settle_attempt, withdrawn
from meterd.domain.endpoints import SCHEDULE_MS
from meterd.domain.outcomes import Outcome
from meterd.ledger import (
    Replay,
    Replayed,
)
from tests.embedded.model_choices import (
    AGES,
    BATCHES,
    ENDPOINTS,
    LIMITS,
    OUTCOMES,
    REPEATS,
    SCHEDULES,
    ask_for_earliest,
    attempt_of,
    names_at,
    run_until_cut,
    undigested,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from meterd.domain.deliveries import Delivery
    from meterd.ledger import Ledger
    from tests.embedded.engine_bench import EngineBench
    from tests.embedded.trio_thread import TrioThread
    from tests.ledger_bench import SettableClock
    from tests.model_thresholds import ModelThresholds

T = TypeVar("T")


class DeliveryRules(RuleBasedStateMachine):
    """``bench`` holds the engine, ``claimed`` what is in the air; see ``test_engine_model``."""

    bench: EngineBench
    model: ModelThresholds
    loop: TrioThread
    clock: SettableClock
    claimed: dict[str, Delivery]
    happened: Counter[str]

    def both(self, ask: Callable[[Ledger], Awaitable[T]]) -> T:
        """Asks the engine and the model; they must answer alike."""

        async def ask_both() -> tuple[T, T]:
            return await ask(self.bench.ledger), await ask(self.model)

        answer, expected = self.loop.call(ask_both)
        assert undigested(answer) == undigested(expected)
        return answer

    def ago(self, age_ms: int | None) -> int | None:
        return None if age_ms is None else self.clock.now_ms - age_ms

    @rule(endpoint=ENDPOINTS, limit=LIMITS, batch=BATCHES, repeats_max=REPEATS)
    def claim(self, endpoint: str, limit: int, batch: int, repeats_max: int | None) -> None:
        claim = self.both(
            lambda ledger: ledger.claim(endpoint, limit=limit, batch=batch, repeats_max=repeats_max)
        )
        self.happened["batches"] += any(one.is_batch for one in claim.deliveries)
        self.claimed |= {delivery.id: delivery for delivery in claim.deliveries}

    @precondition(lambda self: bool(getattr(self, "claimed", None)))
    @rule(
        outcome=st.none() | OUTCOMES,
        jitter=st.sampled_from([Fraction(-1), Fraction(0), Fraction(1, 3)]),
        waits_ms=SCHEDULES,
        stays_in_air=st.integers(0, 2),
    )
    def settle(
        self,
        outcome: Outcome | None,
        jitter: Fraction = Fraction(0),
        waits_ms: tuple[int, ...] = SCHEDULE_MS,
        stays_in_air: int = 0,
    ) -> None:
        """All that is in the air but so many; without an outcome it was not sent after all."""
        now_ms = self.clock.now_ms
        settled = list(self.claimed.values())[stays_in_air:]
        deliveries = [
            withdrawn(begun)
            if outcome is None
            else settle_attempt(begun, outcome, now_ms, jitter, waits_ms)
            for begun in settled
        ]
        attempts = [attempt_of(begun, outcome, now_ms) for begun in settled if outcome is not None]
        self.both(lambda ledger: ledger.settle(deliveries, attempts))
        self.claimed = {name: self.claimed[name] for name in list(self.claimed)[:stays_in_air]}

    @precondition(lambda self: hasattr(self, "bench"))
    @rule(place=st.integers(0, 30), with_others=st.booleans())
    def retry(self, place: int, *, with_others: bool) -> None:
        """One, or a batch that it was in; and what is told of it then."""

        async def retry(ledger: Ledger) -> tuple[list[object], list[object]]:
            names = await names_at(ledger, place, with_others=with_others)
            again: list[object] = [await ledger.retry(name) for name in names]
            return again, [await ledger.delivery(name) for name in names]

        again, _ = self.both(retry)
        kind = "retries of batches" if with_others else "retries"
        self.happened[kind] += bool(again)

    @precondition(lambda self: hasattr(self, "bench"))
    @rule(place=st.integers(0, 30), with_others=st.booleans(), skip=st.integers(0, 3))
    def read_history(self, place: int, skip: int, *, with_others: bool) -> None:
        async def read(ledger: Ledger) -> object:
            names = await names_at(ledger, place, with_others=with_others)
            return [await ledger.delivery(name, skip=skip) for name in names]

        self.both(read)

    @precondition(lambda self: hasattr(self, "bench"))
    @rule(endpoint=ENDPOINTS, rounds=st.integers(0, 2), times=st.integers(1, 3), batch=BATCHES)
    def retry_beside_one_in_the_air(
        self, endpoint: str, rounds: int, times: int, batch: int
    ) -> None:
        """Of each customer, something earlier, impatiently; then as much as is due is claimed."""
        for _ in range(rounds):
            self.claim(endpoint, 12, batch, None)
            if self.claimed:
                self.settle(Outcome())
        self.claim(endpoint, 12, batch, None)
        begun = [
            customer_id
            for one in self.claimed.values()
            if one.endpoint_id == endpoint
            for customer_id in [one.customer_id for one in one.members] or [one.customer_id]
        ]
        self.happened["retries beside one in the air"] += bool(begun)

        self.both(partial(ask_for_earliest, endpoint_id=endpoint, customers=begun, times=times))
        self.claim(endpoint, 12, batch, None)

    @rule(
        endpoint=ENDPOINTS | st.just("new"),
        ages=st.tuples(AGES, AGES),
        limit=LIMITS,
        dry_run=st.booleans(),
    )
    def replay(
        self, endpoint: str, ages: tuple[int | None, int | None], limit: int, *, dry_run: bool
    ) -> None:
        """Some pages of it; the rest is not asked for."""
        from_ms, to_ms = self.ago(ages[0]) or 0, self.ago(ages[1]) or self.clock.now_ms
        replay = Replay(endpoint, from_ms, to_ms)

        async def pages(ledger: Ledger) -> list[Replayed]:
            done = [await ledger.replay(replay, limit=limit, dry_run=dry_run)]
            while done[-1].next is not None and len(done) < 4:
                after = done[-1].next
                done.append(await ledger.replay(replay, limit=limit, after=after, dry_run=dry_run))
            return done

        self.happened["replays"] += any(one.created or one.again for one in self.both(pages))

    # What happens to the machine meanwhile

    @rule(endpoint=ENDPOINTS, limit=LIMITS, batch=BATCHES, commits=st.booleans())
    def crash_in_a_claim(self, endpoint: str, limit: int, batch: int, *, commits: bool) -> None:
        """Nothing was sent. Cut behind the commit, what has begun is as good as sent."""
        self._crash_in(
            lambda ledger: ledger.claim(endpoint, limit=limit, batch=batch), commits=commits
        )

    @precondition(lambda self: bool(getattr(self, "claimed", None)))
    @rule(outcome=OUTCOMES, commits=st.booleans())
    def crash_in_a_settlement(self, outcome: Outcome, *, commits: bool) -> None:
        now_ms = self.clock.now_ms
        begun = list(self.claimed.values())
        settled = [settle_attempt(one, outcome, now_ms, Fraction(0)) for one in begun]
        attempts = [attempt_of(one, outcome, now_ms) for one in begun]
        self._crash_in(lambda ledger: ledger.settle(settled, attempts), commits=commits)

    @precondition(lambda self: hasattr(self, "bench"))
    @rule(place=st.integers(0, 30), with_others=st.booleans(), commits=st.booleans())
    def crash_in_a_retry(self, place: int, *, with_others: bool, commits: bool) -> None:
        names = self.loop.call(partial(names_at, place=place, with_others=with_others), self.model)
        if names:
            self._crash_in(lambda ledger: ledger.retry(names[0]), commits=commits)

    @rule(endpoint=ENDPOINTS, age=AGES, limit=LIMITS, commits=st.booleans())
    def crash_in_a_replay(
        self, endpoint: str, age: int | None, limit: int, *, commits: bool
    ) -> None:
        """A page of it is begun again, or is done."""
        replay = Replay(endpoint, self.ago(age) or 0, self.clock.now_ms)
        self._crash_in(lambda ledger: ledger.replay(replay, limit=limit), commits=commits)

    def _crash_in(self, work: Callable[[Ledger], Awaitable[object]], *, commits: bool) -> None:
        """All of it is done where the commit was, and nothing else."""
        self.happened["crashes amid deliveries"] += 1
        self.loop.call(run_until_cut, self.bench, partial(work, self.bench.ledger), 0, commits)
        if commits:
            self.loop.call(work, self.model)
        self.loop.call(self.bench.restart)
        self.forget()

    def forget(self) -> None:
        """What lived in the last process only."""
        self.claimed = {}
        self.model.restarted()
