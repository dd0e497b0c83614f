"""What an engine promises to whoever sees to it that what is over goes: keys, attempts, events.

Each of these methods goes on by a small portion, in one transaction: who calls it again and again
rests between, so that events never wait for long.
"""

from __future__ import annotations

from typing import Protocol


class Forgetting(Protocol):
    """Part of ``ledger.Ledger``."""

    async def forget_keys(self, *, before_ms: int) -> int:
        """Forgets the next keys of events received before that moment; how many events it went on
        by, 0 at the end. Who comes with such a key then is new.
        """

    async def prune_attempts(self, *, before_ms: int, bytes_max: int) -> int:
        """Forgets some attempts begun before then, and of a log that is too large the earliest; how
        many. 0 when there is nothing more to forget.
        """

    async def prune_events(self, *, before_ms: int, ended_ms: int) -> int:
        """Deletes the next events of the log, with what says that they are void; how many, 0 at the
        end.

        In the order of receipt, and none of these: what was received or happened in the hour of
        ``before_ms`` or later; what is in a period of any length that is not closed, ended after
        ``ended_ms`` or is to be revised; what has its idempotency key. All totals, aggregations and
        digests stay.
        """

    async def sweep_pruned(self) -> int:
        """Goes on letting go of what indexes still name of deleted events, where that is enough to
        be worth a look at all they hold; at how many places it looked, 0 at the end. Nobody is
        told of these events any more, swept or not.
        """

    async def pruned_until_ms(self) -> int:
        """All events are there that were received, or happened, from this moment on; 0 where none
        was ever deleted.
        """

    async def count_kept(self) -> int:
        """How many events are there: stored, and not deleted."""

    def last_before_start_ms(self) -> int:
        """When the last event came of those that were there when the engine started; 0 where there
        was none.
        """
