"""Holds the queue of periods that are to be revised against what totals say of late events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.domain.instants import format_instant
from meterd.embedded import keys, records
from meterd.embedded.differences import NOTHING, Difference, at_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.embedded.transaction import Transaction


def check_late(txn: Transaction) -> Iterator[Difference]:
    """Each that is late is in the queue, and is closed; nothing else is in it."""
    found = 0
    for totals_key, payload in txn.forward("totals", b"", b""):
        late = records.decode_closed(payload)
        if not late.late_since_ms:
            continue
        if not late.closed:
            since = format_instant(late.late_since_ms)
            yield at_key("totals", totals_key, "late", f"since {since}", "never, as it is open")
        if txn.get("late", keys.late_start(late.late_since_ms) + totals_key) is None:
            since = format_instant(late.late_since_ms)
            yield at_key("late", totals_key, "record", NOTHING, f"late since {since}")
        else:
            found += 1
    if found != txn.count("late"):
        for key in txn.keys_forward("late", b"", b""):
            totals_key = keys.late_totals_key(key)
            stands = txn.get("totals", totals_key)
            since_ms = 0 if stands is None else records.decode_closed(stands).late_since_ms
            if since_ms != keys.late_since_ms(key):
                should = "nothing: no such event came late"
                yield at_key("late", totals_key, "record", "there", should)
