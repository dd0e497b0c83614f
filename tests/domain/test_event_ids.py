"""Event ids against RFC 9562 and its published example, and their order against that of storing."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.event_ids import (
    COUNTER_LIMIT,
    NONCE_LIMIT,
    Stamp,
    next_id,
    next_stamp,
    position,
    stamp_of,
    to_text,
)

MS_LIMIT = 1 << 48

times = st.integers(0, MS_LIMIT - 1)
counters = st.integers(0, COUNTER_LIMIT - 1)
nonces = st.integers(0, NONCE_LIMIT - 1)
parts = st.integers(0, 255)
stamps = st.builds(Stamp, times, counters, nonces)


def test_the_example_of_the_rfc() -> None:
    """RFC 9562, A.6: its random bits read as counter, nonce and part give its UUID."""
    rand_a, rand_b = 0xCC3, 0x18C4DC0C0C07398F
    stamp = Stamp(
        received_ms=0x017F22E279B0,
        counter=rand_a << 18 | rand_b >> 44,
        nonce=rand_b >> 8 & NONCE_LIMIT - 1,
    )
    event_id = stamp.id(part=rand_b & 0xFF)
    assert to_text(event_id) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    assert stamp_of(event_id) == stamp


@pytest.mark.parametrize(
    ("stamp", "offset", "part", "text"),
    [
        (Stamp(0, 0, 0), 0, 0, "00000000-0000-7000-8000-000000000000"),
        (Stamp(1, 0, 0), 0, 0, "00000000-0001-7000-8000-000000000000"),
        (Stamp(0, 1, 0), 0, 0, "00000000-0000-7000-8000-100000000000"),
        (Stamp(0, 0, 0), 1, 0, "00000000-0000-7000-8000-100000000000"),
        (Stamp(0, 0, 1), 0, 0, "00000000-0000-7000-8000-000000000100"),
        (Stamp(0, 0, 0), 0, 15, "00000000-0000-7000-8000-00000000000f"),
        # the counter's carry goes across the variant bits
        (Stamp(0, (1 << 18) - 1, 0), 0, 0, "00000000-0000-7000-bfff-f00000000000"),
        (Stamp(0, (1 << 18) - 1, 0), 1, 0, "00000000-0000-7001-8000-000000000000"),
        (
            Stamp(MS_LIMIT - 1, COUNTER_LIMIT - 1, NONCE_LIMIT - 1),
            0,
            255,
            "ffffffff-ffff-7fff-bfff-ffffffffffff",
        ),
    ],
)
def test_where_each_bit_stands(stamp: Stamp, offset: int, part: int, text: str) -> None:
    """Milliseconds 48 bits, counter 30, nonce 36, part 8, around version and variant."""
    assert to_text(stamp.id(offset, part)) == text


@given(stamps, parts)
def test_an_id_is_a_version_7_uuid_that_gives_its_stamp_back(stamp: Stamp, part: int) -> None:
    """Other programs read it as what it is, and an event is found from its id alone."""
    event_id = stamp.id(0, part)
    parsed = uuid.UUID(bytes=event_id)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == stamp.received_ms
    assert stamp_of(event_id) == stamp
    assert event_id[-1] == part


@given(st.tuples(times, counters), st.tuples(times, counters), nonces, nonces, parts, parts)
def test_the_order_of_the_bytes_is_the_order_of_storing(
    one: tuple[int, int],
    other: tuple[int, int],
    nonce: int,
    another: int,
    part: int,
    elsewhere: int,
) -> None:
    """By time of receipt, then by the counter; nonce and part decide only between processes."""
    first, second = Stamp(*one, nonce).id(0, part), Stamp(*other, another).id(0, elsewhere)
    if one != other:
        assert (first < second) == (one < other)


@given(st.builds(Stamp, times, st.integers(0, COUNTER_LIMIT - 1000), nonces), parts)
def test_the_events_of_a_batch_have_ids_in_its_order(stamp: Stamp, part: int) -> None:
    """A thousand offsets of one stamp: all different, ascending, each its own stamp's counter."""
    ids = [stamp.id(offset, part) for offset in range(1000)]
    assert len(set(ids)) == 1000
    assert sorted(ids) == ids
    assert stamp_of(ids[999]) == Stamp(stamp.received_ms, stamp.counter + 999, stamp.nonce)


@given(st.builds(Stamp, times, st.integers(0, COUNTER_LIMIT - 1000), nonces), st.integers(0, 999))
def test_a_later_stamp_is_that_of_a_later_event(stamp: Stamp, events: int) -> None:
    """As if another append began in the midst of this one: how blocks are named."""
    assert stamp.later(events).id(3) == stamp.id(events + 3)


FULL = COUNTER_LIMIT - 1


@pytest.mark.parametrize(
    ("last", "events", "now_ms", "following"),
    [
        (Stamp(5, 7, 1), 1, 5, Stamp(5, 8, 2)),
        (Stamp(5, 7, 1), 1000, 5, Stamp(5, 8, 2)),
        (Stamp(5, 7, 1), 1, 6, Stamp(6, 8, 2)),
        (Stamp(5, 7, 1), 1, 900, Stamp(900, 8, 2)),
        # the clock was set back
        (Stamp(5, 7, 1), 1, 4, Stamp(5, 8, 2)),
        (Stamp(5, 7, 1), 1, 0, Stamp(5, 8, 2)),
        # the counter: its last number is used, and an append has all of its numbers in a row
        (Stamp(5, FULL - 1, 1), 1, 5, Stamp(5, FULL, 2)),
        (Stamp(5, FULL - 9, 1), 9, 5, Stamp(5, FULL - 8, 2)),
        (Stamp(5, FULL - 9, 1), 10, 5, Stamp(6, 0, 2)),
        (Stamp(5, FULL, 1), 1, 5, Stamp(6, 0, 2)),
        (Stamp(5, FULL, 1), 1, 3, Stamp(6, 0, 2)),
        (Stamp(5, FULL, 1), 1, 6, Stamp(6, 0, 2)),
        (Stamp(5, FULL, 1), 1, 900, Stamp(900, 0, 2)),
    ],
)
def test_the_next_stamp(last: Stamp, events: int, now_ms: int, following: Stamp) -> None:
    """The time of day, or the last event's while that is later; the counter goes on, or over."""
    assert next_stamp(last, events, now_ms, nonce=2) == following


@given(
    st.builds(Stamp, st.integers(0, 1 << 40), counters, nonces),
    st.lists(
        st.tuples(
            st.one_of(st.integers(-3, 3), st.integers(-(1 << 40), 1 << 40)),
            st.one_of(st.integers(1, 1000), st.just(COUNTER_LIMIT // 3)),
            nonces,
        ),
        max_size=12,
    ),
)
def test_stamps_only_go_up(last: Stamp, appends: list[tuple[int, int, int]]) -> None:
    """However the clock jumps, and whichever process goes on: the order of ids is that of storing.

    A later process has another nonce, which must not decide.
    """
    for jump_ms, events, nonce in appends:
        now_ms = max(last.received_ms + jump_ms, 0)
        stamp = next_stamp(last, events, now_ms, nonce)
        assert stamp.received_ms >= now_ms
        assert stamp.counter + events <= COUNTER_LIMIT
        assert stamp.id() > last.id(part=255)
        last = stamp.later(events - 1)
        assert last.id() == stamp.id(events - 1)


@given(st.tuples(times, stamps, parts), st.tuples(times, stamps, parts))
def test_a_position_is_ordered_by_the_events_own_time_then_by_storing(
    one: tuple[int, Stamp, int], other: tuple[int, Stamp, int]
) -> None:
    """``first`` and ``last`` compare bytes and mean this."""
    (time, stamp, part), (other_time, other_stamp, other_part) = one, other
    event_id, other_id = stamp.id(0, part), other_stamp.id(0, other_part)
    assert (position(time, event_id) < position(other_time, other_id)) == (
        (time, event_id) < (other_time, other_id)
    )


@given(stamps, parts)
def test_the_next_id_is_behind_that_one_alone(stamp: Stamp, part: int) -> None:
    """Even of what is no event's: the greatest has none behind it."""
    event_id = stamp.id(0, part)
    assert int.from_bytes(next_id(event_id), "big") == int.from_bytes(event_id, "big") + 1
    assert next_id(b"\xff" * 16) == b"\xff" * 16


@given(stamps, parts)
def test_an_id_is_written_as_a_uuid(stamp: Stamp, part: int) -> None:
    """What ``GET /events`` shows is the id, in the spelling of RFC 9562."""
    event_id = stamp.id(0, part)
    written = uuid.UUID(to_text(event_id))
    assert (written.bytes, written.version) == (event_id, 7)
