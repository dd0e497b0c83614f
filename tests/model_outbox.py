"""The part of the model that gives deliveries out and takes back what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from meterd.domain.aggregations import completed_body, revised_body
from meterd.domain.deliveries import (
    BATCH,
    Attempt,
    Delivery,
    DeliveryStatus,
    Member,
    as_batch,
    attempt_interrupted,
    batch_body,
    begin_attempt,
    first_attempt,
    first_of_batch,
    interrupted,
    numbered,
    once_more,
)
from meterd.domain.endpoint_states import EndpointState
from meterd.embedded.keys import outbox_place
from meterd.ledger import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.endpoint_states import Change
    from meterd.domain.periods import Period


class ModelOutbox:
    """See ``ledger.Ledger``. What is sent together is a batch; what is sent at all, a parcel: a
    delivery alone, or a batch.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        # By id. What is in a batch stands as it was before that.
        self._deliveries: dict[str, Delivery] = {}
        self._batches: dict[str, Delivery] = {}
        # By id of a delivery, that of its batch.
        self._batch_of: dict[str, str] = {}
        self._endpoints: dict[str, EndpointState] = {}
        self.attempts: list[Attempt] = []
        self._made = 0
        self._more_made = trio.Event()

    def restarted(self) -> None:
        """Forgets what an engine keeps in memory only; attempts in the air have no outcome."""
        self._made = 0
        for parcels in (self._deliveries, self._batches):
            for name, parcel in parcels.items():
                if parcel.begun_ms is not None:
                    parcels[name] = interrupted(parcel, self._clock_ms())
                    self.attempts.append(attempt_interrupted(parcel))

    async def claim(
        self,
        endpoint_id: str,
        *,
        limit: int,
        batch: int = 1,
        url: str = "",
        repeats_max: int | None = None,
    ) -> Claim:
        """See ``Ledger.claim``; periods close all at once."""
        await trio.lowlevel.checkpoint()
        now_ms = self._clock_ms()
        state = await self.endpoint_state(endpoint_id)
        if state.is_disabled(url):
            return Claim([], None)
        paused_until_ms = state.pause_end_ms(url)
        is_paused = paused_until_ms > now_ms
        queue = self._queue(endpoint_id)
        ready = [one for one in queue if not is_paused and _due_ms(one, now_ms) <= now_ms]
        repeats = [one for one in ready if one.has_failed][:limit][:repeats_max]
        others = [one for one in ready if not one.has_failed]
        has_all_repeats = repeats_max is not None and len(repeats) >= repeats_max
        due = [*repeats, *self._packed(others, limit - len(repeats), batch, now_ms)]
        begun = [begin_attempt(parcel, now_ms) for parcel in due]
        for parcel in begun:
            self._write(parcel)
        left_ms = [
            max(_due_ms(one, now_ms), paused_until_ms)
            for one in self._queue(endpoint_id)
            if not (has_all_repeats and one.has_failed)
        ]
        return Claim([self._whole(parcel) for parcel in begun], min(left_ms, default=None))

    def _queue(self, endpoint_id: str) -> list[Delivery]:
        """The parcels that may be sent, or will when they come due, the earliest first: of each of
        its customers there is nothing before it, and nothing in the air.
        """
        first: dict[tuple[str, bool], Delivery] = {}
        parcels: dict[str, Delivery] = {}
        for one in self._line(endpoint_id):
            first.setdefault(line_of(one), one)
            parcel = self._parcel(one.id)
            parcels[parcel.id] = parcel
        in_air = {
            line_of(one)
            for parcel in parcels.values()
            if parcel.begun_ms is not None
            for one in self._parts(parcel)
        }
        return sorted(
            (
                parcel
                for parcel in parcels.values()
                if all(
                    first[line_of(one)].id == one.id and line_of(one) not in in_air
                    for one in self._parts(parcel)
                )
            ),
            key=lambda parcel: (parcel.next_attempt_ms, parcel.sequence),
        )

    def _line(self, endpoint_id: str) -> list[Delivery]:
        """All that is pending, in the order of closing."""
        pending = [
            one
            for one in self._shown()
            if one.endpoint_id == endpoint_id and one.status is DeliveryStatus.PENDING
        ]
        aggregations = [one for one in pending if one.threshold is None]
        thresholds = [one for one in pending if one.threshold is not None]
        return [
            *sorted(aggregations, key=closing_order),
            *sorted(thresholds, key=lambda one: one.sequence),
        ]

    def _packed(
        self, parcels: list[Delivery], limit: int, size: int, now_ms: int
    ) -> list[Delivery]:
        """The first of these, so many. What was never begun goes with others of its period, so many
        at most: full batches first. Whatever was goes as it is.
        """
        if size == 1:
            return parcels[:limit]
        as_they_are: list[Delivery] = []
        full: list[list[Delivery]] = []
        others: dict[Period, list[Delivery]] = {}
        for parcel in parcels:
            if len(as_they_are) + len(full) == limit:
                break
            if parcel.is_batch or parcel.attempts or parcel.threshold is not None:
                as_they_are.append(parcel)
                continue
            group = others.setdefault(parcel.period, [])
            group.append(parcel)
            if len(group) == size:
                full.append(others.pop(parcel.period))
        groups = [*full, *others.values()][: limit - len(as_they_are)]
        return [*as_they_are, *(self._pack(group, now_ms) for group in groups)]

    def _pack(self, group: list[Delivery], now_ms: int) -> Delivery:
        endpoint_id = group[0].endpoint_id
        number = BATCH + self._take(endpoint_id, "next_batch")
        members = [
            Member(one.sequence, outbox_place(*closing_order(one)), one.customer_id)
            for one in group
        ]
        batch = first_of_batch(group[0], number, members, now_ms)
        self._batches[batch.id] = batch
        self._batch_of.update({one.id: batch.id for one in group})
        return batch

    async def settle(
        self,
        deliveries: Sequence[Delivery],
        attempts: Sequence[Attempt] = (),
        changes: Sequence[tuple[str, Change]] = (),
    ) -> None:
        """See ``Ledger.settle``."""
        await trio.lowlevel.checkpoint()
        for settled in deliveries:
            begun = self._batches if settled.is_batch else self._deliveries
            assert begun[settled.id].begun_ms is not None
            self._write(settled)
        self.attempts.extend(attempts)
        for endpoint_id, change in changes:
            self._change_endpoint(endpoint_id, change)

    async def prune_attempts(self, *, before_ms: int, bytes_max: int) -> int:
        """See ``Ledger.prune_attempts``; takes no room."""
        await trio.lowlevel.checkpoint()
        assert bytes_max > 0
        kept = [one for one in self.attempts if one.begun_ms >= before_ms]
        forgotten = len(self.attempts) - len(kept)
        self.attempts[:] = kept
        return forgotten

    async def endpoint_state(self, endpoint_id: str) -> EndpointState:
        """See ``Ledger.endpoint_state``."""
        await trio.lowlevel.checkpoint()
        return self._endpoints.get(endpoint_id, EndpointState())

    async def change_endpoint(self, endpoint_id: str, change: Change) -> None:
        """See ``Ledger.change_endpoint``."""
        await trio.lowlevel.checkpoint()
        self._change_endpoint(endpoint_id, change)

    def _change_endpoint(self, endpoint_id: str, change: Change) -> None:
        self._endpoints[endpoint_id] = change(self._endpoints.get(endpoint_id, EndpointState()))

    def deliveries_made(self) -> int:
        """See ``Ledger.deliveries_made``."""
        return self._made

    async def wait_deliveries_made(self, beyond: int) -> None:
        """See ``Ledger.wait_deliveries_made``."""
        while self._made <= beyond:
            await self._more_made.wait()

    def _send_again(self, name: str, now_ms: int) -> Delivery:
        """The delivery or batch of that id as it is then."""
        if name in self._batches:
            return self._send_batch_again(self._batches[name], now_ms)
        delivery = self._shown_one(name)
        batch = self._batches.get(self._batch_of.get(name, ""))
        if batch is not None and batch.status is DeliveryStatus.PENDING:
            self._send_batch_again(batch, now_ms)
            return self._shown_one(name)
        self._batch_of.pop(name, None)
        self._deliveries[name] = once_more(delivery, now_ms)
        return self._deliveries[name]

    def _send_batch_again(self, batch: Delivery, now_ms: int) -> Delivery:
        """As it was; those who are still in it one by one, where one has left it."""
        parts = self._parts(batch)
        still_in = [one for one in parts if self._batch_of.get(one.id) == batch.id]
        if batch.status is not DeliveryStatus.PENDING and len(still_in) < len(parts):
            for one in still_in:
                self._send_again(one.id, now_ms)
        else:
            self._write(once_more(batch, now_ms))
        return self._whole(self._batches[batch.id])

    def _replay(self, name: str, now_ms: int) -> None:
        """What went in a batch goes in it again, when it is the turn of the first of it."""
        batch = self._batches.get(self._batch_of.get(name, ""))
        first = None if batch is None else self._parts(batch)[0]
        if batch is None or first is None or self._batch_of.get(first.id) != batch.id:
            self._send_again(name, now_ms)
        elif first.id == name:
            self._send_again(batch.id, now_ms)

    def _parcel(self, name: str) -> Delivery:
        """What the delivery, or the batch of that id, is sent as."""
        batch = self._batches.get(self._batch_of.get(name, name))
        return self._deliveries[name] if batch is None else batch

    def _parts(self, parcel: Delivery) -> list[Delivery]:
        """The deliveries in it, or that were."""
        if not parcel.is_batch:
            return [self._deliveries[parcel.id]]
        by_sequence = {
            one.sequence: one
            for one in self._deliveries.values()
            if one.endpoint_id == parcel.endpoint_id
        }
        return [by_sequence[sequence] for sequence in parcel.sequences]

    def _whole(self, parcel: Delivery) -> Delivery:
        """With its body."""
        if not parcel.is_batch:
            return parcel
        body = batch_body(parcel, [one.body for one in self._parts(parcel)])
        return msgspec.structs.replace(parcel, body=body)

    def _shown(self) -> list[Delivery]:
        """All deliveries, each in the state that it has."""
        return [self._shown_one(name) for name in self._deliveries]

    def _shown_one(self, name: str) -> Delivery:
        delivery, parcel = self._deliveries[name], self._parcel(name)
        return as_batch(delivery, parcel) if parcel.is_batch else delivery

    def _write(self, parcel: Delivery) -> None:
        if parcel.is_batch:
            self._batches[parcel.id] = msgspec.structs.replace(parcel, body=b"")
        else:
            self._deliveries[parcel.id] = parcel

    def _make(
        self,
        aggregation: Aggregation,
        endpoint_id: str,
        now_ms: int,
        earlier_one: Aggregation | None = None,
    ) -> None:
        """A delivery of the aggregation, made no earlier than the endpoint's last one."""
        body, due_ms = completed_body(aggregation), self._clock_ms()
        if earlier_one is not None:
            body = revised_body(aggregation, earlier_one)
        self._add(first_attempt(aggregation, endpoint_id, body, now_ms, due_ms), now_ms)

    def _add(self, made: Delivery, now_ms: int) -> None:
        endpoint_id = made.endpoint_id
        earlier = reversed(self._deliveries.values())
        last_ms = next((one.created_ms for one in earlier if one.endpoint_id == endpoint_id), 0)
        made = msgspec.structs.replace(made, created_ms=max(now_ms, last_ms))
        self._deliveries[made.id] = numbered(made, self._take(endpoint_id, "next_sequence"))

    def _take(self, endpoint_id: str, counter: str) -> int:
        """The next number of the endpoint's deliveries, or of its batches."""
        state = self._endpoints.get(endpoint_id, EndpointState())
        taken: int = getattr(state, counter)
        self._endpoints[endpoint_id] = msgspec.structs.replace(state, **{counter: taken + 1})
        return taken

    def _wake(self, made: int) -> None:
        self._made += made
        self._more_made.set()
        self._more_made = trio.Event()


def line_of(delivery: Delivery) -> tuple[str, bool]:
    """What waits for each other: a customer's aggregations, and its thresholds."""
    return delivery.customer_id, delivery.threshold is not None


def closing_order(delivery: Delivery) -> tuple[Period, int]:
    return delivery.period, delivery.revision


def _due_ms(parcel: Delivery, now_ms: int) -> int:
    """What has not failed was due at once, by whatever clock."""
    return parcel.next_attempt_ms if parcel.has_failed else min(parcel.next_attempt_ms, now_ms)
