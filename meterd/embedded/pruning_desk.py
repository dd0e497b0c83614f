"""The part of the engine that deletes events whose time is over."""

from __future__ import annotations

from math import inf

from meterd.embedded import journal, pruning
from meterd.embedded.void_desk import VoidDesk


class PruningDesk(VoidDesk):
    """See ``forgetting.Forgetting``."""

    async def prune_events(self, *, before_ms: int, ended_ms: int) -> int:
        """See ``Forgetting.prune_events``."""
        self._require_disk()
        if self._posting.may_lack(before_ms):  # late, and not among what is to be revised yet
            await self._posting.post_all()
        # Whoever takes an event back reads its hour in several transactions.
        before_ms = min([before_ms, *self._held_ms])
        self._held_since_ms = inf
        parts = self._store.parts
        found = await self._read(
            lambda txn: pruning.prunable(txn, parts, before_ms=before_ms, ended_ms=ended_ms)
        )
        # Of what was taken back meanwhile the void was not found, nor that it is to be revised.
        if not found.events or found.until_ms > self._held_since_ms:
            return 0
        self._pruned_until_ms = max(self._pruned_until_ms, found.until_ms)
        await self._committer.execute(lambda txn: pruning.prune(txn, found))
        return found.events

    async def pruned_until_ms(self) -> int:
        """See ``Forgetting.pruned_until_ms``."""
        return await self._read(lambda txn: journal.read_pruned(txn).until_ms)
