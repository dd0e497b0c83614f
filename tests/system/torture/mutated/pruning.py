"""Mutants that delete what must stay."""

from __future__ import annotations

from typing import Any

import trio

from tests.system.torture.mutants import module, mutant, patch


@mutant
def prunes_a_record_too_many() -> None:
    """The record of the log behind the mark goes, too, unless it is the last."""
    pruning = module("embedded.pruning")
    prune = pruning.prune

    def prune_more(txn: Any, found: Any) -> None:
        prune(txn, found)
        left = list(txn.keys_forward("events", b"", b""))
        if len(left) > 1:
            txn.delete("events", left[0])

    patch(pruning, "prune", prune_more)


@mutant
def prunes_in_front_of_its_mark() -> None:
    """That events are gone is written a moment behind the transaction that deletes."""
    desk, pruning = module("embedded.pruning_desk"), module("embedded.pruning")
    prune_some, prune, journal = desk.PruningDesk._prune_some, pruning.prune, pruning.journal
    marks: list[Any] = []

    def prune_only(txn: Any, found: Any) -> None:
        write_pruned = journal.write_pruned
        journal.write_pruned = lambda _, mark: marks.append(mark)
        try:
            prune(txn, found)
        finally:
            journal.write_pruned = write_pruned

    async def prune_and_mark(self: Any, before_ms: int, ended_ms: int) -> Any:
        pruned = await prune_some(self, before_ms, ended_ms)
        while marks:
            await trio.sleep(0.2)
            mark = marks.pop()
            await self._committer.execute(lambda txn, mark=mark: journal.write_pruned(txn, mark))
        return pruned

    patch(pruning, "prune", prune_only)
    patch(desk.PruningDesk, "_prune_some", prune_and_mark)


@mutant
def prunes_what_is_not_closed() -> None:
    """Only age counts."""
    patch(module("embedded.pruning"), "closed_until_ms", lambda txn, ended_ms: 1 << 60)


@mutant
def void_is_counted_from_what_is_left() -> None:
    """An hour of which some events are pruned is counted again from the others."""
    patch(module("embedded.voids"), "find_to_void", module("embedded.voids").find_event)
    patch(module("embedded.journal"), "require_events", lambda txn, period: None)
