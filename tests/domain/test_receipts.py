"""An append as it was received: which blocks it makes, and where its events stand."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.event_ids import COUNTER_LIMIT, NONCE_LIMIT, Stamp, position
from meterd.domain.events import BATCH_MAX
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.receipts import BLOCK_EVENTS, group_by_customer, receive
from tests.ledger_bench import START_MS, event

FULL: Final = BLOCK_EVENTS
# Amid its events the counter's carry goes across the variant bits.
STAMP: Final = Stamp(START_MS, (1 << 18) - 100, NONCE_LIMIT - 1)


@pytest.mark.parametrize(
    ("events", "blocks_at"),
    [
        (1, [0]),
        (2, [0]),
        (FULL - 1, [0]),
        (FULL, [0]),
        (FULL + 1, [0, FULL]),
        (2 * FULL, [0, FULL]),
        (2 * FULL + 1, [0, FULL, 2 * FULL]),
        (BATCH_MAX, list(range(0, BATCH_MAX, FULL))),
    ],
)
def test_a_block_has_the_id_of_its_first_event(events: int, blocks_at: list[int]) -> None:
    """All are full but the last; and the receipt says which id is its last."""
    receipt = receive(STAMP, [event()] * events)
    assert list(receipt.blocks) == [STAMP.id(offset) for offset in blocks_at]
    assert receipt.last_id == STAMP.id(events - 1)


def test_a_receipt_is_of_the_hour_and_the_millisecond_of_its_stamp() -> None:
    """The last millisecond of an hour is in it, the next one is not."""
    hour = period_at(PeriodType.HOURLY, START_MS)
    for received_ms, expected in [
        (hour.start_ms, hour),
        (hour.last_ms, hour),
        (hour.end_ms, period_at(PeriodType.HOURLY, hour.end_ms)),
    ]:
        for events in (1, 2):
            receipt = receive(Stamp(received_ms, 0, 0), [event()] * events)
            assert (receipt.received_ms, receipt.hour) == (received_ms, expected)


@given(
    st.integers(0, START_MS * 2),
    st.integers(0, COUNTER_LIMIT - BATCH_MAX),
    st.integers(1, BATCH_MAX),
)
def test_every_event_stands_where_its_id_says(received_ms: int, counter: int, events: int) -> None:
    """Its own offset's id, in whichever block it is."""
    stamp = Stamp(received_ms, counter, 7)
    receipt = receive(stamp, [event()] * events)
    assert [receipt.position(offset) for offset in range(events)] == [
        position(received_ms, stamp.id(offset)) for offset in range(events)
    ]


@pytest.mark.parametrize(
    ("customers", "groups"),
    [
        ("a", {"a": [0]}),
        ("aaa", {"a": [0, 1, 2]}),
        ("abab", {"a": [0, 2], "b": [1, 3]}),
        ("bca", {"b": [0], "c": [1], "a": [2]}),
    ],
)
def test_each_customer_gets_its_own_events(customers: str, groups: dict[str, list[int]]) -> None:
    """Their offsets, which go up; customers in the order of their first."""
    found = group_by_customer([event(customer) for customer in customers])
    assert [(name, list(offsets)) for name, offsets in found.items()] == list(groups.items())
