"""Which blocks of events a change names: one behind another, each once for an append."""

from __future__ import annotations

import msgspec

from meterd.domain.changes import Change
from meterd.domain.event_ids import Stamp
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.receipts import receive
from tests.ledger_bench import START_MS, event


def test_blocks_of_several_appends_stand_behind_each_other() -> None:
    """By type; those of another hour than that of receipt by that hour, too."""
    change = Change("acme")
    first = receive(Stamp(START_MS, 0, 7), [event(event_type="sum") for _ in range(130)])
    second = receive(Stamp(START_MS + 1, 130, 7), [event(event_type="max")])
    change.note_blocks(first, first.by_type(range(130)))
    change.note_blocks(second, second.by_type([0]))
    change.note_blocks(second, {"sum": [0]})
    assert change.blocks == {
        "sum": bytearray(b"".join(first.blocks) + second.blocks[0]),
        "max": bytearray(second.blocks[0]),
    }
    hour = period_at(PeriodType.HOURLY, 0)
    change.note_dated_blocks(hour, first, {"sum": [0, 1, 63, 129]})
    assert change.dated_blocks == {(hour, "sum"): bytearray(first.blocks[0] + first.blocks[2])}


def test_offsets_are_parted_by_the_hour_in_which_events_happened() -> None:
    """Those that do not say when are of the hour of receipt."""
    events = [event(), msgspec.structs.replace(event(), timestamp_ms=0), event()]
    receipt = receive(Stamp(START_MS, 0, 7), events)
    assert {hour.start_ms: list(found) for hour, found in receipt.by_hour(range(3)).items()} == {
        receipt.hour.start_ms: [0, 2],
        0: [1],
    }
    assert receipt.earliest_ms == 0
    assert receive(Stamp(START_MS, 0, 7), events[:1]).earliest_ms == START_MS
