"""The schemas of what comes in, against the decoder, which has the last word."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meterd.domain.event_fields import IDEMPOTENCY_KEY_MAX
from meterd.domain.events import Batch, UsageEvent, decode_batch, decode_event
from meterd.domain.idempotency import read_header
from meterd.edge.openapi import document
from meterd.edge.openapi_ingest import CAPTURE
from tests.edge.openapi_document import validator

TYPES = ("api.calls",)
DOCUMENT = document(TYPES)
EVENT = validator(DOCUMENT, {"$ref": "#/components/schemas/NewEvent"})
BATCH = validator(
    DOCUMENT,
    DOCUMENT["paths"]["/usagebatch"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ],
)
TEXT = st.text(max_size=3) | st.sampled_from(["", "é", "x" * 255, "x" * 256, "x" * 257, "\x7f"])
ANYTHING: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | TEXT | st.just([]) | st.just({})
)
TIMES = st.sampled_from(
    ["2026-01-14", "2026-01-14T10:00:00Z", "2026-02-30", "2026-01-14T10:00:00", "now", ""]
)


def fields(**required: Any) -> Any:
    optional = {
        "metadata": st.just({"a": [1]}) | ANYTHING,
        "idempotencyKey": TEXT | ANYTHING,
        "timestamp": TIMES | ANYTHING,
        "more": ANYTHING,
    }
    return st.fixed_dictionaries({}, optional=required | optional)


NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
VALID = st.fixed_dictionaries(
    {"customerId": TEXT, "value": NUMBERS},
    optional={"metadata": st.just({"a": 1}), "idempotencyKey": TEXT, "timestamp": TIMES},
)
BODIES = VALID | fields(customerId=TEXT | ANYTHING, value=NUMBERS | ANYTHING) | ANYTHING


def is_judged_alike(body: Any) -> bool:
    """A schema counts characters, the decoder bytes: that much is said in words. And for Python, as
    for no JavaScript, a pattern's end is in front of a last line feed, too.
    """
    given = body if isinstance(body, dict) else {}
    texts = [given.get(name) for name in ("customerId", "idempotencyKey")]
    found = [text for text in texts if isinstance(text, str)]
    return not any(len(text.encode()) > 256 or text.endswith("\n") for text in found)


@given(BODIES)
@example({"customerId": "\n", "value": 0})
@settings(max_examples=400)
def test_an_event_is_taken_by_both_or_by_neither(body: Any) -> None:
    """The schema's verdict is the decoder's."""
    taken = isinstance(decode_event(json.dumps(body).encode(), "api.calls", TYPES), UsageEvent)
    assert EVENT.is_valid(body) == taken or not is_judged_alike(body)


@given(st.lists(VALID | ANYTHING, max_size=3), st.sampled_from(["api.calls", "other", None]))
@settings(max_examples=200)
def test_a_batch_is_taken_by_both_or_by_neither(items: list[Any], event_type: Any) -> None:
    """Item by item, with the event types that are configured."""
    body = [{**one, "eventType": event_type} if isinstance(one, dict) else one for one in items]
    decoded = decode_batch(json.dumps(body).encode(), TYPES, lenient=False)
    within = all(map(is_judged_alike, body))
    assert BATCH.is_valid(body) == isinstance(decoded, Batch) or not within


@pytest.mark.parametrize(
    ("key", "is_taken"),
    [
        ("order-4711", True),
        ("x" * IDEMPOTENCY_KEY_MAX, True),
        ("x" * (IDEMPOTENCY_KEY_MAX + 1), False),
        ("é", False),
    ],
)
def test_a_key_in_the_head_is_taken_as_described(key: str, is_taken: bool) -> None:
    """Bare; quoted ones are told of in words."""
    schema = CAPTURE.parameters[1].schema
    assert validator(DOCUMENT, schema).is_valid(key) == is_taken
    assert (read_header([key]) == key) == is_taken
