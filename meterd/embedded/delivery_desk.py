"""The part of the engine that gives deliveries out, looks into them and has them sent again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from meterd.domain.endpoint_states import EndpointState
from meterd.domain.endpoints import ENDPOINT_ID_MAX
from meterd.domain.errors import DiskFullError
from meterd.embedded import attempt_log, delivery_queries, keys, outbox, replaying
from meterd.ledger import Claim

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meterd.domain.deliveries import Attempt, Delivery
    from meterd.domain.endpoint_states import Change
    from meterd.embedded.committer import Committer, Hop
    from meterd.embedded.store import Store
    from meterd.embedded.transaction import Transaction
    from meterd.ledger import (
        AggregationPlace,
        DeliveryHistory,
        DeliveryPlace,
        DeliveryQuery,
        EndpointSummary,
        Replay,
        Replayed,
    )

# Attempts forgotten in one transaction.
ATTEMPTS_AT_ONCE: Final = 500

T = TypeVar("T")


class DeliveryDesk(ABC):
    """See ``ledger.Ledger``."""

    def __init__(
        self, store: Store, committer: Committer, clock_ms: Callable[[], int], read_hop: Hop
    ) -> None:
        self._store = store
        self._committer = committer
        self._clock_ms = clock_ms
        self._read_hop = read_hop

    @abstractmethod
    def now_ms(self) -> int:
        """When something is made: perhaps later than it is."""

    async def deliveries(
        self, query: DeliveryQuery, *, limit: int, after: DeliveryPlace | None = None
    ) -> list[Delivery]:
        """See ``Ledger.deliveries``."""
        parts = self._store.parts
        return await self._read(
            lambda txn: delivery_queries.read_deliveries(txn, parts, query, limit, after)
        )

    async def deliveries_page_end(
        self, query: DeliveryQuery, *, limit: int, after: DeliveryPlace | None = None
    ) -> DeliveryPlace | None:
        """See ``Ledger.deliveries_page_end``."""
        parts = self._store.parts
        return await self._read(
            lambda txn: delivery_queries.deliveries_page_end(txn, parts, query, limit, after)
        )

    async def delivery(self, delivery_id: str, *, skip: int = 0) -> DeliveryHistory | None:
        """See ``Ledger.delivery``."""
        return await self._read(lambda txn: delivery_queries.read_history(txn, delivery_id, skip))

    async def endpoints(self) -> list[EndpointSummary]:
        """See ``Ledger.endpoints``."""
        return await self._read(delivery_queries.read_endpoints)

    async def claim(
        self,
        endpoint_id: str,
        *,
        limit: int,
        batch: int = 1,
        url: str = "",
        repeats_max: int | None = None,
    ) -> Claim:
        """See ``Ledger.claim``."""
        with self._store.read() as txn:
            now_ms, with_repeats = self._clock_ms(), repeats_max != 0
            due_ms = outbox.next_due_ms(
                txn, endpoint_id, url, with_repeats=with_repeats, now_ms=now_ms
            )
        if due_ms is None or due_ms > now_ms:
            return Claim([], due_ms)
        # The attempt begins when it is written, which a full disk may put off.
        return await self._committer.execute(
            lambda txn: outbox.claim(
                txn, endpoint_id, limit, self._clock_ms(), batch, url, repeats_max
            )
        )

    async def retry(self, delivery_id: str) -> Delivery | None:
        """See ``Ledger.retry``."""
        self._require_disk()
        now_ms = self._clock_ms()

        def send_again(txn: Transaction) -> Delivery | None:
            delivery = outbox.find(txn, delivery_id)
            return None if delivery is None else outbox.send_again(txn, delivery, now_ms)

        return await self._committer.execute(
            send_again, made=lambda again: 0 if again is None else 1, may_go=True
        )

    async def replay(
        self,
        replay: Replay,
        *,
        limit: int,
        after: AggregationPlace | None = None,
        dry_run: bool = False,
    ) -> Replayed:
        """See ``Ledger.replay``."""
        parts, now_ms = self._store.parts, self.now_ms()
        if dry_run:
            return await self._read(
                lambda txn: replaying.count(txn, parts, replay, after, limit, now_ms)
            )
        self._require_disk()
        due_ms = self._clock_ms()
        return await self._committer.execute(
            lambda txn: replaying.run(txn, parts, replay, after, limit, now_ms, due_ms),
            made=lambda done: done.again + done.created,
            may_go=True,
        )

    @property
    def is_full(self) -> bool:
        """Whether a transaction waits for room on the disk, and nothing is taken in meanwhile."""
        return self._committer.is_full

    async def wait_full(self) -> None:
        """See ``Ledger.wait_full``."""
        await self._committer.wait_full()

    def deliveries_made(self) -> int:
        """See ``Ledger.deliveries_made``."""
        return self._committer.deliveries_made

    async def wait_deliveries_made(self, beyond: int) -> None:
        """See ``Ledger.wait_deliveries_made``."""
        await self._committer.wait_deliveries_made(beyond)

    def _require_disk(self) -> None:
        if self._committer.is_full:
            raise DiskFullError("the disk is full")

    def _read(self, work: Callable[[Transaction], T]) -> Awaitable[T]:
        def in_snapshot() -> T:
            with self._store.read() as txn:
                return work(txn)

        return self._read_hop(in_snapshot)

    async def settle(
        self,
        deliveries: Sequence[Delivery],
        attempts: Sequence[Attempt] = (),
        changes: Sequence[tuple[str, Change]] = (),
    ) -> None:
        """See ``Ledger.settle``."""
        for some, theirs in outbox.in_portions(deliveries, attempts):
            settled = partial(outbox.settle, deliveries=some, attempts=theirs, changes=changes)
            await self._committer.execute(settled)

    async def prune_attempts(self, *, before_ms: int, bytes_max: int) -> int:
        """See ``Ledger.prune_attempts``."""
        with self._store.read() as txn:
            if not attempt_log.has_to_forget(txn, before_ms=before_ms, bytes_max=bytes_max):
                return 0
        return await self._committer.execute(
            lambda txn: attempt_log.prune(
                txn, before_ms=before_ms, bytes_max=bytes_max, limit=ATTEMPTS_AT_ONCE
            )
        )

    async def endpoint_state(self, endpoint_id: str) -> EndpointState:
        """See ``Ledger.endpoint_state``."""
        if not keys.may_be_stored(endpoint_id, ENDPOINT_ID_MAX):
            return EndpointState()
        return await self._read(lambda txn: outbox.endpoint_state(txn, endpoint_id))

    async def change_endpoint(self, endpoint_id: str, change: Change) -> None:
        """See ``Ledger.change_endpoint``."""
        self._require_disk()
        await self._committer.execute(
            lambda txn: outbox.change_endpoint(txn, endpoint_id, change), may_go=True
        )
