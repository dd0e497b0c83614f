"""Whether the log is as ``log.write_receipts`` writes it: records, blocks and appends, one behind
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.domain.event_ids import stamp_of
from meterd.domain.receipts import BLOCK_EVENTS
from meterd.embedded.differences import at_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd.domain.event_ids import Stamp
    from meterd.embedded.differences import Difference
    from meterd.embedded.log import Block


class LogShape:
    """Asked for each record, in order; ``pruned`` is the last event that is gone, if one is."""

    def __init__(self, pruned: bytes) -> None:
        self._last = pruned
        # Where the append of the last block goes on, if it does; unknown of one that is half gone.
        self._rest: tuple[Stamp, int] | None = None
        self._is_known = not pruned

    @classmethod
    def behind(cls, blocks: Sequence[Block]) -> LogShape:
        """For the records behind one that has these, whatever that is like."""
        made = cls(blocks[0].id if blocks else b"")
        for block in blocks:
            made._go_on(block)
        return made

    def of_record(self, record_id: bytes, blocks: Sequence[Block]) -> Iterator[Difference]:
        """What is not as it should be."""
        first = stamp_of(record_id)
        if record_id <= self._last:
            yield at_key("events", record_id, "record", "there", f"behind {self._last.hex()}")
        if first.id() != record_id or not blocks or blocks[0].stamp != first:
            yield at_key(
                "events", record_id, "record", "named otherwise", "named by its first event"
            )
        self._last = record_id
        for number, block in enumerate(blocks):
            count = len(block.events)
            if not 0 < count <= BLOCK_EVENTS:
                should = f"1 to {BLOCK_EVENTS}"
                yield at_key("events", record_id, "events of a block", str(count), should)
            if number and block.id <= self._last:
                should = "one behind another"
                yield at_key("events", record_id, "blocks", "one within another", should)
            goes_on = block.stamp, block.begins_at
            if block.begins_at and self._is_known and goes_on != self._rest:
                should = "behind the block before it in its append"
                yield at_key("events", record_id, "a block", f"at {block.begins_at}", should)
            elif block.begins_at % BLOCK_EVENTS:
                should = f"at a multiple of {BLOCK_EVENTS}"
                yield at_key("events", record_id, "a block", f"at {block.begins_at}", should)
            self._go_on(block)

    def _go_on(self, block: Block) -> None:
        self._is_known = True
        count = len(block.events)
        self._rest = block.stamp.later(count), block.begins_at + count
        self._last = block.stamp.id(max(0, count - 1))
