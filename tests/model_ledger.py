"""A Ledger in plain lists and dictionaries: what engines must answer, recomputed each time.

It keeps the events, what has been closed, what has been published and what is to be delivered, and
nothing derived: every total is counted again from the events, in fractions.
"""

from __future__ import annotations

import json
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import trio

from meterd.domain.aggregations import FIRST_REVISION, Aggregation, Figure
from meterd.domain.errors import OverloadedError
from meterd.domain.event_ids import Stamp
from meterd.domain.idempotency import Recorded
from meterd.domain.operations import Operation
from meterd.domain.periods import RANK, Period, PeriodType, period_at
from meterd.ledger import (
    AggregationPlace,
    AggregationQuery,
    Closed,
    DeliveredAggregation,
    EventQuery,
    SnapshotCounts,
    StoredEvent,
)
from tests.model_deliveries import ModelDeliveries, order_of_customers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent

APPEND_MAX: Final = 20_000
_EXACT: Final = Context(prec=5000, traps=[Inexact])
_34_DIGITS: Final = Context(prec=34, rounding=ROUND_HALF_EVEN)


class ModelLedger(ModelDeliveries):
    """See ``ledger.Ledger``. The events stand in the order of storing."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__(clock_ms)
        self._log: list[StoredEvent] = []
        self._closed: set[Period] = set()

    def now_ms(self) -> int:
        """The time of day, but never before the last event nor within what is closed."""
        received = [stored.received_ms for stored in self._log[-1:]]
        return max([self._clock_ms(), *received, *(period.end_ms for period in self._closed)])

    def require_room(self) -> None:
        """See ``Ledger.require_room``."""

    async def append(
        self, events: Sequence[UsageEvent], *, partial: bool = False
    ) -> list[Recorded]:
        """See ``Ledger.append``."""
        await trio.lowlevel.checkpoint()
        if len(events) > APPEND_MAX:
            raise OverloadedError("too many events")
        now_ms = self.now_ms()
        whole = list(self._log)
        outcomes = []
        for event in events:
            outcomes.append(_outcome(event, self._log))
            if outcomes[-1] is Recorded.RECORDED:
                event_id = Stamp(now_ms, len(self._log), nonce=0).id()
                self._log.append(StoredEvent(event_id, event, now_ms))
        if Recorded.CONFLICT in outcomes and not partial:
            self._log = whole
            withheld = {Recorded.RECORDED: Recorded.WITHHELD}
            return [withheld.get(outcome, outcome) for outcome in outcomes]
        return outcomes

    async def events(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> list[StoredEvent]:
        """See ``Ledger.events``."""
        await trio.lowlevel.checkpoint()
        return self._matching(query, before)[:limit]

    async def page_end(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> bytes | None:
        """See ``Ledger.page_end``."""
        await trio.lowlevel.checkpoint()
        found = self._matching(query, before)
        return found[limit - 1].id if len(found) > limit else None

    async def aggregations(
        self, query: AggregationQuery, *, limit: int, after: AggregationPlace | None = None
    ) -> list[DeliveredAggregation]:
        """See ``Ledger.aggregations``."""
        await trio.lowlevel.checkpoint()
        return [
            DeliveredAggregation(
                aggregation,
                tuple(
                    delivery
                    for endpoint_id in aggregation.endpoints
                    for delivery in self._shown()
                    if delivery.endpoint_id == endpoint_id
                    and _place_of(delivery) == _place_of(aggregation)
                ),
            )
            for aggregation in self._aggregations_matching(query, after)[:limit]
        ]

    async def aggregations_page_end(
        self, query: AggregationQuery, *, limit: int, after: AggregationPlace | None = None
    ) -> AggregationPlace | None:
        """See ``Ledger.aggregations_page_end``."""
        await trio.lowlevel.checkpoint()
        found = self._aggregations_matching(query, after)
        return _place_of(found[limit - 1]) if len(found) > limit else None

    async def next_to_close(self) -> Period | None:
        """See ``Ledger.next_to_close``."""
        await trio.lowlevel.checkpoint()
        periods = {
            period_at(kind, stored.received_ms) for stored in self._log for kind in PeriodType
        }
        return min(periods - self._closed, default=None)

    async def close(self, period: Period, rules: ClosingRules) -> Closed:
        """See ``Ledger.close``."""
        await trio.lowlevel.checkpoint()
        now_ms = self.now_ms()
        assert period.end_ms <= now_ms, "closed before its end"
        if period in self._closed:
            return Closed()
        self._closed.add(period)
        made = self._publish(period, rules, now_ms)
        for aggregation in self._aggregations_of(period):
            if not aggregation.closed:  # a snapshot of what is not published any more
                del self._aggregations[aggregation.customer_id, period]
        closed = [
            aggregation for aggregation in self._aggregations_of(period) if aggregation.closed
        ]
        for aggregation in sorted(closed, key=lambda one: order_of_customers(one.customer_id)):
            for endpoint_id in aggregation.endpoints:
                self._make(aggregation, endpoint_id, now_ms)
        self._wake(sum(len(aggregation.endpoints) for aggregation in closed))
        return Closed(made.created, made.updated)

    async def snapshot(self, rules: ClosingRules) -> SnapshotCounts:
        """See ``Ledger.snapshot``."""
        await trio.lowlevel.checkpoint()
        now_ms = self.now_ms()
        made = [self._publish(period_at(kind, now_ms), rules, now_ms) for kind in PeriodType]
        return SnapshotCounts(
            sum(counted.created for counted in made),
            sum(counted.updated for counted in made),
            len({stored.event.customer_id for stored in self._log}),
            len(self._log),
        )

    def _matching(self, query: EventQuery, before: bytes | None) -> list[StoredEvent]:
        return sorted(
            (
                stored
                for stored in self._log
                if query.customer_id in {None, stored.event.customer_id}
                and query.event_type in {None, stored.event.event_type}
                and (query.from_ms is None or query.from_ms <= stored.received_ms)
                and (query.to_ms is None or stored.received_ms <= query.to_ms)
                and (before is None or stored.id < before)
            ),
            key=lambda stored: stored.id,
            reverse=True,
        )

    def _aggregations_matching(
        self, query: AggregationQuery, after: AggregationPlace | None
    ) -> list[Aggregation]:
        return sorted(
            (
                found
                for found in self._aggregations.values()
                if query.customer_id in {None, found.customer_id}
                and query.period_type in {None, found.period_type}
                and (query.from_ms is None or query.from_ms <= found.start_ms)
                and (query.to_ms is None or found.start_ms <= query.to_ms)
                and (after is None or _reading_order(_place_of(found)) > _reading_order(after))
            ),
            key=lambda found: _reading_order(_place_of(found)),
        )

    def _aggregations_of(self, period: Period) -> list[Aggregation]:
        return [made for (_, of), made in self._aggregations.items() if of == period]

    def _publish(self, period: Period, rules: ClosingRules, now_ms: int) -> Closed:
        """Writes every customer's aggregation of the period as it is now."""
        if period.type not in rules.published:
            return Closed()
        created = updated = 0
        for customer_id in {stored.event.customer_id for stored in self._log}:
            figures = self._figures(customer_id, period, rules)
            if not figures:
                continue
            is_closed = period in self._closed
            earlier = self._aggregations.get((customer_id, period))
            created += earlier is None
            updated += earlier is not None
            self._aggregations[customer_id, period] = Aggregation(
                customer_id,
                period.type,
                period.start_ms,
                FIRST_REVISION,
                is_closed,
                now_ms if earlier is None else earlier.created_ms,
                now_ms,
                figures,
                rules.endpoints if is_closed else (),
            )
        return Closed(created, updated)

    def _figures(self, customer_id: str, period: Period, rules: ClosingRules) -> dict[str, Figure]:
        figures = {}
        for event_type, operation in rules.operations.items():
            counted = sorted(
                (
                    stored
                    for stored in self._log
                    if stored.event.customer_id == customer_id
                    and stored.event.event_type == event_type
                    and period.start_ms <= stored.received_ms < period.end_ms
                ),
                key=lambda stored: stored.id,
            )
            if counted:
                result = read([stored.event.value for stored in counted], operation)
                figures[event_type] = Figure(operation, result, len(counted))
        return figures


def _outcome(event: UsageEvent, log: list[StoredEvent]) -> Recorded:
    for stored in log:
        other = stored.event
        same_key = other.idempotency_key and other.idempotency_key == event.idempotency_key
        if same_key and other.customer_id == event.customer_id:
            is_same = _content(other) == _content(event)
            return Recorded.DUPLICATE if is_same else Recorded.CONFLICT
    return Recorded.RECORDED


def _content(event: UsageEvent) -> tuple[str, Decimal, object]:
    return event.event_type, event.value, json.loads(event.metadata)


def read(values: list[Decimal], operation: Operation) -> Decimal:
    """What the operation makes of these values, which stand in the order of their events."""
    return result_of(operation, values, sum(map(Fraction, values), Fraction(0)))


def result_of(operation: Operation, values: list[Decimal], total: Fraction) -> Decimal:
    """The same, where their sum is known."""
    match operation:
        case Operation.SUM:
            return _EXACT.divide(Decimal(total.numerator), Decimal(total.denominator))
        case Operation.AVG:
            mean = total / len(values)
            return _34_DIGITS.divide(Decimal(mean.numerator), Decimal(mean.denominator))
        case Operation.MIN:
            return min(values)
        case Operation.MAX:
            return max(values)
        case Operation.COUNT:
            return Decimal(len(values))
        case Operation.FIRST:
            return values[0]
        case Operation.LAST:
            return values[-1]


def _place_of(found: Aggregation | Delivery) -> AggregationPlace:
    return AggregationPlace(found.start_ms, found.customer_id, found.period_type)


def _reading_order(place: AggregationPlace) -> tuple[int, bytes, int]:
    return (-place.start_ms, place.customer_id.encode(), RANK[place.period_type])
