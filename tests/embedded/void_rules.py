"""What the model test does with events that are taken back."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import hypothesis.strategies as st
import trio
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from meterd.domain.admission import Late
from meterd.domain.errors import PrunedError
from tests.embedded.model_choices import EVENTS, RULES, revise_late, run_until_cut
from tests.ledger_bench import ALL, EVERY_EVENT

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.events import UsageEvent
    from meterd.domain.stored_events import Voided
    from meterd.ledger import Ledger
    from tests.embedded.engine_bench import EngineBench
    from tests.embedded.trio_thread import TrioThread
    from tests.ledger_bench import SettableClock
    from tests.model_thresholds import ModelThresholds

T = TypeVar("T")

# The last of all, some time ago, and the first.
PLACES = st.integers(0, 6) | st.integers(-3, -1)
LATE = st.sampled_from([Late.REVISE, Late.REVISE, Late.REJECT])


async def _void_at(
    ledger: Ledger, place: int, reason: str, late: Late = Late.REVISE
) -> Voided | int:
    found = await ledger.events(EVERY_EVENT, limit=ALL)
    return await _void(ledger, found[place % len(found)].id, reason, late)


async def _void(
    ledger: Ledger, event_id: bytes, reason: str, late: Late = Late.REVISE
) -> Voided | int:
    """What becomes of an event that is there; until when events are pruned, where that is why it
    cannot be taken back.
    """
    try:
        voided = await ledger.void(event_id, reason, late=late)
    except PrunedError as gone:
        return gone.until_ms
    assert voided is not None
    return voided


def _shown(voided: Voided | int) -> object:
    """Without the id, which every engine makes for itself."""
    if isinstance(voided, int):
        return voided
    event = voided.event
    return voided.outcome, event.event, event.received_ms, event.void


class VoidRules(RuleBasedStateMachine):
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
    def forget(self) -> None:
        """Another engine runs."""

    @precondition(lambda self: bool(getattr(self, "model", None) and self.model._kept()))
    @rule(place=PLACES, late=LATE, by=st.none() | RULES)
    def void(self, place: int, late: Late, by: ClosingRules | None) -> None:
        """An event, perhaps for the second time; revised at once, or some time later."""

        async def void(ledger: Ledger) -> object:
            voided = await _void_at(ledger, place, "as agreed", late)
            outcome = "PRUNED" if isinstance(voided, int) else voided.outcome.name
            self.happened[f"voids: {outcome}"] += ledger is self.model
            return _shown(voided)

        self.both(void)
        if by is not None:
            *_, revised = self.both(lambda ledger: revise_late(ledger, self.clock.now_ms, by))
            self.happened["revisions of voids"] += revised

    @precondition(lambda self: bool(getattr(self, "model", None) and self.model._kept()))
    @rule(places=st.lists(PLACES, min_size=2, max_size=4), events=EVENTS)
    def void_at_once(self, places: list[int], events: list[UsageEvent]) -> None:
        """Several, the same one too, while events come: of two of one event, one is the first."""
        self.sent.append(events)

        async def void_all(ledger: Ledger) -> object:
            found = await ledger.events(EVERY_EVENT, limit=ALL)
            ids = [found[place % len(found)].id for place in places]
            outcomes: list[str] = []

            async def void(event_id: bytes) -> None:
                voided = await _void(ledger, event_id, "at once")
                outcomes.append("PRUNED" if isinstance(voided, int) else voided.outcome.name)

            async with trio.open_nursery() as nursery:
                for event_id in ids:
                    nursery.start_soon(void, event_id)
                nursery.start_soon(partial(ledger.append, events, partial=True))
            return sorted(outcomes)

        self.happened["voids at once"] += 1
        self.both(void_all)

    @precondition(lambda self: bool(getattr(self, "model", None) and self.model._kept()))
    @rule(place=PLACES, transactions=st.integers(0, 3), commits=st.booleans())
    def crash_in_a_void(self, place: int, transactions: int, *, commits: bool) -> None:
        """Nobody is answered. It is void in all that it was in, or in nothing."""
        self.happened["crashes in a void"] += 1
        ledger = self.bench.ledger
        work = partial(_void_at, ledger, place, "cut")
        self.loop.call(run_until_cut, self.bench, work, transactions, commits)
        self.loop.call(self.bench.restart)
        found = self.loop.call(partial(self.bench.ledger.events, EVERY_EVENT, limit=ALL))
        if found[place % len(found)].void is not None:
            self.loop.call(_void_at, self.model, place, "cut")
            self.happened["voids behind a crash"] += 1
        self.forget()
