"""Mutants that delete what must stay."""

from __future__ import annotations

from typing import Any

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
def prunes_what_is_not_closed() -> None:
    """Only age counts."""
    patch(module("embedded.pruning"), "settled_until_ms", lambda txn, ended_ms: 1 << 60)


@mutant
def void_is_counted_from_what_is_left() -> None:
    """An hour of which some events are pruned is counted again from the others."""
    patch(module("embedded.voids"), "find_to_void", module("embedded.voids").find_event)
    patch(module("embedded.journal"), "require_events", lambda txn, period: None)
