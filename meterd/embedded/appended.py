"""Events of one append as a check gathers them, by customer: a line of digests each."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd.domain.event_ids import Stamp
    from meterd.domain.events import UsageEvent
    from meterd.embedded.log import Block

# An event between its offset in its append and the id of its block.
Placed = tuple[int, "UsageEvent", bytes]


class Append:
    """See above; in the order of the log, those of one hour. ``void`` are the offsets of those that
    count no more, ``is_dated`` says that some tell when they happened.
    """

    __slots__ = ("by_customer", "id", "is_dated", "stamp", "void")

    def __init__(self, block: Block) -> None:
        """Of which this is a block."""
        begins_at = block.begins_at
        self.stamp: Stamp = block.stamp.later(-begins_at) if begins_at else block.stamp
        self.id = self.stamp.id() if begins_at else block.id
        self.by_customer: defaultdict[str, list[Placed]] = defaultdict(list)
        self.void: set[int] = set()
        self.is_dated = False

    def has(self, block: Block) -> bool:
        """Whether a block that comes behind those before is of it, too."""
        return block.begins_at > 0 and block.stamp.later(-block.begins_at) == self.stamp

    def add(self, events: Iterable[Placed]) -> None:
        """The next of them."""
        by_customer = self.by_customer
        for one in events:
            by_customer[one[1].customer_id].append(one)
