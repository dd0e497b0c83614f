"""What an append has of each customer's is together, in its order, and nothing of another is."""

from __future__ import annotations

from itertools import count, repeat

import msgspec

from meterd.domain.event_ids import Stamp
from meterd.embedded.appended import Append
from meterd.embedded.log import Block
from tests.ledger_bench import START_MS, event

STAMP = Stamp(START_MS, 100, 7)
EVENTS = [event(("acme", "b")[number % 3 == 0], value=number) for number in range(150)]


def block(begins_at: int, stamp: Stamp = STAMP) -> Block:
    first = stamp.later(begins_at)
    return Block(first.id(), first, EVENTS[begins_at : begins_at + 64], begins_at)


def test_events_by_customer_in_their_order() -> None:
    """Each with its offset and the id of its block; also of an append whose beginning is gone."""
    for begin in (0, 64):
        append = Append(block(begin))
        for begins_at in range(begin, len(EVENTS), 64):
            found = block(begins_at)
            append.add(zip(count(begins_at), found.events, repeat(found.id)))
        assert append.id == STAMP.id()
        assert append.by_customer == {
            name: [
                (offset, one, STAMP.later(offset // 64 * 64).id())
                for offset, one in enumerate(EVENTS)
                if offset >= begin and one.customer_id == name
            ]
            for name in ("acme", "b")
        }


def test_which_blocks_are_of_it() -> None:
    """Those that go on in it, whatever else came at the same moment."""
    append = Append(block(0))
    assert append.has(block(64))
    assert not append.has(block(0, STAMP.later(64)))
    others = ({"counter": 101}, {"nonce": 8}, {"received_ms": START_MS + 1})
    for other in others:
        assert not append.has(block(64, msgspec.structs.replace(STAMP, **other)))
