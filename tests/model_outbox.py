"""The part of the model that gives deliveries out and takes back what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from meterd.domain.aggregations import completed_body, revised_body
from meterd.domain.deliveries import (
    Attempt,
    Delivery,
    DeliveryStatus,
    attempt_interrupted,
    begin_attempt,
    first_attempt,
    interrupted,
    numbered,
    once_more,
)
from meterd.domain.endpoint_states import EndpointState
from meterd.ledger import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.endpoint_states import Change
    from meterd.domain.periods import Period


class ModelOutbox:
    """See ``ledger.Ledger``."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._deliveries: dict[str, Delivery] = {}
        self._endpoints: dict[str, EndpointState] = {}
        self.attempts: list[Attempt] = []
        self._made = 0
        self._more_made = trio.Event()

    def restarted(self) -> None:
        """Forgets what an engine keeps in memory only; attempts in the air have no outcome."""
        self._made = 0
        for name, delivery in self._deliveries.items():
            if delivery.begun_ms is not None:
                self._deliveries[name] = interrupted(delivery, self._clock_ms())
                self.attempts.append(attempt_interrupted(delivery))

    async def claim(
        self,
        endpoint_id: str,
        *,
        limit: int,
        batch: int = 1,
        url: str = "",
        repeats_max: int | None = None,
    ) -> Claim:
        """See ``Ledger.claim``; knows of no batches."""
        assert batch == 1
        await trio.lowlevel.checkpoint()
        now_ms = self._clock_ms()
        first: dict[str, Delivery] = {}
        for delivery in sorted(self._deliveries.values(), key=closing_order):
            if delivery.endpoint_id == endpoint_id and delivery.status is DeliveryStatus.PENDING:
                first.setdefault(delivery.customer_id, delivery)
        in_air = {
            one.customer_id
            for one in self._deliveries.values()
            if one.endpoint_id == endpoint_id and one.begun_ms is not None
        }
        queue = sorted(
            (delivery for delivery in first.values() if delivery.customer_id not in in_air),
            key=lambda delivery: (delivery.next_attempt_ms, delivery.sequence),
        )
        state = await self.endpoint_state(endpoint_id)
        if state.is_disabled(url):
            return Claim([], None)
        paused_until_ms = state.pause_end_ms(url)
        is_paused = paused_until_ms > now_ms
        ready = [one for one in queue if not is_paused and one.next_attempt_ms <= now_ms]
        repeats = [one for one in ready if one.has_failed][:limit][:repeats_max]
        others = [one for one in ready if not one.has_failed]
        due = [*repeats, *others][:limit]
        has_all_repeats = repeats_max is not None and len(repeats) >= repeats_max
        begun = [begin_attempt(delivery, now_ms) for delivery in due]
        self._deliveries.update({delivery.id: delivery for delivery in begun})
        left_ms = [
            max(one.next_attempt_ms, paused_until_ms)
            for one in queue
            if one not in due and not (has_all_repeats and one.has_failed)
        ]
        return Claim(begun, min(left_ms, default=None))

    async def settle(
        self,
        deliveries: Sequence[Delivery],
        attempts: Sequence[Attempt] = (),
        changes: Sequence[tuple[str, Change]] = (),
    ) -> None:
        """See ``Ledger.settle``."""
        await trio.lowlevel.checkpoint()
        for delivery in deliveries:
            assert self._deliveries[delivery.id].begun_ms is not None
            self._deliveries[delivery.id] = delivery
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

    def _send_again(self, name: str, now_ms: int) -> None:
        self._deliveries[name] = once_more(self._deliveries[name], now_ms)

    def _make(
        self,
        aggregation: Aggregation,
        endpoint_id: str,
        now_ms: int,
        earlier_one: Aggregation | None = None,
    ) -> None:
        """A delivery of the aggregation, made no earlier than the endpoint's last one."""
        state = self._endpoints.get(endpoint_id, EndpointState())
        body, due_ms = completed_body(aggregation), self._clock_ms()
        if earlier_one is not None:
            body = revised_body(aggregation, earlier_one)
        made = first_attempt(aggregation, endpoint_id, body, now_ms, due_ms)
        earlier = reversed(self._deliveries.values())
        last_ms = next((one.created_ms for one in earlier if one.endpoint_id == endpoint_id), 0)
        made = msgspec.structs.replace(made, created_ms=max(now_ms, last_ms))
        self._deliveries[made.id] = numbered(made, state.next_sequence)
        self._endpoints[endpoint_id] = msgspec.structs.replace(
            state, next_sequence=state.next_sequence + 1
        )

    def _wake(self, made: int) -> None:
        self._made += made
        self._more_made.set()
        self._more_made = trio.Event()


def closing_order(delivery: Delivery) -> tuple[Period, int]:
    return delivery.period, delivery.revision
