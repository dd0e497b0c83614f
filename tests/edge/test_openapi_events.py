"""The type of an event as it is described, against events as they are shown."""

from __future__ import annotations

import re
import sys
import unicodedata
from decimal import Decimal

import msgspec
import pytest

from meterd.domain.event_ids import Stamp
from meterd.domain.events import UsageEvent
from meterd.domain.stored_events import StoredEvent
from meterd.domain.voids import REASON_MAX, Void
from meterd.edge.documents import event_document
from meterd.edge.openapi_events import NOT_BLANK, Event, VoidRequest
from meterd.edge.parameters import UnfitParameterError
from meterd.edge.void_api import decode_reason
from tests.edge.openapi_document import strays

CONTROL_CHARACTERS = [
    chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code)) == "Cc"
]


def test_an_event_has_what_is_described() -> None:
    """With all that it may have, and as it is commonly."""
    plain = UsageEvent("c", "api.calls", Decimal("1.5"), b'{"a":1}')
    full = msgspec.structs.replace(plain, idempotency_key="k", timestamp_ms=5)
    for event, void in ((plain, None), (full, Void("twice", 7))):
        stored = StoredEvent(Stamp(9, 0, 0).id(), event, 9, void)
        assert strays(Event, event_document(stored)) == set()


@pytest.mark.parametrize(
    ("body", "is_taken"),
    [
        ({"reason": "x"}, True),
        ({"reason": "é" * REASON_MAX}, True),
        ({"reason": "x" * (REASON_MAX + 1)}, False),
        ({"reason": " \n"}, False),
        ({"reason": ""}, False),
        ({"reason": None}, False),
        ({"reason": "x", "why": "y"}, False),
        ({}, False),
        *[({"reason": f"a{one}b"}, one in "\t\n\r") for one in CONTROL_CHARACTERS],
        ({"reason": "a\u2028b\u00a0c"}, True),
    ],
)
def test_a_reason_is_taken_as_described(body: dict[str, object], is_taken: bool) -> None:
    """By the schema, and by who reads it."""
    import jsonschema

    schema = msgspec.json.schema(VoidRequest)
    assert jsonschema.Draft202012Validator(schema).is_valid(body) == is_taken
    if is_taken:
        assert decode_reason(msgspec.json.encode(body)) == body["reason"]
    else:
        with pytest.raises(UnfitParameterError):
            decode_reason(msgspec.json.encode(body))


def test_what_is_blank_is_blank_in_both() -> None:
    """Every character that who reads a reason strips, and no other."""
    every = [chr(code) for code in range(sys.maxunicode + 1)]
    assert [one for one in every if not re.search(NOT_BLANK, one)] == [
        one for one in every if not one.strip()
    ]
