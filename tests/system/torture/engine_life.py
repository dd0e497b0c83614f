"""Lives of the real engine, as a scenario tells them: each is begun by a start that recovers, and
is either stopped or simply ended.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, closing
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, assert_never
from zlib import crc32

import msgspec
import trio
import trio._core._run
import trio.testing

from meterd.domain.deliveries import settle_attempt
from meterd.domain.errors import DiskFullError, PrunedError, UnavailableError
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS
from meterd.domain.thresholds import reached_delivery_id
from meterd.embedded.engine import EmbeddedLedger
from meterd.embedded.posting import POST_SECONDS
from meterd.embedded.store import Store
from meterd.ledger import DeliveryQuery, EventQuery, Replay
from tests.system.torture.engine_scenario import (
    ADMISSION,
    ENDPOINTS,
    RULES,
    WATCHED,
    Append,
    Ask,
    Close,
    Deliver,
    Post,
    Prune,
    Revise,
    Snapshot,
    Tell,
    Void,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from meterd.domain.deliveries import Delivery
    from meterd.domain.idempotency import Recorded
    from meterd.domain.periods import PeriodType
    from meterd.domain.stored_events import StoredEvent
    from meterd.watching import Look
    from tests.ledger_bench import SettableClock
    from tests.system.torture.children import Voice
    from tests.system.torture.engine_scenario import Life, Scenario, Step

T = TypeVar("T")

_CLAIMED_AT_ONCE: Final = 50
_LOOKS: Final = 2
_ALL: Final = 100_000


class Living:
    """A life being lived; says each thing once the engine has answered it.

    ``ready``; of events ``acknowledged``, ``unknown`` or ``refused`` with their numbers; of a
    delivery or batch ``sent`` in vain or ``arrived``, with the checksum of its body, then
    ``delivered``, and ``asked`` before it is asked for again; ``closed`` with a period; of an event
    ``voiding`` before it is taken back, and ``voided``; ``told`` with the ids of what thresholds
    send; ``pruning`` before keys are forgotten and events go, with all events that are there.
    """

    def __init__(self, told: Scenario, clock: SettableClock, voice: Voice) -> None:
        self._ledger: EmbeddedLedger | None = None
        self._scenario = told
        self._clock = clock
        self._voice = voice
        self.batch = 1
        # Since when somebody who begins to watch looks at everybody; None when that is done.
        self._since_ms: Mapping[PeriodType, int] | None = None

    @property
    def ledger(self) -> EmbeddedLedger:
        assert self._ledger is not None, "it has not begun"
        return self._ledger

    @property
    def is_full(self) -> bool:
        """Whether the engine waits for room."""
        return self._ledger is not None and self._ledger._committer.is_full

    async def live(
        self, folder: Path, life: Life, watch: Callable[[Living], Awaitable[None]] | None = None
    ) -> None:
        """``watch`` runs beside it."""
        async with trio.open_nursery() as nursery:
            if watch is not None:
                nursery.start_soon(watch, self)
            async with AsyncExitStack() as stack:
                self.batch = life.batch
                await self.start(stack, folder, life.map_size)
                for step in life.steps:
                    await self._do(step)
                if not life.stops:
                    raise EndedError
            nursery.cancel_scope.cancel()

    async def start(self, stack: AsyncExitStack, folder: Path, map_size: int) -> Store:
        store = stack.enter_context(closing(Store(folder, map_size=map_size)))
        self._ledger = EmbeddedLedger(
            store, now_ms=self._clock, nonce=store.meta.boots, hop=_at_once, read_hop=_at_once
        )
        await stack.enter_async_context(self._ledger.running())
        self._since_ms = self._ledger.watch(WATCHED)
        self._voice.say("ready")
        return store

    async def _do(self, step: Step) -> None:
        match step:
            case Append(callers, posted):
                async with trio.open_nursery() as nursery:
                    for caller in callers:
                        nursery.start_soon(self.append, caller)
                    if posted is not None:
                        nursery.start_soon(self._read, posted)
            case Void(numbers):
                await self._void_all(numbers)
            case Post():
                await trio.sleep(2 * POST_SECONDS)
            case Close(hours):
                self._clock.now_ms += hours * HOUR_MS
                await self.when_there_is_room(self.close_ended)
            case Revise():
                await self.when_there_is_room(self.revise)
            case Tell():
                await self.tell()
            case Prune(below):
                await self.when_there_is_room(partial(self.prune, below))
            case Deliver(endpoint_id, fails, asks):
                await self.deliver(endpoint_id, fails, asks)
            case Snapshot():
                await self.when_there_is_room(partial(self.ledger.snapshot, RULES))
            case _:
                assert_never(step)

    async def append(self, numbers: Sequence[int]) -> None:
        events = [self._scenario.events[number] for number in numbers]
        named = " ".join(map(str, numbers))
        try:
            outcomes: list[Recorded] = await self.ledger.append(events, admission=ADMISSION)
        except UnavailableError:
            self._voice.say(f"unknown {named}")
        except DiskFullError:
            self._voice.say(f"refused {named}")
        else:
            assert {str(outcome.name) for outcome in outcomes} <= {"RECORDED", "DUPLICATE"}
            self._voice.say(f"acknowledged {named}")

    async def close_ended(self) -> None:
        while (period := await self.ledger.next_to_close()) is not None:
            if period.end_ms > self._clock.now_ms:
                return
            await self.ledger.close(period, RULES)
            self._voice.say(f"closed {period.type} {period.start_ms}")

    async def revise(self) -> None:
        await self.ledger.revise(RULES, until_ms=self._clock.now_ms)

    async def tell(self) -> None:
        """As the watcher: at everybody, if nobody looked since the start; then at who changed."""
        ledger, after = self.ledger, None
        if self._since_ms is not None:
            while looks := await ledger.users(WATCHED, self._since_ms, limit=_LOOKS, after=after):
                after = looks[-1].customer_id
                await self._tell(looks)
            self._since_ms = None
        while True:
            looks = []
            with trio.move_on_after(1):
                looks = await ledger.changed(limit=_LOOKS)
            if not looks:
                return
            await self._tell(looks)

    async def _tell(self, looks: list[Look]) -> None:
        told = await self.ledger.tell(WATCHED, looks, ENDPOINTS)
        if told:
            ids = (reached_delivery_id(one, ENDPOINTS[0]) for one in told)
            self._voice.say("told " + " ".join(ids))

    async def prune(self, below: int) -> None:
        now_ms = self._clock.now_ms
        logged = [
            f"{number_of(one)}:{one.id.hex()}:{int(one.void is not None)}"
            for one in await self._logged()
        ]
        self._voice.say(" ".join([f"pruning {below} {now_ms}", *logged]))
        while await self.ledger.forget_keys(before_ms=now_ms):
            pass
        while await self.ledger.prune_events(before_ms=now_ms, ended_ms=now_ms):
            pass
        while await self.ledger.sweep_pruned():
            pass

    async def _void_all(self, numbers: Sequence[int]) -> None:
        ids = {number_of(one): one.id for one in await self._logged()}
        async with trio.open_nursery() as nursery:
            for number in numbers:
                if number in ids:
                    nursery.start_soon(self._void, number, ids[number])

    async def _void(self, number: int, event_id: bytes) -> None:
        self._voice.say(f"voiding {number}")
        try:
            await self.ledger.void(event_id, f"void {number}")
        except (DiskFullError, PrunedError, UnavailableError):
            return
        self._voice.say(f"voided {number}")

    async def _logged(self) -> list[StoredEvent]:
        return await self.ledger.events(EventQuery(), limit=_ALL)

    async def deliver(
        self, endpoint_id: str, fails: str | None = None, asks: Ask = Ask.NOTHING
    ) -> int:
        """How many deliveries were due."""
        claimed = await self._claim(endpoint_id)
        for _ in range(2 if asks is not Ask.NOTHING else 0):
            await self.when_there_is_room(partial(self._ask, endpoint_id, asks))
        if asks is not Ask.NOTHING:
            claimed += await self._claim(endpoint_id)
        lines = Counter(each for begun in claimed for each in _lines(begun))
        assert set(lines.values()) <= {1}, f"two in the air of one of {lines}"
        settled = []
        for begun in claimed:
            self._voice.say(
                f"{'arrived' if fails is None else 'sent'} {begun.id} {crc32(begun.body)}"
            )
            now_ms = self._clock.now_ms
            settled.append(settle_attempt(begun, Outcome(fails), now_ms, Fraction(0)))
        if settled:
            await self.ledger.settle(settled)
            if fails is None:
                self._voice.say("delivered " + " ".join(one.id for one in settled))
        return len(settled)

    async def _claim(self, endpoint_id: str) -> list[Delivery]:
        limit = _CLAIMED_AT_ONCE
        claim = await self.ledger.claim(endpoint_id, limit=limit, batch=self.batch)
        return claim.deliveries

    async def _ask(self, endpoint_id: str, asks: Ask) -> None:
        if asks is Ask.ALL:
            self._voice.say("asked")
            everything = Replay(endpoint_id, 0, self._clock.now_ms)
            done = await self.ledger.replay(everything, limit=_CLAIMED_AT_ONCE)
            while done.next is not None:
                done = await self.ledger.replay(everything, limit=_CLAIMED_AT_ONCE, after=done.next)
            return
        query = DeliveryQuery(endpoint_id)
        for each in await self.ledger.deliveries(query, limit=_CLAIMED_AT_ONCE):
            if each.sequence % 2:
                self._voice.say(f"asked {each.id}")
                await self.ledger.retry(each.id)

    async def when_there_is_room(self, work: Callable[[], Awaitable[object]]) -> None:
        """Asks again until it is answered, as a client does: also for what waits for room itself,
        and is done twice then.
        """
        while True:
            try:
                await work()
            except (DiskFullError, UnavailableError):
                await trio.sleep(1)
            else:
                return

    async def _read(self, customer_id: str) -> None:
        await self.ledger.events(EventQuery(customer_id), limit=10)


def number_of(stored: StoredEvent) -> int:
    number: int = msgspec.json.decode(stored.event.metadata)["n"]
    return number


def _lines(begun: Delivery) -> list[tuple[str, bool]]:
    """Of each customer one, and another for thresholds."""
    names = [one.customer_id for one in begun.members] or [begun.customer_id]
    return [(name, begun.threshold is not None) for name in names]


async def _at_once(work: Callable[[], T]) -> T:
    """A hop that goes nowhere, and lets nobody run in between: a turn of the loop costs more."""
    return work()


class EndedError(Exception):
    """The process is gone, without a stop."""


def is_of(fault: BaseException, kinds: type[Exception] | tuple[type[Exception], ...]) -> bool:
    """Whether it is one of these, or a group with one of these in it."""
    if isinstance(fault, BaseExceptionGroup):
        return any(is_of(each, kinds) for each in fault.exceptions)
    return isinstance(fault, kinds)


def run(work: Callable[[], Awaitable[object]], *, seed: int) -> None:
    """In a loop of its own, in which nobody waits for time to pass, and tasks have their turns in
    an order made of the seed: so that a life has the same operations each time.
    """
    core = trio._core._run
    core._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    core._r.seed(seed)
    trio.run(work, clock=trio.testing.MockClock(autojump_threshold=0))
