"""How far the store says it has come: what is posted, what is closed, and whether that can be.

Totals and each customer's index are written later than the log, customer by customer, so a store
that a daemon has open, or that a crash left behind, is right although they lag. What is certain:
everything up to the mark ``posted`` is in them, and everything of a closed period.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.errors import CorruptRecordError
from meterd.domain.event_ids import ID_BYTES, stamp_of
from meterd.domain.instants import format_instant
from meterd.domain.periods import HOUR_MS, Period, PeriodType, period_at
from meterd.domain.plurals import number_of
from meterd.embedded import journal, keys, log, records
from meterd.embedded.differences import MISTAKES, NO_INSTANT, Difference, at_key, period_name
from meterd.embedded.records import Pruned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.embedded.transaction import Transaction

_NAMES: Final = {
    b"meta",
    keys.EVENTS,
    keys.FLOOR,
    keys.POSTED,
    keys.FORGOTTEN,
    keys.PRUNED,
    keys.UNSEEN,
    *map(keys.closed_key, PeriodType),
}

_ANY_ID: Final = b"\xff" * ID_BYTES


class Marks(msgspec.Struct, frozen=True):
    """``floor_ms`` is when the period ended that was the last to be closed: some customers may be
    closed in it, and others not yet.

    A mark that cannot be read is among the ``faults``, and nothing is held against it.
    """

    closed_until_ms: dict[PeriodType, int]
    floor_ms: int | None
    posted: bytes
    last_id: bytes
    forgotten: bytes = b""
    pruned: Pruned = Pruned()
    unseen_ms: dict[PeriodType, int] = {}
    faults: tuple[Difference, ...] = ()

    def must_be_closed(self, period: Period) -> bool:
        return period.end_ms <= self.closed_until_ms.get(period.type, 0)

    def may_lack_events(self, hour: Period) -> bool:
        """Whether some of those that were counted in the hour may be pruned."""
        return hour.start_ms < self.pruned.until_ms

    def may_be_closed(self, period: Period) -> bool:
        if period.type not in self.closed_until_ms or self.must_be_closed(period):
            return True
        return self.floor_ms is None or period.end_ms <= self.floor_ms


def read_marks(txn: Transaction) -> Marks:
    """As they stand, each by itself."""
    faults: list[Difference] = []

    def instant(key: bytes) -> int | None:
        payload = txn.get("meta", key)
        if payload is None:
            return 0
        try:
            return _instant(payload)
        except NO_INSTANT:
            faults.append(at_key("meta", key, "record", payload.hex(), "an instant"))
            return None

    closed = {kind: instant(keys.closed_key(kind)) for kind in PeriodType}
    known = {kind: until_ms for kind, until_ms in closed.items() if until_ms is not None}
    floor_ms = instant(keys.FLOOR)

    def event_id(key: bytes, found: bytes) -> bytes:
        if len(found) in {0, ID_BYTES}:
            return found
        faults.append(at_key("meta", key, "record", found.hex(), "an id"))
        return b""

    posted = event_id(keys.POSTED, journal.posted_through(txn))
    forgotten = event_id(keys.FORGOTTEN, journal.forgotten_through(txn))
    pruned = _pruned(txn, faults)
    unseen_ms = _unseen(txn, faults)
    last_id = _last_id(txn, faults)
    return Marks(known, floor_ms, posted, last_id, forgotten, pruned, unseen_ms, tuple(faults))


def _instant(payload: bytes) -> int:
    """Raises one of NO_INSTANT."""
    found = records.read_number(payload)
    if len(payload) != records.NUMBER_BYTES:
        raise ValueError
    for kind in PeriodType:
        period_at(kind, found)
    return found


def _pruned(txn: Transaction, faults: list[Difference]) -> Pruned:
    try:
        pruned = journal.read_pruned(txn)
        if pruned.events:
            stamp_of(pruned.through), period_at(PeriodType.YEARLY, pruned.until_ms)
    except MISTAKES:
        stands = (txn.get("meta", keys.PRUNED) or b"").hex()
        faults.append(
            at_key("meta", keys.PRUNED, "record", stands, "an event, an instant, a count")
        )
        return Pruned()
    return pruned


def _unseen(txn: Transaction, faults: list[Difference]) -> dict[PeriodType, int]:
    try:
        unseen_ms = journal.read_unseen(txn) or {}
        for kind, until_ms in unseen_ms.items():
            period_at(kind, until_ms)
    except MISTAKES:
        stands = (txn.get("meta", keys.UNSEEN) or b"").hex()
        faults.append(at_key("meta", keys.UNSEEN, "record", stands, "instants by period"))
        return {}
    return unseen_ms


def _last_id(txn: Transaction, faults: list[Difference]) -> bytes:
    """Of the last event; where that cannot be told, as great as any."""
    try:
        last = log.last_stamp(txn)
        return b"" if last is None else last.id()
    except CorruptRecordError:  # which was said of the record
        return _ANY_ID
    except MISTAKES as fault:
        faults.append(Difference("events", "the last record", f"cannot be read ({fault})", ""))
        return _ANY_ID


def check_marks(txn: Transaction, marks: Marks) -> Iterator[Difference]:
    """What no store of any moment says."""
    yield from marks.faults
    for name, _ in txn.forward("meta", b"", b""):
        if name not in _NAMES:
            yield at_key("meta", name, "record", "there", "nothing of that name")
    posted, last = marks.posted, marks.last_id
    if posted > last:
        yield Difference("meta", "posted", posted.hex(), f"an id up to {last.hex() or 'none'}")
    if marks.forgotten > posted:
        should = f"an id up to {posted.hex() or 'none'}, where posting is"
        yield Difference("meta", "forgotten", marks.forgotten.hex(), should)
    yield from _check_pruned(marks)
    for kind, until_ms in marks.closed_until_ms.items():
        if until_ms and period_at(kind, until_ms).start_ms != until_ms:
            should = f"the end of a {kind} period"
            yield Difference("meta", f"closed:{kind}", format_instant(until_ms), should)
        if (unseen_ms := marks.unseen_ms.get(kind, 0)) > until_ms:
            should = f"not after {format_instant(until_ms)}, when {kind} periods are closed"
            yield Difference("meta", f"unseen:{kind}", format_instant(unseen_ms), should)
        if marks.floor_ms is not None and until_ms > marks.floor_ms:
            should = f"not before {format_instant(until_ms)}, when {kind} periods are closed"
            yield Difference("meta", "floor", format_instant(marks.floor_ms), should)


def _check_pruned(marks: Marks) -> Iterator[Difference]:
    """Events are gone only where they have no keys and all that they are in is closed."""
    pruned = marks.pruned
    if not pruned.events:
        return
    if pruned.through > marks.forgotten:
        should = f"an id up to {marks.forgotten.hex() or 'none'}, where keys are forgotten"
        yield Difference("meta", "pruned", pruned.through.hex(), should)
    if pruned.swept > pruned.through or pruned.swept_events > pruned.events:
        stands = f"{pruned.swept.hex()}, {number_of(pruned.swept_events, 'event')}"
        should = f"up to {pruned.through.hex()}, {number_of(pruned.events, 'event')}"
        yield Difference("meta", "swept", stands, should)
    until, received_ms = format_instant(pruned.until_ms), stamp_of(pruned.through).received_ms
    if pruned.until_ms % HOUR_MS or pruned.until_ms <= received_ms:
        should = f"the end of an hour, after {format_instant(received_ms)}"
        yield Difference("meta", "pruned", until, should)
    for kind, closed_ms in marks.closed_until_ms.items():
        if period_at(kind, pruned.until_ms - 1).end_ms > closed_ms:
            should = f"in a {kind} period that is closed, before {format_instant(closed_ms)}"
            yield Difference("meta", "pruned", until, should)


def check_floor(txn: Transaction, parts: int, marks: Marks) -> Iterator[Difference]:
    """It is written when a period with events in it closes, and it is that period's end."""
    if not marks.floor_ms:
        return
    if not any(_has_totals(txn, parts, period) for period in _ending(marks.floor_ms)):
        should = "the end of a period with events in it"
        yield Difference("meta", "floor", format_instant(marks.floor_ms), should)


def _ending(instant_ms: int) -> Iterator[Period]:
    """The periods that end at that moment."""
    for kind in PeriodType:
        period = period_at(kind, instant_ms - 1)
        if period.end_ms == instant_ms:
            yield period


def _has_totals(txn: Transaction, parts: int, period: Period) -> bool:
    prefixes = (keys.totals_prefix(part, period) for part in range(parts))
    found = ((txn.first_key("totals", prefix), prefix) for prefix in prefixes)
    return any(key is not None and key.startswith(prefix) for key, prefix in found)


def check_closed(
    marks: Marks, period: Period, customer_id: str, *, closed: bool
) -> Iterator[Difference]:
    """Whether a customer's period may be as open or closed as it is."""
    stands = "closed" if closed else "open"
    if closed and not marks.may_be_closed(period):
        yield Difference("totals", "state", stands, "open", customer_id, period_name(period))
    if not closed and marks.must_be_closed(period):
        yield Difference("totals", "state", stands, "closed", customer_id, period_name(period))
