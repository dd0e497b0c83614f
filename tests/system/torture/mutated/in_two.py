"""Mutants that write in two transactions what must be in one, or later than they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.system.torture.mutants import module, mutant, patch

if TYPE_CHECKING:
    from collections.abc import Callable


@mutant
def void_without_its_totals() -> None:
    """An event is void on disk in front of the totals that it does not count in any more."""
    records = module("embedded.records")

    def write_voids(txn: Any, changes: Any) -> None:
        for change in changes:
            for event_id, void in change.voids.items():
                txn.put("voids", event_id, records.encode(void))

    _write_first(lambda change: change.voids, write_voids)


@mutant
def revision_behind_its_mark() -> None:
    """That a period is to be revised is forgotten in front of the revision."""
    keys = module("embedded.keys")

    def forget(txn: Any, changes: Any) -> None:
        for change in changes:
            part = keys.part_of(change.customer_id, module("embedded.store").PARTS)
            for period, since_ms in change.revised.items():
                txn.delete("late", keys.late_key(since_ms, part, period, change.customer_id))

    _write_first(lambda change: change.revised, forget)


@mutant
def void_is_answered_before_commit() -> None:
    """Who takes an event back is answered when that is decided; it is written when it is posted."""
    aggregator = module("embedded.aggregator")
    decide = aggregator.Aggregator._decide

    def decide_and_answer(self: Any, message: Any) -> Any:
        reply = decide(self, message)
        if isinstance(message, aggregator.VoidEvent):
            self._is_posted = False
            reply.durable()
            return None
        return reply

    patch(aggregator.Aggregator, "_decide", decide_and_answer)


def _write_first(concerns: Callable[[Any], Any], work: Callable[[Any, Any], None]) -> None:
    """Does that in a transaction of its own, in front of one with changes that it concerns."""
    committer = module("embedded.committer").Committer
    wait = committer._write_when_there_is_room

    async def in_two(self: Any, write: Any, replies: Any) -> None:
        _, changes, _ = write.args
        if any(map(concerns, changes)):
            await wait(self, lambda txn: work(txn, changes), [])
        await wait(self, write, replies)

    patch(committer, "_write_when_there_is_room", in_two)
