"""Mutants of what happens as time passes: periods that end, clocks that step, keys that wait."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from tests.system.torture.mutants import mutant, patch

if TYPE_CHECKING:
    from meterd.domain.aggregations import Aggregation
    from meterd.domain.periods import Period
    from meterd.ledger import Closed


@mutant
def closes_before_grace() -> None:
    """A period closes the moment that it ends."""
    from meterd.work.closer import Closer

    close_ended = Closer._close_ended

    async def close_at_once(self: Closer, grace_ms: int) -> Closed:
        return await close_ended(self, 0)

    patch(Closer, "_close_ended", close_at_once)


@mutant
def closed_twice() -> None:
    """That a customer's period is closed is not looked at, nor that a period is."""
    from meterd.domain.account import Account
    from meterd.embedded import journal

    close = Account.close

    def close_again(self: Account, period: Period, *rest: Any) -> Aggregation | None:
        totals = self._totals[period]
        self._totals[period] = msgspec.structs.replace(totals, closed=False)
        return close(self, period, *rest)

    patch(Account, "close", close_again)
    patch(journal, "write_closed", lambda txn, period: None)


@mutant
def lost_event_at_midnight() -> None:
    """A period closes without what came in its last moments and is not posted yet."""
    from meterd.embedded.posting import Posting

    patch(Posting, "earliest_ms", property(lambda self: inf))


@mutant
def clock_step_back_reopens() -> None:
    """Events are dated by the clock alone, whatever is closed already."""
    from meterd.embedded.engine import EmbeddedLedger

    patch(EmbeddedLedger, "_dated", lambda self, clock_ms: clock_ms)


@mutant
def floor_forgotten() -> None:
    """What is closed is not written down before it is closed: a crash forgets it."""
    from meterd.embedded import journal

    patch(journal, "write_floor", lambda txn, floor_ms: None)


@mutant
def only_what_is_new_is_sent() -> None:
    """What is due is looked for when something is made, and not when it comes due again."""
    from meterd.work import endpoint_worker

    wait = endpoint_worker.EndpointWorker._wait

    async def wait_for_new_ones(self: Any, made: int, wakes: Any) -> None:
        await wait(self, made, wakes._replace(at_ms=None) if wakes.on_new else wakes)

    patch(endpoint_worker.EndpointWorker, "_wait", wait_for_new_ones)


@mutant
def rules_of_the_start() -> None:
    """Periods close by the configuration that the daemon started with."""
    from meterd.work import closer

    rules_of, first = closer.rules_of, list[Any]()

    def rules_of_first(config: Any) -> Any:
        first.append(config)
        return rules_of(first[0])

    patch(closer, "rules_of", rules_of_first)


@mutant
def mark_overtakes_keys() -> None:
    """A start goes on behind events whose keys are not in the index."""
    from meterd.embedded.used_keys import UsedKeys

    patch(UsedKeys, "posted_through", lambda self, through: through)


@mutant
def late_events_are_never_published() -> None:
    """They are counted, and that their periods are to be revised is not written down."""
    from meterd.embedded import journal

    write_changes = journal.write_changes

    def write_the_rest(txn: Any, changes: Any, parts: int) -> None:
        changes = list(changes)
        for change in changes:
            change.late = {}
        write_changes(txn, changes, parts)

    patch(journal, "write_changes", write_the_rest)


@mutant
def late_events_stay_in_their_hour() -> None:
    """What the hour was handed up to does not get them."""
    from meterd.domain import hierarchy, tally

    count_late = tally.Tally._count_late

    def count_in_the_hour(self: Any, *arguments: Any) -> bool:
        patch(tally, "takers", lambda period: ())
        try:
            return count_late(self, *arguments)
        finally:
            patch(tally, "takers", hierarchy.takers)

    patch(tally.Tally, "_count_late", count_in_the_hour)


@mutant
def late_events_are_in_no_digest() -> None:
    """Whoever checks their hour's chain finds other events in the log."""
    from meterd.domain import digests, tally

    count_late = tally.Tally._count_late

    def count_without(self: Any, *arguments: Any) -> bool:
        patch(tally, "chained", lambda chain, *_: chain)
        try:
            return count_late(self, *arguments)
        finally:
            patch(tally, "chained", digests.chained)

    patch(tally.Tally, "_count_late", count_without)


@mutant
def void_keeps_the_minimum() -> None:
    """Count and sum are made right, as if that were all."""
    from meterd.domain import tally, voids

    make = voids.made_again

    def subtract(hour: Any, by_type: Any, *rest: Any) -> Any:
        before = rest[-1](hour).by_type
        kept = {
            name: msgspec.structs.replace(one, min=min(one.min, before[name].min))
            for name, one in by_type.items()
        }
        return make(hour, kept, *rest)

    patch(tally, "made_again", subtract)
