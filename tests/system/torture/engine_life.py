"""Lives of the real engine, random from a seed: what is done to it, and doing it.

A ``Scenario`` is a few lives over one folder, each begun by a start that recovers, and each either
stopped or simply ended. Its events have numbers, by which everything that is stored can be told
apart: most have an idempotency key too, and are repeated by their client until they are answered.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import AsyncExitStack, closing
from decimal import Decimal
from enum import Enum, auto
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, assert_never
from zlib import crc32

import msgspec
import trio
import trio._core._run
import trio.testing

from meterd.domain.deliveries import settle_attempt
from meterd.domain.errors import DiskFullError, UnavailableError
from meterd.domain.events import UsageEvent
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import HOUR_MS
from meterd.embedded.engine import EmbeddedLedger
from meterd.embedded.posting import POST_SECONDS
from meterd.embedded.store import Store
from meterd.ledger import DeliveryQuery, EventQuery, Replay
from tests.ledger_bench import OPERATIONS, SettableClock, at, rules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from meterd.domain.deliveries import Delivery
    from meterd.domain.idempotency import Recorded
    from tests.system.torture.children import Voice

T = TypeVar("T")

ENDPOINTS: Final = ("billing", "crm")
RULES: Final = rules(endpoints=ENDPOINTS)
# In two parts of the store, so that closing takes few transactions.
CUSTOMERS: Final = ("acme", "b24", "c35", "Ærø/25")
# Shortly before an hour's end: alone, and with a day's, a month's, a week's and a year's.
STARTS: Final = tuple(
    at(text)
    for text in ("2026-01-14T11:50", "2026-01-31T23:50", "2026-02-01T23:50", "2025-12-31T23:50")
)
# Small, so that it is outgrown now and then.
MAP_SIZES: Final = (1 << 17, 1 << 21)
# Beyond the end of every period that has begun.
LATER_MS: Final = 400 * 24 * HOUR_MS
_TYPES: Final = tuple(OPERATIONS)
_CLAIMED_AT_ONCE: Final = 50
# Events in a batch. Over 64 are more than a block; few, as each is counted again at every check.
_BATCHES: Final = (*[1] * 20, *[2] * 10, *[5] * 8, 66)


class Append(msgspec.Struct, frozen=True):
    """Callers that come at once, each with these events; a reader has a customer posted as well."""

    callers: tuple[tuple[int, ...], ...]
    posted: str | None = None


class Post(msgspec.Struct, frozen=True):
    """Time passes, and all that was counted is posted."""


class Close(msgspec.Struct, frozen=True):
    """The hour ends, and whatever ends with it."""


class Ask(Enum):
    """What an operator wants sent again, twice, while something is in the air."""

    NOTHING = auto()
    SOME = auto()
    ALL = auto()


class Deliver(msgspec.Struct, frozen=True):
    """What is due is claimed, sent and settled; ``fails`` is what the receiver answers, if it
    does.
    """

    endpoint_id: str
    fails: str | None
    asks: Ask


class Snapshot(msgspec.Struct, frozen=True):
    """As ``POST /aggregations/trigger`` does."""


Step = Append | Post | Close | Deliver | Snapshot


class Life(msgspec.Struct, frozen=True):
    """One process's. Stopped, or ended as by kill -9 behind its last step.

    ``batch`` is configured at the endpoints, from then on.
    """

    steps: tuple[Step, ...]
    map_size: int
    stops: bool
    batch: int

    @property
    def lasts_ms(self) -> int:
        return HOUR_MS * sum(isinstance(step, Close) for step in self.steps)


class Scenario(msgspec.Struct, frozen=True):
    seed: int
    start_ms: int
    events: tuple[UsageEvent, ...]
    lives: tuple[Life, ...]

    def sent_in(self, lives: int) -> set[int]:
        """The numbers of all events that so many of the lives send."""
        return {
            number
            for life in self.lives[:lives]
            for step in life.steps
            if isinstance(step, Append)
            for caller in step.callers
            for number in caller
        }


def scenario(seed: int, lives: int = 3, steps: int = 3) -> Scenario:
    source = random.Random(seed)
    events: list[UsageEvent] = []
    made = tuple(_life(source, events, source.randint(steps - 1, steps + 1)) for _ in range(lives))
    return Scenario(seed, source.choice(STARTS), tuple(events), made)


def _life(source: random.Random, events: list[UsageEvent], steps: int) -> Life:
    """Events, then some of all, in which a period ends at least once."""
    kinds = [Append, Append, Append, Append, Post, Close, Close, Deliver, Snapshot]
    chosen = [source.choice(kinds) for _ in range(steps)]
    if Close not in chosen:
        chosen[source.randrange(steps)] = Close
    found: list[Step] = [_append(source, events)]
    for kind in chosen:
        if kind is Append:
            found.append(_append(source, events))
        elif kind is Deliver:
            found.append(_deliver(source))
        else:
            found.append(kind())
        if kind is Close:
            found.append(_deliver(source))
    stops, batch = source.random() < 0.3, source.choice((1, 1, 2, 3))
    return Life(tuple(found), source.choice(MAP_SIZES), stops, batch)


def _deliver(source: random.Random) -> Deliver:
    fails = source.choice((None, None, "HTTP 503"))
    return Deliver(source.choice(ENDPOINTS), fails, source.choice((Ask.NOTHING, *Ask)))


def _append(source: random.Random, events: list[UsageEvent]) -> Append:
    callers: list[tuple[int, ...]] = []
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        first = len(events)
        for _ in range(source.choice(_BATCHES)):
            number = len(events)
            events.append(
                UsageEvent(
                    source.choice(CUSTOMERS),
                    source.choice(_TYPES),
                    Decimal(source.randint(-99_999, 99_999)).scaleb(-source.randint(0, 3)),
                    b'{"n":%d}' % number,
                    f"key-{number}" if source.random() < 0.8 else "",
                )
            )
        caller = tuple(range(first, len(events)))
        earlier = source.randrange(first) if first and source.random() < 0.3 else None
        if earlier is not None and events[earlier].idempotency_key:
            caller = (*caller, earlier)  # sent again, for good measure
        callers.append(caller)
    return Append(tuple(callers), source.choice((None, *CUSTOMERS)))


class Living:
    """A life being lived; says each thing once the engine has answered it.

    ``ready``; of events ``acknowledged``, ``unknown`` or ``refused`` with their numbers; of a
    delivery or batch ``sent`` in vain or ``arrived``, with the checksum of its body, then
    ``delivered``, and ``asked`` before it is asked for again; ``closed`` with a period.
    """

    def __init__(self, told: Scenario, clock: SettableClock, voice: Voice) -> None:
        self._ledger: EmbeddedLedger | None = None
        self._scenario = told
        self._clock = clock
        self._voice = voice
        self.batch = 1

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
            case Post():
                await trio.sleep(2 * POST_SECONDS)
            case Close():
                self._clock.now_ms += HOUR_MS
                await self.when_there_is_room(self.close_ended)
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
            outcomes: list[Recorded] = await self.ledger.append(events)
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

    async def deliver(
        self, endpoint_id: str, fails: str | None = None, asks: Ask = Ask.NOTHING
    ) -> int:
        """How many deliveries were due."""
        claimed = await self._claim(endpoint_id)
        for _ in range(2 if asks is not Ask.NOTHING else 0):
            await self.when_there_is_room(partial(self._ask, endpoint_id, asks))
        if asks is not Ask.NOTHING:
            claimed += await self._claim(endpoint_id)
        customers = Counter(each for begun in claimed for each in _customers(begun))
        assert set(customers.values()) <= {1}, f"two in the air of one of {customers}"
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
        while True:
            try:
                await work()
            except DiskFullError:
                await trio.sleep(1)
            else:
                return

    async def _read(self, customer_id: str) -> None:
        await self.ledger.events(EventQuery(customer_id), limit=10)


def _customers(begun: Delivery) -> list[str]:
    return [one.customer_id for one in begun.members] or [begun.customer_id]


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
