"""Forgets idempotency keys whose time is over, in the order of the log.

What is forgotten is written down by the id of the last event whose key was looked for. So nothing
has to say of each key when its time is over, which would cost as much again as the key; each event
is looked at once more in its life, and a check knows which keys must be there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.event_ids import ID_BYTES
from meterd.embedded import journal, keys, log

if TYPE_CHECKING:
    from meterd.embedded.transaction import Transaction

# In one transaction, 5 us each: as with those that are written.
KEYS_AT_ONCE: Final = 256
# Some 20 ms of reading, where hardly an event has a key.
EVENTS_AT_ONCE: Final = 10_000


class Expired(msgspec.Struct):
    """Keys with their events' ids, of ``events`` events that end with the id ``through``.

    ``is_unposted`` says that the next one has a key that may not be in the index yet.
    """

    used: dict[bytes, bytes]
    through: bytes
    events: int = 0
    is_unposted: bool = False


def expired(txn: Transaction, parts: int, before_ms: int) -> Expired:
    """The next ones, of events received before that moment."""
    found, posted = Expired({}, journal.forgotten_through(txn)), journal.posted_through(txn)
    for block in log.blocks_from(txn, found.through):
        stamp, through = block.stamp, block.last_id
        if stamp.received_ms >= before_ms:
            break
        if through > posted:
            found.is_unposted = True
            break
        for offset, event in enumerate(block.events):
            if event.idempotency_key:
                part = keys.part_of(event.customer_id, parts)
                key = keys.idempotency_key(part, event.customer_id, event.idempotency_key)
                found.used[key] = stamp.id(offset, part)
        found.events += len(block.events)
        found.through = through
        if len(found.used) >= KEYS_AT_ONCE or found.events >= EVENTS_AT_ONCE:
            break
    # A damaged one is met here, where it ends nothing, and not by the writer.
    txn.get_all("idempotency_keys", sorted(found.used))
    return found


def forget(txn: Transaction, found: Expired) -> None:
    """They are new from here on, but for those that another event has taken since."""
    for key, event_id in sorted(found.used.items()):
        record = txn.get("idempotency_keys", key)
        if record is not None and record[:ID_BYTES] == event_id:
            txn.delete("idempotency_keys", key)
    journal.write_forgotten(txn, found.through)
