"""How far the store says it has come: what is posted, what is closed, and whether that can be.

Totals and each customer's index are written later than the log, customer by customer, so a store
that a daemon has open, or that a crash left behind, is right although they lag. What is certain:
everything up to the mark ``posted`` is in them, and everything of a closed period.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.event_ids import ID_BYTES
from meterd.domain.instants import format_instant
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded import journal, keys, log
from meterd.embedded.differences import Difference, at_key, period_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.embedded.transaction import Transaction

_NAMES: Final = {
    b"meta",
    keys.EVENTS,
    keys.FLOOR,
    keys.POSTED,
    *map(keys.closed_key, PeriodType),
}


class Marks(msgspec.Struct, frozen=True):
    """``closing`` is the one period of which some customers may be closed, and others not yet."""

    closed_until_ms: dict[PeriodType, int]
    closing: Period | None
    floor_ms: int
    posted: bytes
    last_id: bytes

    def must_be_closed(self, period: Period) -> bool:
        return period.end_ms <= self.closed_until_ms[period.type]

    def may_be_closed(self, period: Period) -> bool:
        return self.must_be_closed(period) or (
            period == self.closing and period.end_ms <= self.floor_ms
        )


def read_marks(txn: Transaction, parts: int) -> Marks:
    """As they stand."""
    last = log.last_stamp(txn)
    return Marks(
        {kind: journal.closed_until_ms(txn, kind) for kind in PeriodType},
        journal.next_to_close(txn, parts),
        journal.floor_ms(txn),
        journal.posted_through(txn),
        b"" if last is None else last.id(),
    )


def check_marks(txn: Transaction, marks: Marks) -> Iterator[Difference]:
    """What no store of any moment says."""
    for name, _ in txn.forward("meta", b"", b""):
        if name not in _NAMES:
            yield at_key("meta", name, "record", "there", "nothing of that name")
    posted, last = marks.posted, marks.last_id
    if posted > last or len(posted) not in {0, ID_BYTES}:
        yield Difference("meta", "posted", posted.hex(), f"an id up to {last.hex() or 'none'}")
    for kind, until_ms in marks.closed_until_ms.items():
        if until_ms and period_at(kind, until_ms).start_ms != until_ms:
            should = f"the end of a {kind} period"
            yield Difference("meta", f"closed:{kind}", format_instant(until_ms), should)
        if until_ms > marks.floor_ms:
            should = f"not before {format_instant(until_ms)}, when {kind} periods are closed"
            yield Difference("meta", "floor", format_instant(marks.floor_ms), should)


def check_closed(
    marks: Marks, period: Period, customer_id: str, *, closed: bool
) -> Iterator[Difference]:
    """Whether a customer's period may be as open or closed as it is."""
    stands = "closed" if closed else "open"
    if closed and not marks.may_be_closed(period):
        yield Difference("totals", "state", stands, "open", customer_id, period_name(period))
    if not closed and marks.must_be_closed(period):
        yield Difference("totals", "state", stands, "closed", customer_id, period_name(period))
