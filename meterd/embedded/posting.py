"""When what is in the log reaches totals and indexes.

Events are in the log when they are acknowledged. Their customers' totals are written in passes that
begin ``POST_SECONDS`` after each other, before that for whoever asks for a customer's events, when
a period closes, and at the end; keys at the pace of ``used_keys``. The mark on disk says up to
which event everything is written: a start goes on from there (``recovery``).
"""

from __future__ import annotations

from itertools import chain, islice
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from meterd.domain.event_ids import stamp_of
from meterd.embedded import journal
from meterd.embedded.aggregator import Post
from meterd.embedded.mailbox import Bell, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd.embedded.committer import Committer
    from meterd.embedded.registry import Registry
    from meterd.embedded.used_keys import UsedKeys

# Customers posted in one transaction, 0.05 ms each: while events wait for it, and in haste.
POSTED_AT_ONCE: Final = 32
POSTED_IN_HASTE: Final = 64
# How long a pass takes that posts everyone who was not at rest when it began. What a start after a
# crash must count again came in the last two of them, unless the machine cannot keep up.
POST_SECONDS: Final = 10.0
# What is left of the 10 s that a stop may take. A start counts what was not posted in time.
LAST_POSTING_S: Final = 1.0


class Posting:
    """Up to which event totals are on disk, and how they get there."""

    def __init__(self, committer: Committer, registry: Registry, used_keys: UsedKeys) -> None:
        self._committer = committer
        self._registry = registry
        self._used_keys = used_keys
        # Ids: of the last event sent, the last whose totals are on disk, the last with keys too.
        self._last = self._posted = self._marked = b""
        self._unposted = Bell()
        self._posted_count = 0  # of the events that the committer has recorded

    def begin(self, last: bytes) -> None:
        """Everything up to that event is posted."""
        self._last = self._posted = self._marked = last

    @property
    def backlog(self) -> int:
        """How many events are not in their totals on disk yet, and perhaps a few that are."""
        return self._committer.recorded - self._posted_count

    def sent(self, last: bytes) -> None:
        """Events up to that one have been sent to be counted."""
        self._last = last
        self._unposted.ring()

    async def run(self) -> None:
        """In passes until cancelled, while there is something to post."""
        while True:
            if self._marked == self._last:
                await self._unposted.wait()
                await trio.sleep(POST_SECONDS)
            ends_at = trio.current_time() + POST_SECONDS
            await self.post_all(POSTED_AT_ONCE, ends_at)
            await trio.sleep_until(ends_at)

    async def finish(self) -> None:
        """All that can be done in the time that a stop has, so that the next start has less."""
        with trio.move_on_after(LAST_POSTING_S):
            await self._used_keys.post_all()
            await self.post_all()

    async def post_all(self, at_once: int = POSTED_IN_HASTE, ends_at: float = -inf) -> None:
        """Returns when all events sent by now are in their totals and indexes, on disk.

        Spread over the time until ``ends_at``, so that others never wait for long.
        """
        through, count = self._last, self._committer.recorded
        if through > self._posted:
            await self._post_restless(at_once, ends_at)
            # Another pass may have overtaken this one.
            self._posted = max(self._posted, through)
            self._posted_count = max(self._posted_count, count)
        marked = self._used_keys.posted_through(self._posted)
        if marked > self._marked:
            await self._committer.execute(lambda txn: journal.write_posted(txn, marked))
            self._marked = max(self._marked, marked)

    async def post_customers(self, customer_ids: Iterable[str], *, may_go: bool = False) -> None:
        """Returns when what was sent of theirs is in totals and indexes; or, if they may go, when
        the disk is full.
        """
        restless = [one for one in customer_ids if not self._registry.at_rest(one)]
        reply = Reply(len(restless), may_go=may_go)
        for customer_id in restless:
            self._registry.send(customer_id, Post(reply))
        await reply.wait()

    def may_lack(self, before_ms: int) -> bool:
        """Whether an event that was received before that moment may not be in its totals on disk.

        Events are received in the order of their ids, so none is of before the last one posted.
        """
        return self._posted != self._last and stamp_of(self._posted).received_ms < before_ms

    async def _post_restless(self, at_once: int, ends_at: float) -> None:
        began_at = trio.current_time()
        by_part = await self._registry.restless()
        count = sum(map(len, by_part))
        # In the order of keys, where neighbours share pages; sorted when a part's turn comes.
        restless = chain.from_iterable(sorted(part) for part in by_part)
        for done in range(0, count, at_once):
            await self.post_customers(list(islice(restless, at_once)))
            share = min(1.0, (done + at_once) / count)
            await trio.sleep_until(began_at + (ends_at - began_at) * share)
