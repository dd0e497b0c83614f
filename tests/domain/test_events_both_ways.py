"""The fast way of decoding events against the slow one: one outcome for every body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.events import (
    Batch,
    Refusal,
    UsageEvent,
    _decode_batch_slowly,
    _decode_event_slowly,
    decode_batch,
    decode_event,
)
from tests.domain.usage_bodies import EVENT_TYPE_FAULTS, FAULTS, TYPES, VALUES, batch, item


def meaning(outcome: UsageEvent | Batch | Refusal) -> Any:
    """The outcome as data, metadata read: the two ways may spell it differently."""
    match outcome:
        case UsageEvent(customer_id, event_type, value, metadata, key, timestamp_ms):
            return customer_id, event_type, value, json.loads(metadata), key, timestamp_ms
        case Batch(events, failures):
            return [meaning(each) for each in events], failures
        case _:
            return outcome


# Of a field alone, what is refused and what is just about accepted.
ODD_TEXTS = [
    *(text for _, text, _ in FAULTS + EVENT_TYPE_FAULTS if text and len(text) < 80),
    *(text for text, _ in VALUES),
    *('"2026-01-14T11:20:00.000Z"', '"2026-01-14"', '"2026-01-14 11:20:00.1234567+01:00"'),
    *('{"a":[1e5,"\\u00e9\\/"]}', " [ ] ", "NaN", "[1,]", '"\x01"', '"\\ud83d\\ude00"', "{}"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def written(value: Any) -> st.SearchStrategy[str]:
    """Its JSON text, in UTF-8 or in escapes."""
    return st.booleans().map(lambda escaped: json.dumps(value, ensure_ascii=escaped))


any_text = st.sampled_from(ODD_TEXTS) | json_values.flatmap(written)
members = st.tuples(
    st.sampled_from(
        ["eventType", "customerId", "value", "metadata", "idempotencyKey", "timestamp", "x"]
    ),
    any_text,
)
valid_members = st.tuples(
    st.tuples(st.just("eventType"), st.just('"api.calls"')),
    st.tuples(st.just("customerId"), st.text(min_size=1).flatmap(written)),
    st.tuples(
        st.just("value"),
        st.integers().map(str) | st.decimals(allow_nan=False, allow_infinity=False).map(str),
    ),
    st.tuples(
        st.just("metadata"), st.dictionaries(st.text(), json_values, max_size=3).flatmap(written)
    ),
)
# Members that come later win, so most of these are valid but for one field or none.
items = st.builds(
    lambda valid, others: ",".join(f'"{name}":{text}' for name, text in [*valid, *others]),
    valid_members,
    st.lists(members, max_size=2),
).map("{{{}}}".format)
header_keys = st.sampled_from(["", "k", "1"])
damages = st.none() | st.tuples(st.integers(0, 200), st.integers(0, 3), st.binary(max_size=2))


def damaged(text: str, damage: tuple[int, int, bytes] | None) -> bytes:
    """The text's bytes, some of them cut out at a place, others put there."""
    sent = text.encode()
    if damage is None:
        return sent
    place, cut, inserted = damage
    return sent[:place] + inserted + sent[place + cut :]


@given(items, damages, header_keys)
def test_both_ways_give_one_outcome_for_an_event(
    text: str, damage: tuple[int, int, bytes] | None, header_key: str
) -> None:
    """The same customer, type and value, metadata equal as JSON; or the same refusal."""
    sent = damaged(text, damage)
    ways = (decode_event, _decode_event_slowly)
    fast, slow = (way(sent, "api.calls", TYPES, header_key) for way in ways)
    assert meaning(fast) == meaning(slow)


@given(st.lists(items, max_size=3), damages, st.booleans(), header_keys)
def test_both_ways_give_one_outcome_for_a_batch(
    texts: list[str], damage: tuple[int, int, bytes] | None, lenient: bool, header_key: str
) -> None:
    """The same events in the same order, with the same failures; or the same refusal."""
    sent = damaged(f"[{','.join(texts)}]", damage)
    ways = (decode_batch, _decode_batch_slowly)
    fast, slow = (way(sent, TYPES, lenient=lenient, header_key=header_key) for way in ways)
    assert meaning(fast) == meaning(slow)


@pytest.mark.parametrize(
    "metadata",
    [
        '{"a":1.50}',
        f'{{"a":[{",".join(["1e5"] * 4000)}]}}',  # 16,006 bytes as sent
    ],
    ids=["small", "near 16 KiB"],
)
def test_a_faulty_neighbour_changes_nothing_about_an_item(metadata: str) -> None:
    """What is stored alone is stored in a lenient batch too, which only the slow way reads."""
    alone = decode_batch(batch(item(metadata=metadata)), TYPES, lenient=True)
    beside = decode_batch(batch(item(metadata=metadata), "null"), TYPES, lenient=True)
    assert isinstance(alone, Batch)
    assert isinstance(beside, Batch)
    assert meaning(alone)[0] == meaning(beside)[0]
