"""Which events of the log are void: beside the log, which is never changed, by their ids.

Synchronous, inside a transaction of ``store``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.errors import PrunedError
from meterd.domain.event_ids import stamp_of
from meterd.domain.stored_events import StoredEvent
from meterd.embedded import journal, keys, log, records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meterd.domain.voids import Void
    from meterd.embedded.transaction import Transaction


def read_void(txn: Transaction, event_id: bytes) -> Void | None:
    """Why and when that event was taken back, if it was."""
    found = txn.get("voids", event_id)
    return None if found is None else records.decode_void(found)


def find_event(txn: Transaction, parts: int, event_id: bytes) -> StoredEvent | None:
    """The event of that id, if there is one."""
    stamp = stamp_of(event_id)
    event = log.event_at(txn, stamp)
    if event is None or stamp.id(0, keys.part_of(event.customer_id, parts)) != event_id:
        return None
    return StoredEvent(event_id, event, stamp.received_ms, read_void(txn, event_id))


def find_to_void(txn: Transaction, parts: int, event_id: bytes) -> StoredEvent | None:
    """The same, where it may be taken back, or was. Raises PrunedError where it, or others of its
    hour, may have been deleted: without them its hour cannot be counted again.
    """
    stored, pruned = find_event(txn, parts, event_id), journal.read_pruned(txn)
    if stored is None and stamp_of(event_id).id() <= pruned.through:
        raise PrunedError(pruned.until_ms)
    if stored is not None and stored.void is None:
        journal.require_events(txn, stored.hour)
    return stored


def marked(txn: Transaction, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
    """These events, last stored first, each with why it is void, where it is."""
    for stored, is_void in _looked_up(txn, events):
        if is_void:
            yield msgspec.structs.replace(stored, void=read_void(txn, stored.id))
        else:
            yield stored


def not_void(txn: Transaction, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
    """Those of these events, last stored first, that count."""
    return (stored for stored, is_void in _looked_up(txn, events) if not is_void)


def _looked_up(
    txn: Transaction, events: Iterable[StoredEvent]
) -> Iterator[tuple[StoredEvent, bool]]:
    """With one seek for each that is void, or less: the next one that is void is known."""
    next_void: bytes | None = None
    for stored in events:
        if next_void is None or stored.id < next_void:
            next_void = txn.last_key("voids", stored.id) or b""
        yield stored, stored.id == next_void
