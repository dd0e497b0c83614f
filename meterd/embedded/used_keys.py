"""Idempotency keys: which are used, by the index in the store and by what is not in it yet.

An actor because keys come with every append and go to the index at their own pace. A key is durable
with its event, which has it in the log; the index is posted later, as totals are: most keys are
random, and each would touch a page of its own in every transaction. Until a key is in the index it
is here, and a start takes what a crash left from the log (``recovery``).

Asked and told by the engine only; bounded by ``WAITING_MAX``.
"""

from __future__ import annotations

from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

import trio

from meterd.domain.errors import OverloadedError
from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.embedded import journal
from meterd.embedded.mailbox import Bell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.embedded.committer import Committer
    from meterd.embedded.transaction import Transaction

# How long a pass takes over all keys that wait when it begins.
PASS_SECONDS: Final = 10.0
# In one transaction, 5 us each: as long as events wait for posted totals.
POSTED_AT_ONCE: Final = 256
# 250 bytes each. Passes are spread over their time up to so many, and in haste from there on.
WAITING_MANY: Final = 100_000
# Whoever comes with a key behind these must come again: 100 MB.
WAITING_MAX: Final = 400_000


class UsedKeys:
    """See above. Keys are those of ``keys.idempotency_key``, whose first byte is the part."""

    def __init__(self, committer: Committer, parts: int) -> None:
        self._committer = committer
        # By part, and in it in the order of their events.
        self._waiting: list[dict[bytes, bytes]] = [{} for _ in range(parts)]
        self._count = 0
        self._first_or_many = Bell()

    def __len__(self) -> int:
        """How many are not in the index on disk."""
        return self._count

    def require_room(self) -> None:
        """Raises OverloadedError where too many wait."""
        if self._count > WAITING_MAX:
            raise OverloadedError("too many idempotency keys are waiting to be written")

    def find(self, txn: Transaction, key: bytes) -> bytes | None:
        """The key's record: its event's id and fingerprint; None while it is not used."""
        return self._waiting[key[0]].get(key) or txn.get("idempotency_keys", key)

    def use(self, key: bytes, record: bytes) -> None:
        """The key's event has been sent to the committer. Keys come in the order of their ids."""
        self._waiting[key[0]][key] = record
        self._count += 1
        if self._count == 1 or self._count > WAITING_MANY:
            self._first_or_many.ring()

    def posted_through(self, through: bytes) -> bytes:
        """Up to which event, at most ``through``, all keys are in the index on disk."""
        oldest = min((next(iter(part.values())) for part in self._waiting if part), default=None)
        if oldest is None:
            return through
        # As the log has it: without the part, by which it would be greater than itself.
        event_id = stamp_of(oldest[:ID_BYTES]).id()
        if event_id > through:
            return through
        return (int.from_bytes(event_id, "big") - 1).to_bytes(ID_BYTES, "big")

    async def run(self) -> None:
        """Posts in passes until cancelled, while there is something to post."""
        while True:
            if not self._count:
                await self._first_or_many.wait()
                await self._pause_until(trio.current_time() + PASS_SECONDS)
            began_at, count, done = trio.current_time(), self._count, 0
            for some in self._in_order():
                await self._post(some)
                done += len(some)
                await self._pause_until(began_at + PASS_SECONDS * min(1.0, done / count))

    async def post_all(self) -> None:
        """Returns when all keys that waited are in the index, on disk."""
        for some in self._in_order():
            await self._post(some)

    def _in_order(self) -> Iterator[list[bytes]]:
        """What waits, in the order of keys, where neighbours share pages."""
        # Sorted when a part's turn comes.
        waiting = chain.from_iterable(sorted(part) for part in self._waiting)
        while some := list(islice(waiting, POSTED_AT_ONCE)):
            yield some

    async def _post(self, some: list[bytes]) -> None:
        """Those of them that still wait: another pass may have been faster."""
        waiting = ((key, self._waiting[key[0]].get(key)) for key in some)
        records = {key: record for key, record in waiting if record is not None}
        await self._committer.execute(partial(_write, records))
        for key in records:
            if self._waiting[key[0]].pop(key, None) is not None:
                self._count -= 1

    async def _pause_until(self, instant_s: float) -> None:
        """Or until there are many."""
        with trio.move_on_at(instant_s):
            while self._count <= WAITING_MANY:
                await self._first_or_many.wait()


def _write(records: dict[bytes, bytes], txn: Transaction) -> None:
    for key, record in records.items():
        journal.write_used_key(txn, key, record)
