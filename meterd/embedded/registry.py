"""Who is awake: wakes a customer's aggregator at its first message, retires it when it is idle.

The only place that makes aggregators and the only one that speaks to them. Memory follows the
customers that are active, not those that are known.
"""

from __future__ import annotations

import gc
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from meterd.domain.account import Account
from meterd.domain.errors import OverloadedError
from meterd.embedded.aggregator import Aggregator
from meterd.embedded.keys import part_of
from meterd.embedded.mailbox import Bell

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from meterd.embedded.aggregator import Message
    from meterd.embedded.committer import Committer
    from meterd.embedded.store import Store

# An aggregator that got no event between two sweeps retires: after 30 to 60 seconds.
SWEEP_SECONDS: Final = 30.0
# About 4 kB each with five event types: bounds what aggregators take at 0.8 GB.
ACTIVE_MAX: Final = 200_000
# A sweep of so many takes 50 ms: whoever finds no room sweeps for it only so often.
ROOM_SECONDS: Final = 2.0
# Worth the 20 ms of a full collection.
_MANY: Final = 10_000
# Under a millisecond.
_LOOKED_AT_ONCE: Final = 1_000


class Registry:
    """The aggregators that are awake, by customer."""

    def __init__(self, store: Store, committer: Committer) -> None:
        self._store = store
        self._committer = committer
        self._awake: dict[str, Aggregator] = {}
        self._somebody = Bell()
        self._swept_at = -inf

    def __len__(self) -> int:
        return len(self._awake)

    async def run(self) -> None:
        """Sweeps until cancelled, while anybody is awake."""
        while True:
            if not self._awake:
                await self._somebody.wait()
            await trio.sleep(SWEEP_SECONDS)
            self.sweep()
            self._store.forget_dead_readers()

    def require_room(self, customer_ids: Collection[str]) -> None:
        """Raises OverloadedError unless all of these customers can be awake at once."""
        if len(self._awake) + len(customer_ids) <= ACTIVE_MAX:
            return
        asleep = [customer_id for customer_id in customer_ids if customer_id not in self._awake]
        if len(self._awake) + len(asleep) > ACTIVE_MAX:
            if trio.current_time() >= self._swept_at + ROOM_SECONDS:
                self.sweep()
            if len(self._awake) + len(asleep) > ACTIVE_MAX:
                raise OverloadedError("too many customers are active at once")

    def send(self, customer_id: str, message: Message) -> None:
        """Puts the message into the customer's mailbox, waking its aggregator first if need be."""
        aggregator = self._awake.get(customer_id)
        if aggregator is None:
            aggregator = self._wake(customer_id)
        aggregator.send(message)

    def at_rest(self, customer_id: str) -> bool:
        """Whether all that was sent for this customer is in its totals on disk."""
        aggregator = self._awake.get(customer_id)
        return aggregator is None or aggregator.at_rest

    async def restless(self) -> list[list[str]]:
        """Those not at rest when this is called, for each part; others may be among them."""
        found: list[list[str]] = [[] for _ in range(self._store.parts)]
        for number, (customer_id, aggregator) in enumerate(list(self._awake.items())):
            if not aggregator.at_rest:
                found[aggregator.part].append(customer_id)
            if number % _LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return found

    def retire(self, customer_ids: Iterable[str]) -> None:
        """Retires those of them that got no event: they were woken for a period's end only."""
        for customer_id in customer_ids:
            aggregator = self._awake.get(customer_id)
            if aggregator is not None and not aggregator.is_used and aggregator.at_rest:
                del self._awake[customer_id]

    def sweep(self) -> None:
        """Retires everyone at rest who got no event since the last sweep."""
        self._swept_at = trio.current_time()
        before = len(self._awake)
        for customer_id, aggregator in list(self._awake.items()):
            if aggregator.is_used:
                aggregator.is_used = False
            elif aggregator.at_rest:
                del self._awake[customer_id]
        if before - len(self._awake) >= _MANY:
            # Tuples that Python keeps for reuse hold whole arenas of freed memory; this frees them.
            gc.collect()

    def _wake(self, customer_id: str) -> Aggregator:
        part = part_of(customer_id, self._store.parts)
        aggregator = Aggregator(part, Account(customer_id), self._store, self._committer)
        self._awake[customer_id] = aggregator
        self._somebody.ring()
        return aggregator
