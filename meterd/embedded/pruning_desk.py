"""The part of the engine that deletes events whose time is over."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

from meterd.embedded import journal, log, pruning, sweeping
from meterd.embedded.void_desk import VoidDesk

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.embedded.committer import Committer, Hop
    from meterd.embedded.store import Store
    from meterd.embedded.sweeping import Round


class PruningDesk(VoidDesk):
    """See ``forgetting.Forgetting``."""

    def __init__(
        self, store: Store, committer: Committer, clock_ms: Callable[[], int], read_hop: Hop
    ) -> None:
        super().__init__(store, committer, clock_ms, read_hop)
        # Of a run of portions that were asked for alike: by what, and until when all is settled.
        self._settled: tuple[int, int] | None = None
        self._round: Round | None = None

    async def prune_events(self, *, before_ms: int, ended_ms: int) -> int:
        """See ``Forgetting.prune_events``."""
        self._require_disk()
        pruned = await self._prune_some(before_ms, ended_ms)
        if not pruned:
            self._settled = None
        return pruned

    async def _prune_some(self, before_ms: int, ended_ms: int) -> int:
        if self._posting.may_lack(before_ms):  # late, and not among what is to be revised yet
            await self._posting.post_all()
            self._settled = None
        # Whoever takes an event back reads its hour in several transactions, and has its periods
        # revised then.
        before_ms = min([before_ms, *self._held_ms])
        settled_ms = await self._settled_until_ms(ended_ms)
        found = await self._read(lambda txn: pruning.prunable(txn, min(before_ms, settled_ms)))
        # Of what was taken back meanwhile neither the void was seen nor what is to be revised.
        if not found.events or found.until_ms > self._held_since_ms:
            return 0
        self._pruned_until_ms = max(self._pruned_until_ms, found.until_ms)
        await self._committer.execute(lambda txn: pruning.prune(txn, found))
        return found.events

    async def _settled_until_ms(self, ended_ms: int) -> int:
        if self._settled is None or self._settled[0] != ended_ms:
            self._held_since_ms = min(self._held_ms, default=inf)
            until_ms = await self._read(lambda txn: pruning.closed_until_ms(txn, ended_ms))
            start: bytes | None = b""
            while start is not None:
                look = partial(pruning.first_to_revise, start=start)
                first_ms, start = await self._read(look)
                until_ms = int(min(until_ms, first_ms))
            self._settled = ended_ms, until_ms
        return self._settled[1]

    async def sweep_pruned(self) -> int:
        """See ``Forgetting.sweep_pruned``."""
        self._require_disk()
        going = self._round or await self._read(sweeping.next_round)
        if going is None:
            return 0
        found = await self._read(lambda txn: sweeping.sweepable(txn, going))
        if found.dropped or found.next.is_over:
            await self._committer.execute(lambda txn: sweeping.sweep(txn, found))
        self._round = None if found.next.is_over else found.next
        return 1 + found.looked

    async def pruned_until_ms(self) -> int:
        """See ``Forgetting.pruned_until_ms``."""
        return await self._read(lambda txn: journal.read_pruned(txn).until_ms)

    async def count_kept(self) -> int:
        """See ``Forgetting.count_kept``."""
        return await self._read(lambda txn: log.count_events(txn) - journal.read_pruned(txn).events)
