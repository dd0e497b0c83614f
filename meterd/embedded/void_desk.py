"""The part of the engine that takes events back.

The events of the hour are read again while others are counted. So the customer's actor is told
before, and has noted what came meanwhile when it decides (``domain.counting.Recounting``): nobody
waits, and all that a void changes is one change of one actor, in one transaction.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import msgspec
import trio

from meterd.domain.admission import Late
from meterd.domain.counting import both
from meterd.domain.errors import DiskFullError, PrunedError, UnavailableError
from meterd.domain.stored_events import Voided
from meterd.domain.voids import Void, VoidOutcome
from meterd.embedded import usage, voids
from meterd.embedded.aggregator import BeginRecount, EndRecount, VoidEvent
from meterd.embedded.mailbox import Reply
from meterd.embedded.usage_desk import UsageDesk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd.domain.periods import Period
    from meterd.domain.stored_events import StoredEvent
    from meterd.domain.totals import Totals
    from meterd.embedded.committer import Committer, Hop
    from meterd.embedded.store import Store

# Events read in one transaction of a reader: a tenth of a second.
READ_AT_ONCE: Final = 10_000
# Portions read at the same time: half of the readers, so that others find one.
VOIDS_READING: Final = 2


class VoidDesk(UsageDesk):
    """See ``ledger.Ledger``."""

    def __init__(
        self, store: Store, committer: Committer, clock_ms: Callable[[], int], read_hop: Hop
    ) -> None:
        super().__init__(store, committer, clock_ms, read_hop)
        # A customer's go one after another: two of one hour would each count the other's event
        # again. Each lock lives as long as somebody has it or waits for it.
        self._voiding: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._reading = trio.CapacityLimiter(VOIDS_READING)
        # When the hours began of which events are being taken back; the first of those of which
        # some were, or began to be, since it was last looked until when all is settled; and until
        # when events are deleted, or about to be. Each looks at the others with nothing in between.
        self._held_ms: list[int] = []
        self._held_since_ms: float = inf
        self._pruned_until_ms = 0

    @abstractmethod
    def _note_past(self) -> None:
        """There may be something to close, or to revise."""

    async def void(
        self, event_id: bytes, reason: str, *, late: Late = Late.REVISE
    ) -> Voided | None:
        """See ``Ledger.void``."""
        self._require_disk()
        stored = await self._find(event_id)
        if stored is None:
            return None
        customer_id = stored.event.customer_id
        async with self._voiding.setdefault(customer_id, trio.Lock()):
            self._require_disk()
            stored = await self._find(event_id)  # it may be void by now
            assert stored is not None, "an event is not in the log any more"
            if stored.void is not None:
                return Voided(VoidOutcome.VOID_BEFORE, stored)
            with self._hold(stored.hour):
                return await self._take_back(stored, reason, late)

    @contextmanager
    def _hold(self, hour: Period) -> Iterator[None]:
        """Of that hour no event is deleted meanwhile. Raises PrunedError where some are."""
        if hour.start_ms < self._pruned_until_ms:
            raise PrunedError(self._pruned_until_ms)
        self._held_ms.append(hour.start_ms)
        self._held_since_ms = min(self._held_since_ms, hour.start_ms)
        try:
            yield
        finally:
            self._held_ms.remove(hour.start_ms)

    async def _take_back(self, stored: StoredEvent, reason: str, late: Late) -> Voided:
        customer_id = stored.event.customer_id
        try:
            through = await self._begin(stored)
            recounted = await self._recount(stored, through)
        except BaseException:
            # Of whatever kind: the actor would go on noting what comes.
            self._registry.send(customer_id, EndRecount())
            raise
        voided = await self._decide(stored, reason, late, recounted)
        self._registry.retire([customer_id])
        return voided

    async def _find(self, event_id: bytes) -> StoredEvent | None:
        parts = self._store.parts
        return await self._read(lambda txn: voids.find_to_void(txn, parts, event_id))

    async def _begin(self, stored: StoredEvent) -> bytes:
        """What comes from now on is noted; returns through which event all is on disk."""
        through: list[bytes] = []
        reply = Reply(1, may_go=True)
        event = stored.event
        message = BeginRecount(stored.hour, event.event_type, through, reply)
        self._registry.send(event.customer_id, message)
        await reply.wait()
        if reply.is_given_up:
            raise DiskFullError("the disk is full: the event is as it was")
        return through[0]

    async def _recount(self, stored: StoredEvent, through: bytes) -> Totals | None:
        """What the events up to that one come to, of the hour and type of the event, without it."""
        counted: Totals | None = None
        before: bytes | None = usage.behind(through)
        while before is not None:
            read = partial(
                usage.read_others,
                parts=self._store.parts,
                one=stored,
                before=before,
                limit=READ_AT_ONCE,
            )
            async with self._reading:
                portion, before = await self._read(read)
            counted = both(counted, portion)
        return counted

    async def _decide(
        self, stored: StoredEvent, reason: str, late: Late, recounted: Totals | None
    ) -> Voided:
        now_ms = self.now_ms()
        decided: list[tuple[VoidOutcome, Void | None]] = []
        reply = Reply(1, may_go=True)
        message = VoidEvent(stored, Void(reason, now_ms), late, recounted, decided, reply)
        self._registry.send(stored.event.customer_id, message)
        await reply.wait()
        if reply.is_given_up:
            raise UnavailableError("the disk is full: the event may be void when it has room")
        ((outcome, void),) = decided
        if outcome is VoidOutcome.VOIDED and stored.hour.end_ms <= now_ms:
            self._note_past()
        return Voided(outcome, msgspec.structs.replace(stored, void=void))
