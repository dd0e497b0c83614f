"""What descriptions of operations have in common: refusals as they are given."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from meterd.domain.credentials import Scope
from meterd.edge.openapi_parts import (
    ASKING,
    DATING,
    EVENT_ID,
    NO_EVENT_ID,
    PRUNED,
    STORING,
    WITH_BODY,
    Problem,
    keyed,
    limit,
)
from meterd.edge.parameters import LIMIT_MAX, Parameters


def test_refusals_are_problems() -> None:
    """Each has a name of its own, an error, and what a client goes by: when to come again, or
    which key is asked for.
    """
    refusals = [*STORING, *WITH_BODY, *DATING, *PRUNED, *keyed(Scope.READ)]
    names = [one.name for one in refusals]
    assert len(set(names)) == len(names)
    assert set(ASKING) < set(STORING)
    asked_for = {
        HTTPStatus.SERVICE_UNAVAILABLE: "Retry-After",
        HTTPStatus.TOO_MANY_REQUESTS: "Retry-After",
        HTTPStatus.INSUFFICIENT_STORAGE: "Retry-After",
        HTTPStatus.UNAUTHORIZED: "WWW-Authenticate",
        HTTPStatus.FORBIDDEN: "WWW-Authenticate",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Accept-Encoding",
        HTTPStatus.GONE: "Meterd-Pruned-Until",
    }
    for refusal in refusals:
        assert msgspec.json.decode(refusal.answer.body, type=Problem).error
        header = asked_for.get(refusal.answer.status)
        assert [name for name, _ in refusal.answer.headers] == ([header] if header else [])


def test_a_limit_is_described_as_it_is_read() -> None:
    """Its default, and both ends."""
    schema = limit().schema
    assert Parameters({}).limit() == schema["default"]
    for text in (schema["minimum"], schema["maximum"]):
        assert Parameters({"limit": str(text)}).limit() == text
    assert (limit().schema["maximum"], limit(5).schema["maximum"]) == (LIMIT_MAX, 5)
    assert "default" not in limit(5, None).schema


def test_ids_of_examples_are_ids() -> None:
    """Of events that there might be."""
    from meterd.domain.event_ids import from_text

    assert from_text(EVENT_ID) is not None
    assert from_text(NO_EVENT_ID) is not None
