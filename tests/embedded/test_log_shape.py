"""The log is what ``log.write_receipts`` writes, or verify says where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meterd.domain.event_ids import Stamp
from meterd.embedded.log import Block
from meterd.embedded.log_shape import LogShape
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from collections.abc import Sequence

Made = tuple[int, int, int]
Records = list[list[Made]]
# Of an append of 150 events, then a single one: counter, events, offset in the append.
GOOD: Records = [[(0, 64, 0)], [(64, 64, 64)], [(128, 22, 128), (150, 1, 0)]]


def block(made: Made) -> Block:
    counter, events, begins_at = made
    stamp = Stamp(START_MS, counter, 7)
    return Block(stamp.id(), stamp, [event(value=1)] * events, begins_at)


def faults(found: Records, pruned: bytes = b"", names: Sequence[int] = ()) -> list[str]:
    """Records are named by their first block, but for those given by its counter."""
    shape = LogShape(pruned)
    said = []
    for number, made in enumerate(found):
        blocks = [block(one) for one in made]
        named = Stamp(START_MS, names[number], 7).id() if names else blocks[0].id
        said += [one.what.split(" 019")[0] for one in shape.of_record(named, blocks)]
    return said


def test_appends_go_on_from_record_to_record() -> None:
    assert faults(GOOD) == []


def test_what_is_left_of_an_append_is_as_good() -> None:
    """Where events were pruned before it; else its beginning is missing."""
    assert faults(GOOD[1:], pruned=Stamp(START_MS, 63, 7).id()) == []
    assert faults(GOOD[1:]) == ["a block"]
    assert faults(GOOD[2:], pruned=Stamp(START_MS, 127, 7).id()) == []


@pytest.mark.parametrize(
    ("found", "names", "said"),
    [
        ([GOOD[0], GOOD[2]], (), ["a block"]),
        ([GOOD[0], [(64, 64, 65)]], (), ["a block"]),
        ([GOOD[0], [(65, 64, 64)]], (), ["a block"]),
        ([[(0, 10, 0), (10, 64, 10)]], (), ["a block"]),
        ([GOOD[0], [(63, 1, 0)]], (), ["record"]),
        ([[(0, 64, 0), (63, 1, 0)]], (), ["blocks"]),
        ([[(0, 65, 0)]], (), ["events of a block"]),
        ([[(0, 0, 0)]], (), ["events of a block"]),
        ([[(5, 1, 0)]], (4,), ["record"]),
    ],
)
def test_what_is_otherwise_is_said(found: Records, names: Sequence[int], said: list[str]) -> None:
    """Once, of the record that it is in."""
    assert faults(found, names=names) == said


def test_nothing_stands_before_what_was_pruned() -> None:
    """It would be counted again."""
    assert faults(GOOD, pruned=Stamp(START_MS, 5, 7).id()) == ["record"]
