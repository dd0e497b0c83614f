"""The part of the model that looks into deliveries and has them sent again."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec
import trio

from meterd.domain.deliveries import (
    Delivery,
    DeliveryStatus,
    batch_id,
    delivery_id,
)
from meterd.domain.endpoint_states import EndpointState
from meterd.domain.periods import Period, period_at
from meterd.domain.thresholds import Reached, reached_delivery, reached_delivery_id
from meterd.ledger import (
    ATTEMPTS_AT_ONCE,
    COUNTED_MAX,
    AggregationPlace,
    DeliveredAggregation,
    DeliveryHistory,
    DeliveryPlace,
    DeliveryQuery,
    EndpointSummary,
    LoggedAttempt,
    Replay,
    Replayed,
    place_of,
    place_of_delivery,
)
from tests.model_outbox import ModelOutbox, line_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.domain.aggregations import Aggregation


class ModelDeliveries(ModelOutbox, ABC):
    """See ``ledger.Ledger``."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__(clock_ms)
        self._aggregations: dict[tuple[str, Period], Aggregation] = {}
        self._reached: list[Reached] = []

    @abstractmethod
    def now_ms(self) -> int:
        """See ``ModelLedger.now_ms``."""

    def _with_deliveries(self, aggregation: Aggregation) -> DeliveredAggregation:
        theirs = [
            delivery
            for endpoint_id in aggregation.endpoints
            for delivery in self._shown()
            if (delivery.endpoint_id, delivery.customer_id)
            == (endpoint_id, aggregation.customer_id)
            and (delivery.period, delivery.revision) == (aggregation.period, aggregation.revision)
        ]
        return DeliveredAggregation(aggregation, tuple(theirs))

    async def wait_full(self) -> None:
        """See ``Ledger.wait_full``."""
        await trio.sleep_forever()

    async def deliveries(
        self, query: DeliveryQuery, *, limit: int, after: DeliveryPlace | None = None
    ) -> list[Delivery]:
        """See ``Ledger.deliveries``."""
        await trio.lowlevel.checkpoint()
        return self._found(query, after)[:limit]

    async def deliveries_page_end(
        self, query: DeliveryQuery, *, limit: int, after: DeliveryPlace | None = None
    ) -> DeliveryPlace | None:
        """See ``Ledger.deliveries_page_end``."""
        await trio.lowlevel.checkpoint()
        found = self._found(query, after)
        return place_of_delivery(found[limit - 1]) if len(found) > limit else None

    async def delivery(self, delivery_id: str, *, skip: int = 0) -> DeliveryHistory | None:
        """See ``Ledger.delivery``."""
        await trio.lowlevel.checkpoint()
        if delivery_id in self._batches:
            delivery = self._whole(self._batches[delivery_id])
        elif delivery_id in self._deliveries:
            delivery = self._shown_one(delivery_id)
        else:
            return None
        attempts = self._attempts(delivery)
        end = max(len(attempts) - skip, 0)
        return DeliveryHistory(
            delivery,
            tuple(attempts[max(end - ATTEMPTS_AT_ONCE, 0) : end]),
            self._endpoints.get(delivery.endpoint_id, EndpointState()),
            self._behind(self._parcel(delivery_id)),
            self._batch_of.get(delivery_id),
            kept=len(attempts),
        )

    def _attempts(self, delivery: Delivery) -> list[LoggedAttempt]:
        """Of the delivery alone, and of every batch that it was in."""
        found = [
            LoggedAttempt(attempt, attempt.number)
            for attempt in self.attempts
            if (attempt.endpoint_id, attempt.sequence) == (delivery.endpoint_id, delivery.sequence)
        ]
        for was_in in delivery.batches:
            name = batch_id(delivery.endpoint_id, was_in.number)
            found += [
                LoggedAttempt(attempt, was_in.attempts + attempt.number, name, attempt.number)
                for attempt in self.attempts
                if (attempt.endpoint_id, attempt.sequence) == (delivery.endpoint_id, was_in.number)
            ]
        return sorted(found, key=lambda one: one.number)

    def _behind(self, parcel: Delivery) -> str | None:
        """What is first in the line of one of its customers, or one of theirs in the air."""
        if parcel.status is not DeliveryStatus.PENDING or parcel.begun_ms is not None:
            return None
        line = self._line(parcel.endpoint_id)
        parts = self._parts(parcel)
        for part in parts:
            first = next(one for one in line if line_of(one) == line_of(part))
            if first.id != part.id:
                return first.id
        theirs = {line_of(one) for one in parts}
        in_air = [one for one in line if one.begun_ms is not None and line_of(one) in theirs]
        in_air.sort(key=self._place_in_air)
        return in_air[0].id if in_air else None

    def _place_in_air(self, delivery: Delivery) -> tuple[int, int]:
        """What went alone is before every batch; in a batch they stand as they are sent."""
        parcel = self._parcel(delivery.id)
        return parcel.sequence, parcel.sequences.index(delivery.sequence)

    async def endpoints(self) -> list[EndpointSummary]:
        """See ``Ledger.endpoints``."""
        await trio.lowlevel.checkpoint()
        return [
            EndpointSummary(
                endpoint_id,
                self._endpoints[endpoint_id],
                min(self._count(endpoint_id, DeliveryStatus.PENDING), COUNTED_MAX),
                min(self._count(endpoint_id, DeliveryStatus.PARKED), COUNTED_MAX),
            )
            for endpoint_id in sorted(self._endpoints)
        ]

    async def retry(self, delivery_id: str) -> Delivery | None:
        """See ``Ledger.retry``."""
        await trio.lowlevel.checkpoint()
        if delivery_id not in self._deliveries | self._batches:
            return None
        again = self._send_again(delivery_id, self._clock_ms())
        self._wake(1)
        return again

    async def replay(
        self,
        replay: Replay,
        *,
        limit: int,
        after: AggregationPlace | None = None,
        dry_run: bool = False,
    ) -> Replayed:
        """See ``Ledger.replay``."""
        await trio.lowlevel.checkpoint()
        ended = sorted(
            (
                one
                for (_, period), one in self._aggregations.items()
                if replay.from_ms <= period.end_ms <= min(replay.to_ms, self.now_ms())
            ),
            key=lambda one: replaying_order(place_of(one)),
        )
        if after is not None:
            behind = replaying_order(after)
            ended = [one for one in ended if replaying_order(place_of(one)) > behind]
        again = created = 0
        now_ms = self.now_ms()
        for aggregation in ended[:limit]:
            if not aggregation.closed:
                continue
            for one in self._reached_in(aggregation):
                name = reached_delivery_id(one, replay.endpoint_id)
                again += name in self._deliveries
                created += name not in self._deliveries
                if dry_run:
                    continue
                if name in self._deliveries:
                    self._replay(name, self._clock_ms())
                else:
                    made_ms = max(now_ms, one.reached_ms)
                    made = reached_delivery(one, replay.endpoint_id, made_ms, self._clock_ms())
                    self._add(made, made_ms)
            name = delivery_id(replay.endpoint_id, aggregation.id, aggregation.revision)
            if name in self._deliveries:
                again += 1
                if not dry_run:
                    self._replay(name, self._clock_ms())
            else:
                created += 1
                if not dry_run:
                    made_ms = max(now_ms, aggregation.computed_ms)
                    self._make(aggregation, replay.endpoint_id, made_ms)
                    noted = (*aggregation.endpoints, replay.endpoint_id)
                    where = aggregation.customer_id, aggregation.period
                    changed = msgspec.structs.replace(aggregation, endpoints=noted)
                    self._aggregations[where] = changed
        if not dry_run:
            self._wake(again + created)
        return Replayed(again, created, place_of(ended[limit - 1]) if len(ended) > limit else None)

    def _reached_in(self, aggregation: Aggregation) -> list[Reached]:
        """In the order in which they were reached."""
        theirs = [
            one
            for one in self._reached
            if (one.customer_id, one.period) == (aggregation.customer_id, aggregation.period)
        ]
        return sorted(theirs, key=attrgetter("reached_ms", "event_type", "threshold"))

    def _count(self, endpoint_id: str, status: DeliveryStatus) -> int:
        return sum(one.endpoint_id == endpoint_id and one.status is status for one in self._shown())

    def _found(self, query: DeliveryQuery, after: DeliveryPlace | None) -> list[Delivery]:
        onward = query.after_sequence is not None

        def order(place: DeliveryPlace) -> tuple[int, str, int]:
            if onward:
                return 0, "", place.sequence
            return -place.created_ms, place.endpoint_id, -place.sequence

        return sorted(
            (
                one
                for one in self._shown()
                if query.endpoint_id in {None, one.endpoint_id}
                and query.customer_id in {None, one.customer_id}
                and query.period_type in {None, one.period_type}
                and query.status in {None, one.status}
                and (query.after_sequence is None or one.sequence > query.after_sequence)
                and (after is None or order(place_of_delivery(one)) > order(after))
            ),
            key=lambda one: order(place_of_delivery(one)),
        )


def order_of_customers(customer_id: str) -> tuple[int, bytes]:
    """Within one closing; engines are free to choose, and ours goes by its 16 parts."""
    customer = customer_id.encode()
    return zlib.crc32(customer) % 16, customer


def replaying_order(place: AggregationPlace) -> tuple[Period, int, bytes]:
    return period_at(place.period_type, place.start_ms), *order_of_customers(place.customer_id)
