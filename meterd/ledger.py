"""What an engine promises: the Ledger, the only authority over events, totals and deliveries.

Every method is asynchronous and may raise UnavailableError: the outcome is unknown, repeat the same
call. Those that store something, for themselves or for what they read, may raise DiskFullError:
nothing of it is stored. ``tests/ledger_conformance.py`` is the one suite that every engine passes.
Nothing here knows how an engine keeps its promises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import msgspec

from meterd.domain.admission import USUAL, Admission, Late
from meterd.domain.aggregations import Aggregation, ClosingRules
from meterd.domain.deliveries import Attempt, Delivery, DeliveryStatus
from meterd.domain.endpoint_states import EndpointState
from meterd.domain.periods import Period, PeriodType
from meterd.forgetting import Forgetting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meterd.domain.endpoint_states import Change
    from meterd.domain.events import UsageEvent
    from meterd.domain.idempotency import Recorded
    from meterd.domain.stored_events import StoredEvent, Voided
    from meterd.domain.usage import (
        Customer,
        CustomerUsage,
        UsagePortion,
        UsageQuery,
        WindowTotals,
    )

# Lets deliveries keep step: awaited with how many customers a portion had, and seconds it took.
CatchUp: TypeAlias = "Callable[[int, float], Awaitable[None]]"
# So far are an endpoint's deliveries counted: a dead one may have millions.
COUNTED_MAX: Final = 10_000
# Attempts of one delivery: ten times as many as a schedule commonly has.
ATTEMPTS_AT_ONCE: Final = 100


class EventQuery(msgspec.Struct, frozen=True):
    """Which events; None is no filter. Both bounds are inclusive, on the time of receipt. They are
    read newest first, unless the oldest are asked for first.
    """

    customer_id: str | None = None
    event_type: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    oldest_first: bool = False


class AggregationQuery(msgspec.Struct, frozen=True):
    """Which aggregations, and whether with all revisions; None is no filter. Both bounds are
    inclusive, on the period's start.
    """

    customer_id: str | None = None
    period_type: PeriodType | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    revisions: bool = False


class AggregationPlace(msgspec.Struct, frozen=True, array_like=True):
    """Where an aggregation stands in the order of reading; a page goes on behind one."""

    start_ms: int
    customer_id: str
    period_type: PeriodType


def place_of(aggregation: Aggregation) -> AggregationPlace:
    return AggregationPlace(aggregation.start_ms, aggregation.customer_id, aggregation.period_type)


class DeliveredAggregation(msgspec.Struct, frozen=True):
    """With the state of its deliveries, in the order of its endpoints, and, where they are asked
    for, the revisions before it, newest first.
    """

    aggregation: Aggregation
    deliveries: tuple[Delivery, ...]
    superseded: tuple[DeliveredAggregation, ...] = ()


class Closed(msgspec.Struct, frozen=True):
    """How many aggregations a closing made new, and how many snapshots it made final."""

    created: int = 0
    updated: int = 0


class SnapshotCounts(msgspec.Struct, frozen=True):
    """What a snapshot wrote and on how much it stands: customers and events known at all."""

    created: int
    updated: int
    customers: int
    events: int


class Claim(msgspec.Struct, frozen=True):
    """Deliveries whose attempt has begun on disk, and when the endpoint's next one comes due."""

    deliveries: list[Delivery]
    next_due_ms: int | None


class DeliveryQuery(msgspec.Struct, frozen=True):
    """Which deliveries; None is no filter. ``after_sequence`` needs ``endpoint_id``."""

    endpoint_id: str | None = None
    customer_id: str | None = None
    period_type: PeriodType | None = None
    status: DeliveryStatus | None = None
    after_sequence: int | None = None


class DeliveryPlace(msgspec.Struct, frozen=True, array_like=True):
    """Where a delivery stands in the order of reading; a page goes on behind one."""

    created_ms: int
    endpoint_id: str
    sequence: int


def place_of_delivery(delivery: Delivery) -> DeliveryPlace:
    return DeliveryPlace(delivery.created_ms, delivery.endpoint_id, delivery.sequence)


class LoggedAttempt(msgspec.Struct, frozen=True):
    """An attempt of a delivery: ``number`` of all its attempts, alone and with others.

    ``batch`` is the id of the batch that it went with, of which it was the attempt ``in_batch``.
    """

    attempt: Attempt
    number: int
    batch: str | None = None
    in_batch: int = 0


class DeliveryHistory(msgspec.Struct, frozen=True):
    """A delivery with up to ATTEMPTS_AT_ONCE of the ``kept`` attempts that the log still has, the
    earliest first.

    ``endpoint`` is the state of its endpoint, ``batch`` the id of the batch that it is in, and
    ``behind`` that of the delivery of its customer, or of one in its batch, that goes first or is
    in the air.
    """

    delivery: Delivery
    attempts: tuple[LoggedAttempt, ...]
    endpoint: EndpointState
    behind: str | None = None
    batch: str | None = None
    kept: int = 0


class EndpointSummary(msgspec.Struct, frozen=True):
    """What is known of an endpoint, and how many of its deliveries wait and are parked.

    COUNTED_MAX stands for that many or more.
    """

    endpoint_id: str
    state: EndpointState
    pending: int
    parked: int


class Replay(msgspec.Struct, frozen=True):
    """All closed aggregations whose periods ended within these bounds, both inclusive."""

    endpoint_id: str
    from_ms: int
    to_ms: int


class Replayed(msgspec.Struct, frozen=True):
    """How many deliveries are sent again and how many were made; where to go on, if not done."""

    again: int = 0
    created: int = 0
    next: AggregationPlace | None = None


class Ledger(Forgetting, Protocol):
    def require_room(self) -> None:
        """Raises OverloadedError where ``append`` would for any event now; it may all the same."""

    async def append(
        self,
        events: Sequence[UsageEvent],
        *,
        partial: bool = False,
        admission: Admission = USUAL,
    ) -> list[Recorded]:
        """Stores the events and counts them in the totals of the periods in which they happened; an
        outcome for each, in order.

        Returns when they are durable, all in one transaction; ``first`` and ``last`` follow the
        times at which events happened, then the order given. Those of a closed period are late: it
        is to be revised. ``admission`` says which times are taken.

        An event whose customer and idempotency key were stored before is stored and counted no
        more: which is decided, and the key taken, in the transaction of the event. If one is
        refused nothing is stored, unless ``partial``. Raises OverloadedError past the engine's
        limits and DiskFullError, with nothing stored and none of it waiting; UnavailableError
        where some waits for room on the disk.
        """

    async def events(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> list[StoredEvent]:
        """The newest events first, those with an id less than ``before``; oldest first, those with
        a greater one.

        Newest is by time of receipt, then last stored. Work is in proportion to what is returned.
        """

    async def void(
        self, event_id: bytes, reason: str, *, late: Late = Late.REVISE
    ) -> Voided | None:
        """Takes the event of that id back, None where there is none: it stays in the log and counts
        in no period any more. Those that are closed are to be revised, unless that is refused.
        All of that is durable on return, together. An event is void once, and keeps its key.
        Raises PrunedError where it, or others of its hour, may have been deleted.
        """

    async def page_end(
        self, query: EventQuery, *, limit: int, before: bytes | None = None
    ) -> bytes | None:
        """What to ask for the next page with, as its ``before``, if more events follow this one."""

    async def aggregations(
        self, query: AggregationQuery, *, limit: int, after: AggregationPlace | None = None
    ) -> list[DeliveredAggregation]:
        """By start of period, newest first, then by customer, then by length of period."""

    async def aggregations_page_end(
        self, query: AggregationQuery, *, limit: int, after: AggregationPlace | None = None
    ) -> AggregationPlace | None:
        """What to ask for the next page with, as its ``after``, if more follow this one."""

    async def customers(self, *, limit: int, after: str | None = None) -> list[Customer]:
        """Of whom events were appended, in the order of their ids, those behind ``after``."""

    async def customer_usage(
        self, customer_id: str, period_type: PeriodType, *, at_ms: int | None = None
    ) -> CustomerUsage:
        """The customer's totals in the period that contains that moment, by default now, with every
        event that was appended. Anybody may be asked for.
        """

    async def usage_windows(
        self, query: UsageQuery, *, limit: int, after_ms: int | None = None
    ) -> list[WindowTotals]:
        """The windows of the query that have events of its customer and type, the earliest first,
        those that begin behind ``after_ms``; of stored totals, whatever is grouped or filtered.

        Every event that was appended is in them.
        """

    async def usage_groups(
        self, query: UsageQuery, period: Period, *, limit: int, before: bytes | None = None
    ) -> UsagePortion:
        """What up to ``limit`` events of the query in that period come to.

        The portions of a period, each asked for with the last one's ``before``, have every event
        that was appended before the first was asked for, and none twice. Raises PrunedError where
        some of the period's may have been deleted.
        """

    async def next_to_close(self) -> Period | None:
        """Of all periods with totals that are not closed, the one that closes first."""

    async def close(
        self, period: Period, rules: ClosingRules, *, catch_up: CatchUp | None = None
    ) -> Closed:
        """Closes what ``next_to_close`` gave, for every customer.

        For each customer, the closed aggregation and its deliveries become durable together, and
        once; repeated after a crash, it does what is left. In portions, ``catch_up`` after each.
        """

    async def wait_full(self) -> None:
        """Returns when something that is to be written waits for room on the disk."""

    def past_events(self) -> int:
        """How many appends and voids were of an hour that was over, since the engine started."""

    async def wait_past_events(self, beyond: int) -> None:
        """Returns when ``past_events`` is greater: there may be periods to close, or to revise."""

    async def late_since_ms(self) -> int | None:
        """When the first late event came that no revision has yet; not of those of just now."""

    async def revise(self, rules: ClosingRules, *, until_ms: int) -> int:
        """Publishes anew every closed period that has had late events since that moment or before:
        how many aggregations. Each becomes durable once, with its deliveries. In bounded memory.
        """

    async def snapshot(self, rules: ClosingRules) -> SnapshotCounts:
        """Writes an open aggregation of every published period that runs now and has events; every
        one that has ended must be closed already.
        """

    async def claim(
        self,
        endpoint_id: str,
        *,
        limit: int,
        batch: int = 1,
        url: str = "",
        repeats_max: int | None = None,
    ) -> Claim:
        """Up to that many due deliveries of the endpoint, attempts begun: of those that failed
        before up to ``repeats_max``, and then others, both earliest first.

        Where there are so many of the former, the next one to come due is one of the others.

        With ``batch`` greater than 1 they are batches of up to so many deliveries of one period,
        with their bodies; of a period that is being closed only full ones. What was begun before
        goes as it was begun, alone or in its batch.

        What has not failed is due, whatever the clock said when it was made or asked for. Of a
        customer's pending deliveries only the first in the order of closing is ever due. An attempt
        that is not settled when the engine ends comes due again when it starts, its outcome
        unknown. Nothing is due while the endpoint, which has that URL now, is paused or disabled.
        """

    async def settle(
        self,
        deliveries: Sequence[Delivery],
        attempts: Sequence[Attempt] = (),
        changes: Sequence[tuple[str, Change]] = (),
    ) -> None:
        """Writes claimed deliveries as they stand after their attempts, once, and the attempts:
        each delivery with its own, all of them perhaps in several transactions. The first of these
        changes the states of these endpoints, too; the change may be made repeatedly.
        """

    async def endpoint_state(self, endpoint_id: str) -> EndpointState:
        """What is known of the endpoint; the state of a new one for who was never heard of."""

    async def change_endpoint(self, endpoint_id: str, change: Change) -> None:
        """Writes what the function makes of the endpoint's state; it may be called repeatedly."""

    async def deliveries(
        self, query: DeliveryQuery, *, limit: int, after: DeliveryPlace | None = None
    ) -> list[Delivery]:
        """The last made first, then by endpoint, then by sequence, the greatest first.

        Those after a sequence by sequence, the least first: each is there once, and none is left
        out that stands before another. Within an endpoint the order of making is that of sequences.
        Batches are not listed: the deliveries in them are.
        """

    async def deliveries_page_end(
        self, query: DeliveryQuery, *, limit: int, after: DeliveryPlace | None = None
    ) -> DeliveryPlace | None:
        """What to ask for the next page with, as its ``after``, if more follow this one."""

    async def delivery(self, delivery_id: str, *, skip: int = 0) -> DeliveryHistory | None:
        """The delivery of that id, if there is one, with its last attempts but so many."""

    async def endpoints(self) -> list[EndpointSummary]:
        """Every endpoint that has, or had, deliveries or a state, by id; configured or not."""

    async def retry(self, delivery_id: str) -> Delivery | None:
        """Has the delivery sent at once, whatever became of it before, its schedule from the start.

        It takes its place among its customer's. One that is in the air stays as it is.
        """

    async def replay(
        self,
        replay: Replay,
        *,
        limit: int,
        after: AggregationPlace | None = None,
        dry_run: bool = False,
    ) -> Replayed:
        """Has up to ``limit`` aggregations sent to the endpoint, in the order of closing.

        Each that has a delivery there is sent again under its id; for each that has none, one is
        made. A dry run only counts. All of it becomes durable together.
        """

    def deliveries_made(self) -> int:
        """How many deliveries have been made, or are to be sent again, since the engine started."""

    async def wait_deliveries_made(self, beyond: int) -> None:
        """Returns when ``deliveries_made`` is greater."""
