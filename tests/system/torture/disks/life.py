"""What an engine goes through on a disk, from a seed: events, periods that end, webhooks, starts.

Each step is marked when it begins and when it is over, each append when it is acknowledged, so that
of every moment it is known what was promised by then.
"""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio
from trio._core import _run
from trio.testing import MockClock

from meterd.domain.deliveries import Delivery, settle_attempt
from meterd.domain.events import UsageEvent
from meterd.domain.operations import Operation
from meterd.domain.outcomes import Outcome
from meterd.domain.periods import DAY_MS, HOUR_MS
from meterd.embedded.posting import POST_SECONDS
from tests.embedded.engine_bench import EngineBench
from tests.ledger_bench import ALL, EVERY_EVENT, START_MS, SettableClock, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from typing import Any

    from meterd.domain.stored_events import StoredEvent
    from meterd.ledger import Ledger

T = TypeVar("T")

ENDPOINTS: Final = ("billing", "crm")
RULES: Final = rules(endpoints=ENDPOINTS)
CUSTOMERS: Final = ("acme", "acme2", "b", "Ærø", "c1", "c2", "c3", "d")
# Of a time that passes by itself. What takes longer waits for something that does not come.
_PATIENCE_S: Final = 3600.0
_TYPES: Final = tuple(str(operation) for operation in Operation)


class Append(msgspec.Struct, frozen=True):
    """Batches that are sent at the same time, each whole or not at all."""

    batches: list[list[UsageEvent]]


class Close(msgspec.Struct, frozen=True):
    """Closes all that has ended."""


class Snapshot(msgspec.Struct, frozen=True):
    """Closes, and publishes what is running."""


class Claim(msgspec.Struct, frozen=True):
    """Begins attempts at due deliveries."""

    endpoint_id: str
    limit: int


class Settle(msgspec.Struct, frozen=True):
    """Writes what came of those attempts: some arrived."""


class Rest(msgspec.Struct, frozen=True):
    """Long enough for everything to be posted."""


class Restart(msgspec.Struct, frozen=True):
    """The engine is stopped and started again."""


Act = Append | Close | Snapshot | Claim | Settle | Rest | Restart


class Step(msgspec.Struct, frozen=True):
    now_ms: int
    act: Act


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """``step`` has begun, or ``is_over``, or its ``batch`` is acknowledged; -1 is the start."""

    step: int
    is_over: bool = False
    batch: int | None = None


def tag(event: UsageEvent) -> int:
    """Which of all the events it is."""
    return int(event.metadata)


def make_steps(rng: random.Random, count: int) -> list[Step]:
    """So many, and those that belong to them."""
    now_ms, tags, steps = START_MS, 0, list[Step]()
    while len(steps) < count:
        kind = rng.choices(("append", "close", "snapshot", "claim", "rest", "restart"), _ODDS)[0]
        now_ms += rng.choice((0, 1, 1000, 60_000))
        if kind == "append":
            batches = []
            for _ in range(rng.choice((1, 1, 2, 4))):
                size = rng.choice((1, 1, 2, 10, 60))
                batches.append([_event(rng, tags + number) for number in range(size)])
                tags += size
            steps.append(Step(now_ms, Append(batches)))
        elif kind == "close":
            now_ms += rng.choice((HOUR_MS, HOUR_MS, HOUR_MS, DAY_MS))
            steps.append(Step(now_ms, Close()))
        elif kind == "claim":
            claim = Claim(rng.choice(ENDPOINTS), rng.choice((1, 3, 100)))
            steps += [Step(now_ms, claim), Step(now_ms + 50, Settle())]
        else:
            others: dict[str, Act] = {
                "snapshot": Snapshot(),
                "rest": Rest(),
                "restart": Restart(),
            }
            steps.append(Step(now_ms, others[kind]))
    return steps


_ODDS: Final = (55, 12, 6, 13, 8, 6)


def _event(rng: random.Random, number: int) -> UsageEvent:
    value = Decimal(rng.randrange(-1000, 100_000)).scaleb(-rng.randrange(4))
    key = rng.choice(("", f"key {number}"))
    customer, kind = rng.choice(CUSTOMERS), rng.choice(_TYPES)
    return UsageEvent(customer, kind, value, str(number).encode(), key)


def live(folder: Path, steps: list[Step], mark: Callable[[Mark], None]) -> list[StoredEvent]:
    """Goes through the steps; returns all events, in the order of storing."""

    async def run() -> list[StoredEvent]:
        with trio.fail_after(_PATIENCE_S):
            return await go_through()

    async def go_through() -> list[StoredEvent]:
        async with trio.open_nursery() as nursery:
            bench = EngineBench(folder, nursery, SettableClock(START_MS))
            mark(Mark(-1))
            await bench.start()
            mark(Mark(-1, is_over=True))
            claimed: list[Delivery] = []
            for number, step in enumerate(steps):
                mark(Mark(number))
                bench.clock.now_ms = step.now_ms
                claimed = await _take(bench, number, step, claimed, mark)
                mark(Mark(number, is_over=True))
            log = await bench.ledger.events(EVERY_EVENT, limit=ALL)
            await bench.stop()
        return log[::-1]

    return run_at_once(run)


def run_at_once(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs it where waiting takes no time, and tasks always run in the same order."""
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(0)
    return trio.run(work, clock=MockClock(autojump_threshold=0))


async def _take(
    bench: EngineBench,
    number: int,
    step: Step,
    claimed: list[Delivery],
    mark: Callable[[Mark], None],
) -> list[Delivery]:
    """Takes the step; what is claimed and not settled after it."""

    async def send(at: int, batch: list[UsageEvent]) -> None:
        await bench.ledger.append(batch)
        mark(Mark(number, batch=at))

    match step.act:
        case Append(batches):
            async with trio.open_nursery() as nursery:
                for at, batch in enumerate(batches):
                    nursery.start_soon(send, at, batch)
        case Rest():
            await trio.sleep(2 * POST_SECONDS)
        case Restart():
            await bench.restart()
        case _:
            return await act_on(bench.ledger, step, claimed)
    return claimed


async def act_on(ledger: Ledger, step: Step, claimed: list[Delivery]) -> list[Delivery]:
    """What a step does that is for the ledger alone; what is claimed and not settled after it."""
    match step.act:
        case Append(batches):
            for batch in batches:
                await ledger.append(batch)
        case Close():
            await close_ended(ledger, step.now_ms)
        case Snapshot():
            await close_ended(ledger, step.now_ms)
            await ledger.snapshot(RULES)
        case Claim(endpoint_id, limit):
            return (await ledger.claim(endpoint_id, limit=limit)).deliveries
        case Settle():
            await ledger.settle([_settled(delivery, step.now_ms) for delivery in claimed])
            return []
        case Rest() | Restart():
            pass
    return claimed


async def close_ended(ledger: Ledger, now_ms: int) -> None:
    """What the closer does."""
    while (period := await ledger.next_to_close()) and period.end_ms <= now_ms:
        await ledger.close(period, RULES)


def _settled(delivery: Delivery, now_ms: int) -> Delivery:
    failed = random.Random(f"{delivery.id} {delivery.attempts}").random() < 0.4
    outcome = Outcome("Request timeout") if failed else Outcome()
    return settle_attempt(delivery, outcome, now_ms, Fraction(0))
