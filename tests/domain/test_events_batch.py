"""``POST /usagebatch``: every row of the contract's section 3, by both ways of decoding."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meterd.domain.events import (
    NO_EVENT_TYPES,
    Batch,
    Reason,
    Refusal,
    _decode_batch_slowly,
    decode_batch,
    item_key,
)
from tests.domain.usage_bodies import (
    EVENT_TYPE_FAULTS,
    FAULTS,
    NOT_AN_OBJECT,
    NOT_FINITE,
    TYPES,
    UNKNOWN,
    batch,
    event,
    item,
)

both_ways = pytest.mark.parametrize("decode", [decode_batch, _decode_batch_slowly])


def unfit(error: str) -> Refusal:
    return Refusal(Reason.BODY_UNFIT, {"error": error})


def too_many(received: int) -> Refusal:
    error = "Batch size exceeds maximum limit of 1000 events"
    answer = {"error": error, "received": received, "maxAllowed": 1000}
    return Refusal(Reason.TOO_MANY_EVENTS, answer)


def invalid_items(errors: dict[int, list[str]], valid: int) -> Refusal:
    return Refusal(
        Reason.INVALID,
        {
            "error": "Validation failed for some events",
            "validationErrors": [{"index": i, "errors": found} for i, found in errors.items()],
            "validCount": valid,
            "invalidCount": len(errors),
        },
    )


REQUIRED = unfit("Request body is required")
NOT_AN_ARRAY = unfit("Request body must be an array of events")
BATCH_REFUSALS: list[tuple[bytes, Refusal]] = [
    *[(sent, REQUIRED) for sent in (b"", b" \r\n\t", b"null")],
    *[(sent, NOT_AN_ARRAY) for sent in (b"{}", b"5", b"0", b'""', b'"text"', b"true", b"false")],
    (item().encode(), NOT_AN_ARRAY),
    (b"[]", unfit("Events array cannot be empty")),
    (batch(*[item()] * 1001), too_many(1001)),
    (batch(*["null"] * 1500), too_many(1500)),
]
NOTHING_GIVEN = [
    "eventType is required",
    "customerId is required",
    "value is required",
]


@both_ways
@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("types", [TYPES, ()])
def test_a_batch_is_refused_as_a_whole_first(
    decode: Any, types: tuple[str, ...], lenient: bool
) -> None:
    """Rows 1 to 5: all of the body's own faults come before there being no event types."""
    for sent, refusal in BATCH_REFUSALS:
        assert decode(sent, types, lenient=lenient) == refusal
    for sent in (b"[", b"[NaN]", b"\xff", batch(item(), "{")):
        refusal = decode(sent, types, lenient=lenient)
        assert refusal.answer == {"error": "Malformed JSON"}
        assert "byte" in refusal.breaks
    if not types:
        assert decode(batch(item()), types, lenient=lenient) == NO_EVENT_TYPES
        assert decode(batch("null"), types, lenient=lenient) == NO_EVENT_TYPES


@both_ways
@pytest.mark.parametrize(("field", "text", "fault"), EVENT_TYPE_FAULTS + FAULTS)
def test_a_faulty_item_is_named(decode: Any, field: str, text: str | None, fault: str) -> None:
    """Row 6: with its index and the string of the field; its valid neighbours are counted."""
    sent = batch(item(), item(**{field: text}), item(eventType='"storage.bytes"'))
    assert decode(sent, TYPES, lenient=False) == invalid_items({1: [fault]}, valid=2)


@both_ways
def test_all_faulty_items_are_listed_by_ascending_index(decode: Any) -> None:
    """No object: one string for the item; an array field by field; else a string for each field."""
    sent = batch(
        *("null", "5", '"text"', "true", "[]", f"[{item()}]", "{}", item()),
        item(metadata="[]", value="true", customerId="7", eventType='"nope"'),
        item(eventType="0", value="1e999"),
    )
    errors = {
        **{index: ["Event must be an object"] for index in range(4)},
        **dict.fromkeys((4, 5, 6), NOTHING_GIVEN),
        8: [UNKNOWN.format("nope"), "customerId must be a string", NOT_FINITE, NOT_AN_OBJECT],
        9: ["eventType is required", NOT_FINITE],
    }
    assert decode(sent, TYPES, lenient=False) == invalid_items(errors, valid=1)


@both_ways
@pytest.mark.parametrize("lenient", [False, True])
def test_a_valid_batch_is_taken_in_the_order_of_the_array(decode: Any, lenient: bool) -> None:
    """Row 7: a thousand items, types and customers mixed, equal ones too."""
    sent = batch(*[item(value=str(i % 7), eventType=f'"{TYPES[i % 2]}"') for i in range(1000)])
    events = [event(str(i % 7), event_type=TYPES[i % 2]) for i in range(1000)]
    assert decode(sent, TYPES, lenient=lenient) == Batch(events)


@both_ways
def test_a_lenient_batch_keeps_what_is_valid(decode: Any) -> None:
    """Row 8: the faults come beside the events; if all items are faulty it is refused as ever."""
    sent = batch("null", item(value="2"), item(value="null"), item(value="4"))
    failures = [
        {"index": 0, "errors": ["Event must be an object"]},
        {"index": 2, "errors": ["value is required"]},
    ]
    assert decode(sent, TYPES, lenient=True) == Batch([event("2"), event("4")], failures)
    refused = invalid_items({0: ["Event must be an object"], 1: ["value is required"]}, valid=0)
    assert decode(batch("null", item(value="null")), TYPES, lenient=True) == refused


@both_ways
def test_a_header_gives_each_customers_items_keys_of_their_own(decode: Any) -> None:
    """By their order among its own: other customers may stand in between, or in another order."""

    def keys_of(*customers: str) -> dict[str, list[str]]:
        sent = batch(*(item(customerId=json.dumps(customer)) for customer in customers))
        decoded = decode(sent, TYPES, lenient=False, header_key="h")
        found: dict[str, list[str]] = {}
        for one in decoded.events:
            found.setdefault(one.customer_id, []).append(one.idempotency_key)
        return found

    first, second = item_key("h", 0), item_key("h", 1)
    assert keys_of("a", "b", "a") == {"a": [first, second], "b": [first]}
    assert keys_of("b", "a", "a") == keys_of("a", "b", "a")


@both_ways
def test_no_key_of_a_client_is_one_that_a_header_makes(decode: Any) -> None:
    """Or one of two events would be swallowed as the repeat of the other."""
    made = item_key("h", 0)
    decoded = decode(
        batch(item(), item(idempotencyKey='"h#0"')), TYPES, lenient=False, header_key="h"
    )
    assert isinstance(decoded, Batch)
    assert [one.idempotency_key for one in decoded.events] == [made, "h#0"]
    refused = decode(
        batch(item(idempotencyKey=json.dumps(made))), TYPES, lenient=False, header_key=""
    )
    assert isinstance(refused, Refusal)
    assert "idempotencyKey must not contain control characters" in str(refused.answer)
