"""Digests made again from blocks are those that were made when the events came."""

from __future__ import annotations

from itertools import count, repeat
from typing import TYPE_CHECKING

from meterd.domain.digests import START, chained, linked, void_line
from meterd.domain.event_ids import Stamp
from meterd.domain.receipts import receive
from meterd.domain.voids import Void
from meterd.embedded.appended import Append
from meterd.embedded.hour_chains import HourChains
from meterd.embedded.log import Block
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.domain.events import UsageEvent
    from meterd.embedded.appended import Placed

STAMP = Stamp(START_MS, 0, 7)
EVENTS = [event(("acme", "b")[number % 3 == 0], value=number) for number in range(100)]
RECEIPT = receive(STAMP, EVENTS)


def placed(stamp: Stamp, events: Sequence[UsageEvent]) -> Mapping[str, Sequence[Placed]]:
    """An append's, by customer, gathered block by block."""
    append = None
    for begin in range(0, len(events), 64):
        block = Block(
            stamp.later(begin).id(), stamp.later(begin), events[begin : begin + 64], begin
        )
        append = append or Append(block)
        append.add(zip(count(begin), block.events, repeat(block.id)))
    assert append is not None
    return append.by_customer


def test_it_is_the_same_for_each_customer() -> None:
    """Of what an append has of it; who has nothing is at the start."""
    chains = HourChains()
    for customer_id, events in placed(STAMP, EVENTS).items():
        chains.add(STAMP.id(), customer_id, events)
    for customer_id in ("acme", "b"):
        offsets = [place for place, one in enumerate(EVENTS) if one.customer_id == customer_id]
        assert chains.of(customer_id) == chained(START, RECEIPT, offsets)
    assert chains.of("nobody") == START


def test_voids_stand_where_they_came() -> None:
    """Behind the events that had come by then, whatever is void, one behind another."""
    first, second = ([event(value=number)] for number in (1, 2))
    stamps = [Stamp(START_MS + number, number, 7) for number in (0, 1)]
    came = chained(START, receive(stamps[0], first), [0])
    voids = []
    for number in range(3):
        if number == 2:
            came = chained(came, receive(stamps[1], second), [0])
        void = Void(f"case {number}", START_MS + 5, came)
        voids.append((bytes((number,)) * 16, void))
        came = linked(came, void_line(voids[-1][0], void.reason, void.voided_ms))
    chains = HourChains()
    for event_id, void in reversed(voids):
        chains.expect("acme", event_id, void)
    for stamp, events in zip(stamps, (first, second), strict=True):
        chains.add(stamp.id(), "acme", placed(stamp, events)["acme"])
    assert chains.of("acme") == came
