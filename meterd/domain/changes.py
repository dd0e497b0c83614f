"""What one customer's decisions change on disk."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from meterd.domain.aggregations import Aggregation
from meterd.domain.deliveries import Delivery
from meterd.domain.periods import Period, PeriodType
from meterd.domain.totals import PeriodTotals
from meterd.domain.voids import Void

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.domain.receipts import Receipt

_Key = TypeVar("_Key", bound=Hashable)


class Change(msgspec.Struct, gc=False):
    """What one customer's decisions change on disk: all of it together, or nothing.

    ``blocks`` has the ids of those that hold events counted, one behind another, by event type, and
    ``dated_blocks``, by hour as well, of those with events of another hour than that of receipt.
    ``first_received_ms`` is when the first of them came, where the customer may be new: these are
    its first events in an hour. ``late`` are periods that are to be revised, by when the first
    event came that their aggregations lack, ``revised`` those that are, by when that was.
    ``superseded`` are the aggregations that revisions take the place of, ``published`` the digest
    of what was published last of a type of period, ``voids`` the events that are taken back, by id.
    """

    customer_id: str
    first_received_ms: int | None = None
    blocks: dict[str, bytearray] = {}
    dated_blocks: dict[tuple[Period, str], bytearray] = {}
    totals: dict[Period, PeriodTotals] = {}
    late: dict[Period, int] = {}
    revised: dict[Period, int] = {}
    aggregations: dict[Period, Aggregation] = {}
    superseded: tuple[Aggregation, ...] = ()
    # Whose snapshot is all there was to publish, and is not any more.
    withdrawn: tuple[Period, ...] = ()
    published: dict[PeriodType, bytes] = {}
    voids: dict[bytes, Void] = {}
    deliveries: tuple[Delivery, ...] = ()

    def note_blocks(self, receipt: Receipt, by_type: Mapping[str, Sequence[int]]) -> None:
        """The receipt's events at these offsets are counted."""
        for event_type, offsets in by_type.items():
            _add(self.blocks, event_type, receipt.block_ids(offsets))

    def note_dated_blocks(
        self, hour: Period, receipt: Receipt, by_type: Mapping[str, Sequence[int]]
    ) -> None:
        """They are counted in that hour, which is not the receipt's."""
        for event_type, offsets in by_type.items():
            _add(self.dated_blocks, (hour, event_type), receipt.block_ids(offsets))


def _add(blocks: dict[_Key, bytearray], key: _Key, ids: bytes) -> None:
    found = blocks.get(key)
    if found is None:
        blocks[key] = bytearray(ids)
    else:
        found += ids
