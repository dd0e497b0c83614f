"""What the conformance suite asks of an engine's test bench, and the words its tests use."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final, Protocol

from meterd.domain.aggregations import ClosingRules
from meterd.domain.events import UsageEvent
from meterd.domain.instants import parse_instant
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType
from meterd.ledger import AggregationQuery, EventQuery

if TYPE_CHECKING:
    from meterd.domain.periods import Period
    from meterd.domain.stored_events import StoredEvent
    from meterd.ledger import Closed, DeliveredAggregation, Ledger

ALL: Final = 100_000  # more than any test stores
EVERY_EVENT: Final = EventQuery()
EVERY_AGGREGATION: Final = AggregationQuery()
# One event type for each operation, named after it.
OPERATIONS: Final = {str(operation): operation for operation in Operation}


class SettableClock:
    """The time of day as a test wants it."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


class Bench(Protocol):
    """An engine that runs, its clock, and how many events are too many for one append."""

    clock: SettableClock
    too_many: int

    @property
    def ledger(self) -> Ledger: ...

    async def restart(self) -> None:
        """Stops the engine and starts another on what the first has stored."""


def at(text: str) -> int:
    """``2026-01-14T11:15`` as milliseconds."""
    instant_ms = parse_instant(f"{text}Z")
    assert instant_ms is not None, text
    return instant_ms


START_MS: Final = at("2026-01-14T11:15")  # a Wednesday


def event(
    customer_id: str = "acme",
    event_type: str = "sum",
    value: str | int = 1,
    metadata: bytes = b"{}",
) -> UsageEvent:
    return UsageEvent(customer_id, event_type, Decimal(value), metadata)


def rules(
    *published: PeriodType,
    endpoints: tuple[str, ...] = ("billing",),
    operations: dict[str, Operation] | None = None,
) -> ClosingRules:
    """All period types and event types unless told."""
    return ClosingRules(
        OPERATIONS if operations is None else operations,
        frozenset(published or PeriodType),
        endpoints,
    )


async def append_at(bench: Bench, instant: str, customer_id: str = "acme", value: int = 1) -> None:
    bench.clock.now_ms = at(instant)
    await bench.ledger.append([event(customer_id, "sum", value)])


async def close_ended(
    bench: Bench, by: ClosingRules, *, clock_ms: int | None = None
) -> list[tuple[Period, Closed]]:
    """Sets the clock, if told, and closes all that has ended, as the closer does."""
    if clock_ms is not None:
        bench.clock.now_ms = clock_ms
    closed = []
    while (period := await bench.ledger.next_to_close()) is not None:
        if period.end_ms > bench.clock.now_ms:
            break
        closed.append((period, await bench.ledger.close(period, by)))
    return closed


async def stored(bench: Bench, query: EventQuery = EVERY_EVENT) -> list[StoredEvent]:
    return await bench.ledger.events(query, limit=ALL)


async def published(
    bench: Bench, query: AggregationQuery = EVERY_AGGREGATION
) -> list[DeliveredAggregation]:
    return await bench.ledger.aggregations(query, limit=ALL)


async def figures(bench: Bench, aggregation_id: str) -> dict[str, str]:
    """The results of that aggregation, as text."""
    (found,) = [
        delivered.aggregation
        for delivered in await published(bench)
        if delivered.aggregation.id == aggregation_id
    ]
    return {name: f"{figure.value:f}" for name, figure in found.figures.items()}
