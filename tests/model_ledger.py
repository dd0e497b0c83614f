"""A Ledger in plain lists and dictionaries: what engines must answer, recomputed each time.

It keeps the events, what has been closed, what has been published and what is to be delivered, and
nothing derived: every total is counted again from the events, in fractions.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from meterd.domain.admission import USUAL, Admission, Late
from meterd.domain.aggregations import FIRST_REVISION, Aggregation, Figure
from meterd.domain.errors import OverloadedError
from meterd.domain.event_ids import Stamp
from meterd.domain.idempotency import Recorded
from meterd.domain.operations import Operation
from meterd.domain.periods import RANK, Period, PeriodType, period_at
from meterd.domain.stored_events import StoredEvent
from meterd.embedded.closing import CLOSED_AT_ONCE
from meterd.ledger import (
    AggregationPlace,
    AggregationQuery,
    Closed,
    DeliveredAggregation,
    EventQuery,
    SnapshotCounts,
)
from tests.model_deliveries import ModelDeliveries, order_of_customers
from tests.model_keys import ModelKeys, outcome_by_key
from tests.model_usage import ModelUsage
from tests.model_voids import ModelVoids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meterd.domain.aggregations import ClosingRules
    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent
    from meterd.ledger import CatchUp

APPEND_MAX: Final = 20_000
_EXACT: Final = Context(prec=5000, traps=[Inexact])
_34_DIGITS: Final = Context(prec=34, rounding=ROUND_HALF_EVEN)


class ModelLedger(ModelDeliveries, ModelKeys, ModelUsage, ModelVoids):
    """See ``ledger.Ledger``. The events stand in the order of storing."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__(clock_ms)
        self._log: list[StoredEvent] = []
        self._closed: set[Period] = set()
        # By which rules customers' periods close that a crash came amid; all others as asked.
        self.closed_by: dict[tuple[str, Period], ClosingRules] = {}
        # Since when each customer's closed periods are to be revised.
        self._late: dict[tuple[str, Period], int] = {}
        self._superseded: list[Aggregation] = []
        self._past_events, self._more_past = 0, trio.Event()

    def now_ms(self) -> int:
        """The time of day, but never before the last event nor within what is closed."""
        received = [stored.received_ms for stored in self._log[-1:]]
        return max([self._clock_ms(), *received, *(period.end_ms for period in self._closed)])

    def restarted(self) -> None:
        """Forgets what an engine keeps in memory only."""
        super().restarted()
        self._last_before_start_ms = max((one.received_ms for one in self._log[-1:]), default=0)

    def require_room(self) -> None:
        """See ``Ledger.require_room``."""

    async def append(
        self,
        events: Sequence[UsageEvent],
        *,
        partial: bool = False,
        admission: Admission = USUAL,
    ) -> list[Recorded]:
        """See ``Ledger.append``."""
        await trio.lowlevel.checkpoint()
        if len(events) > APPEND_MAX:
            raise OverloadedError("too many events")
        now_ms = self.now_ms()
        whole = list(self._log)
        outcomes = []
        for event in events:
            outcome = outcome_by_key(event, self._with_keys())
            if outcome is Recorded.RECORDED:
                outcome = self._refusal(event, now_ms, admission) or outcome
            outcomes.append(outcome)
            if outcome is Recorded.RECORDED:
                event_id = Stamp(now_ms, len(self._log), nonce=0).id()
                self._log.append(StoredEvent(event_id, event, now_ms))
        fine = {Recorded.RECORDED, Recorded.DUPLICATE}
        if not fine.issuperset(outcomes) and not partial:
            self._log = whole
            withheld = {Recorded.RECORDED: Recorded.WITHHELD}
            return [withheld.get(outcome, outcome) for outcome in outcomes]
        new = self._log[len(whole) :]
        for stored in new:
            self._note_late(stored, now_ms)
        if any(one.happened_ms < period_at(PeriodType.HOURLY, now_ms).start_ms for one in new):
            self._note_past()
        return outcomes

    def _refusal(self, event: UsageEvent, now_ms: int, admission: Admission) -> Recorded | None:
        if event.timestamp_ms is None:
            return None
        ago_ms = now_ms - event.timestamp_ms
        if ago_ms > admission.past_ms:
            return Recorded.TOO_OLD
        if -ago_ms > admission.future_ms:
            return Recorded.TOO_NEW
        is_late = bool(self.closed_around(event.timestamp_ms))
        return Recorded.TOO_LATE if is_late and admission.late is Late.REJECT else None

    def _note_past(self) -> None:
        self._past_events += 1
        self._more_past.set()
        self._more_past = trio.Event()

    def closed_around(self, instant_ms: int) -> list[Period]:
        """Those around that moment that are closed, with events in them or without."""
        last = max(self._closed, default=None)
        around = [period_at(kind, instant_ms) for kind in PeriodType]
        return [period for period in around if last is not None and period <= last]

    def past_events(self) -> int:
        """See ``Ledger.past_events``."""
        return self._past_events

    async def wait_past_events(self, beyond: int) -> None:
        """See ``Ledger.wait_past_events``."""
        while self._past_events <= beyond:
            await self._more_past.wait()

    async def late_since_ms(self) -> int | None:
        """See ``Ledger.late_since_ms``."""
        await trio.lowlevel.checkpoint()
        return min(self._late.values(), default=None)

    async def revise(self, rules: ClosingRules, *, until_ms: int) -> int:
        """See ``Ledger.revise``."""
        await trio.lowlevel.checkpoint()
        now_ms, made = self.now_ms(), 0
        for customer_id, period in self._revised_in_order(until_ms):
            del self._late[customer_id, period]
            earlier = self._aggregations.get((customer_id, period))
            was_closed = earlier is not None and earlier.closed
            closed_by = dict(earlier.former) if earlier else {}
            if earlier is None or not was_closed:
                by = rules.operations if period.type in rules.published else {}
            else:
                closed_by |= {name: figure.operation for name, figure in earlier.figures.items()}
                by = rules.operations | closed_by
            figures = self._figures(customer_id, period, by)
            if not (figures or was_closed):
                continue
            revised = Aggregation(
                customer_id,
                period.type,
                period.start_ms,
                earlier.revision + 1 if earlier and was_closed else FIRST_REVISION,
                True,
                earlier.created_ms if earlier else now_ms,
                now_ms,
                figures,
                rules.endpoints,
                {name: by for name, by in closed_by.items() if name not in figures},
            )
            self._superseded += [earlier] if earlier and was_closed else []
            self._aggregations[customer_id, period] = revised
            for endpoint_id in revised.endpoints:
                self._make(revised, endpoint_id, now_ms, earlier if was_closed else None)
            self._wake(len(revised.endpoints))
            made += 1
        return made

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
        found = self._aggregations_matching(query, after)[:limit]
        if not query.revisions:
            return [self._with_deliveries(newest) for newest in found]
        return [
            msgspec.structs.replace(
                self._with_deliveries(newest),
                superseded=tuple(
                    self._with_deliveries(earlier)
                    for earlier in reversed(self._superseded)
                    if earlier.id == newest.id
                ),
            )
            for newest in found
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
        last = max(self._closed, default=None)
        periods = {
            period_at(kind, stored.happened_ms) for stored in self._log for kind in PeriodType
        }
        return min((one for one in periods if last is None or one > last), default=None)

    async def close(
        self, period: Period, rules: ClosingRules, *, catch_up: CatchUp | None = None
    ) -> Closed:
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
        if catch_up is not None:
            await catch_up(len(closed), 0.0)
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

    def _revised_in_order(self, until_ms: int) -> list[tuple[str, Period]]:
        """A portion at a time of those late the longest; in it each customer's together."""

        def place(one: tuple[str, Period]) -> tuple[int, int, int, int, bytes]:
            customer_id, period = one
            part, name = order_of_customers(customer_id)
            return self._late[one], part, period.rank, period.start_ms, name

        late = sorted((one for one, ms in self._late.items() if ms <= until_ms), key=place)
        found = []
        for start in range(0, len(late), CLOSED_AT_ONCE):
            portion = late[start : start + CLOSED_AT_ONCE]
            for customer_id in dict.fromkeys(customer_id for customer_id, _ in portion):
                found += sorted(one for one in portion if one[0] == customer_id)
        return found

    def _matching(self, query: EventQuery, before: bytes | None) -> list[StoredEvent]:
        return sorted(
            (
                stored
                for stored in self._kept()
                if query.customer_id in {None, stored.event.customer_id}
                and query.event_type in {None, stored.event.event_type}
                and (query.from_ms is None or query.from_ms <= stored.received_ms)
                and (query.to_ms is None or stored.received_ms <= query.to_ms)
                and (before is None or (stored.id > before) is query.oldest_first)
                and stored.id != before
            ),
            key=lambda stored: stored.id,
            reverse=not query.oldest_first,
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
        created = updated = 0
        for customer_id in {stored.event.customer_id for stored in self._log}:
            by = self.closed_by.get((customer_id, period), rules)
            if period.type not in by.published:
                continue
            figures = self._figures(customer_id, period, by.operations)
            if not self._counts_in(customer_id, period):
                self._aggregations.pop((customer_id, period), None)
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
                by.endpoints if is_closed else (),
            )
        return Closed(created, updated)

    def _figures(
        self, customer_id: str, period: Period, operations: dict[str, Operation]
    ) -> dict[str, Figure]:
        figures = {}
        theirs = self._counts_in(customer_id, period)
        for event_type, operation in operations.items():
            counted = sorted(
                (stored for stored in theirs if stored.event.event_type == event_type),
                key=lambda stored: (stored.happened_ms, stored.id),
            )
            if counted:
                result = read([stored.event.value for stored in counted], operation)
                figures[event_type] = Figure(operation, result, len(counted))
        return figures


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
