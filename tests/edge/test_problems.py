"""Each outcome has one status, and its answer is JSON to the byte."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from meterd.domain.credentials import Scope
from meterd.domain.events import Reason, Refusal
from meterd.edge import problems
from meterd.edge.problems import STATUS_OF_REASON, Answer


def test_every_reason_has_its_status() -> None:
    """Contract, sections 1 to 3; a new reason cannot be forgotten."""
    assert {reason: int(status) for reason, status in STATUS_OF_REASON.items()} == {
        Reason.MALFORMED_JSON: 400,
        Reason.BODY_UNFIT: 400,
        Reason.UNKNOWN_EVENT_TYPE: 400,
        Reason.TOO_MANY_EVENTS: 413,
        Reason.INVALID: 422,
        Reason.NO_EVENT_TYPES: 503,
    }
    assert STATUS_OF_REASON.keys() == set(Reason)


def test_a_refusal_is_answered_with_its_own_words() -> None:
    """Unescaped UTF-8, keys in their order."""
    refusal = Refusal(Reason.INVALID, {"error": "Validation failed", "details": ["é is no number"]})
    assert problems.refused(refusal) == Answer(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        '{"error":"Validation failed","details":["é is no number"]}'.encode(),
    )


def test_what_breaks_a_body_is_said_beside_the_contract() -> None:
    """Whose answer to what is no JSON has no room for it."""
    refusal = Refusal(Reason.MALFORMED_JSON, {"error": "Malformed JSON"}, "expected ':' (byte 4)")
    assert problems.refused(refusal) == Answer(
        HTTPStatus.BAD_REQUEST,
        b'{"error":"Malformed JSON"}',
        (("Meterd-Malformed", "expected ':' (byte 4)"),),
    )


def test_the_answers_that_are_the_same_everywhere() -> None:
    """Contract, section 1."""
    assert Answer(HTTPStatus.NOT_FOUND, b'{"error":"Not found"}') == problems.NOT_FOUND


@pytest.mark.parametrize(
    ("made", "challenge"),
    [
        (problems.NO_KEY, 'Bearer realm="meterd"'),
        (
            problems.UNKNOWN_KEY,
            (
                'Bearer realm="meterd", error="invalid_token", error_description="the key in'
                " x-apikey, or else Authorization, is not known: meterd keys list shows"
                ' those that are"'
            ),
        ),
    ],
)
def test_who_is_not_known_is_told_what_is_asked_for(made: Answer, challenge: str) -> None:
    """The contract's body; RFC 9110, section 15.5.2, has a header that must be there."""
    assert (made.status, made.body) == (401, b'{"error":"Unauthorized"}')
    assert made.headers == (("WWW-Authenticate", challenge),)


@pytest.mark.parametrize("scope", Scope)
def test_a_key_without_the_scope(scope: Scope) -> None:
    """The contract's body; RFC 6750, section 3.1, has a header that names the scope."""
    made = problems.forbidden(scope)
    assert (made.status, made.body) == (403, b'{"error":"Forbidden"}')
    named = f'Bearer error="insufficient_scope", scope="{scope}"'
    assert made.headers == (("WWW-Authenticate", named),)


def test_a_full_disk_is_told_apart() -> None:
    """RFC 4918, 11.5: nothing is wrong with the request, and somebody must make room."""
    assert problems.DISK_FULL.status == 507
    assert problems.DISK_FULL.headers == (("Retry-After", "30"),)


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (problems.overloaded("the queue is full"), "Overloaded: the queue is full"),
        (
            problems.UNKNOWN_OUTCOME,
            "The outcome is not known: repeat the request; events without a key may count twice",
        ),
    ],
)
def test_who_may_repeat_is_told_when(made: Answer, error: str) -> None:
    """Whole seconds, as RFC 9110 has them in Retry-After."""
    assert made.status == 503
    assert made.body == f'{{"error":"{error}"}}'.encode()
    assert made.headers == (("Retry-After", "1"),)
