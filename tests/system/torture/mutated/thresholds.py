"""Mutants of thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.system.torture.mutants import mutant, patch

if TYPE_CHECKING:
    from meterd.domain.thresholds import Reached


@mutant
def thresholds_are_told_behind_their_record() -> None:
    """What was reached is written first, and its deliveries in another transaction."""
    from meterd.embedded import outbox
    from meterd.embedded.threshold_desk import ThresholdDesk

    tell = ThresholdDesk.tell
    add = outbox.add

    async def in_two(self: Any, *asked: Any) -> list[Reached]:
        late: list[Any] = []
        patch(outbox, "add", lambda _, made: late.append(made))
        try:
            new = await tell(self, *asked)
        finally:
            patch(outbox, "add", add)
        await self._committer.execute(lambda txn: [add(txn, made) for made in late])
        return new

    patch(ThresholdDesk, "tell", in_two)


@mutant
def thresholds_wait_for_aggregations() -> None:
    """They stand in the line of their customer's aggregations."""
    from meterd.embedded import keys

    patch(keys, "outbox_thresholds_prefix", keys.outbox_customer_prefix)


@mutant
def a_start_looks_at_what_closed_last() -> None:
    """What a process before closed and did not look at is not written down."""
    from meterd.embedded import journal

    patch(journal, "write_unseen", lambda txn, since_ms: None)


@mutant
def thresholds_of_before_the_start_are_forgotten() -> None:
    """A start watches what changes from then on, and looks at nobody else."""
    from meterd.work.threshold_watcher import ThresholdWatcher

    async def look_at_none(self: Any, *asked: Any) -> None:
        """Whoever was posted by the start is not told."""

    patch(ThresholdWatcher, "_look_at_all", look_at_none)
