"""Settles deliveries in groups: what ends while a group is being written goes in the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from meterd.domain.deliveries import Attempt, Delivery
    from meterd.domain.endpoint_states import Change
    from meterd.ledger import Ledger


class Group:
    """Deliveries that are settled in one transaction."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.attempts: list[Attempt] = []
        self.changes: list[tuple[str, Change]] = []
        self.settled = trio.Event()


class Settling:
    """Of one endpoint."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._next = Group()
        self._writing = trio.Lock()

    async def settle(
        self, delivery: Delivery, attempt: Attempt | None, change: Change | None
    ) -> Group | None:
        """Returns when it is settled: the group, to who was the first of it."""
        group = self._next
        group.deliveries.append(delivery)
        if attempt is not None:
            group.attempts.append(attempt)
        if change is not None:
            group.changes.append((delivery.endpoint_id, change))
        if len(group.deliveries) > 1:
            await group.settled.wait()
            return None
        async with self._writing:
            self._next = Group()
            await self._ledger.settle(group.deliveries, group.attempts, group.changes)
        group.settled.set()
        return group
