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
def prunes_before_it_is_revised() -> None:
    """What is late is not looked at."""
    pruning = module("embedded.pruning")
    settled_until_ms = pruning.settled_until_ms

    class NothingLate:
        def __init__(self, txn: Any) -> None:
            self._txn = txn

        def keys_forward(self, *_: Any) -> Any:
            return iter(())

        def __getattr__(self, name: str) -> Any:
            return getattr(self._txn, name)

    def settled(txn: Any, ended_ms: int) -> int:
        found: int = settled_until_ms(NothingLate(txn), ended_ms)
        return found

    patch(pruning, "settled_until_ms", settled)


@mutant
def void_is_counted_from_what_is_left() -> None:
    """An hour of which some events are pruned is counted again from the others."""
    patch(module("embedded.voids"), "find_to_void", module("embedded.voids").find_event)
    patch(module("embedded.journal"), "require_events", lambda txn, period: None)
