"""Which HTTP status each outcome has, and the answers that are the same everywhere.

The one table between what the ledger and the decoders say and what a client sees. Every answer is
JSON.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.events import Reason, Refusal
from meterd.domain.instants import format_instant

if TYPE_CHECKING:
    from meterd.domain.credentials import Scope

STATUS_OF_REASON: Final = {
    Reason.MALFORMED_JSON: HTTPStatus.BAD_REQUEST,
    Reason.BODY_UNFIT: HTTPStatus.BAD_REQUEST,
    Reason.UNKNOWN_EVENT_TYPE: HTTPStatus.BAD_REQUEST,
    Reason.TOO_MANY_EVENTS: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.NO_EVENT_TYPES: HTTPStatus.SERVICE_UNAVAILABLE,
}
# Commits take milliseconds: who is refused for a full queue finds room in the next second.
RETRY_AFTER_SECONDS: Final = "1"
# On every answer of every lane, refusals of broken requests too: usage is nobody's to keep, and
# JSON that holds customers' texts is never to be taken for a page.
ON_EVERY_ANSWER: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
# Somebody has to see to a full disk, or to a wrong clock.
ROOM_AFTER_SECONDS: Final = "30"
# From which moment on all events are there, where some of before are not.
PRUNED_UNTIL: Final = "Meterd-Pruned-Until"
# What breaks a body that is no JSON, and where: the answer itself is the contract's, to the byte.
MALFORMED: Final = "Meterd-Malformed"
# For the log, where a request met it.
DAMAGE: Final = "a stored record is damaged: run meterd verify, and restore a backup"


class Answer(msgspec.Struct, frozen=True):
    """A whole HTTP answer but for what every answer carries."""

    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def answer(status: HTTPStatus, content: dict[str, Any], *headers: tuple[str, str]) -> Answer:
    return Answer(status, msgspec.json.encode(content), headers)


def problem(status: HTTPStatus, error: str, *headers: tuple[str, str]) -> Answer:
    return answer(status, {"error": error}, *headers)


def refused(refusal: Refusal) -> Answer:
    headers = ((MALFORMED, refusal.breaks),) if refusal.breaks else ()
    return answer(STATUS_OF_REASON[refusal.reason], refusal.answer, *headers)


def compressed(coding: str) -> Answer:
    return problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"Request body must not be compressed: Content-Encoding {coding} is not taken",
        ("Accept-Encoding", "identity"),  # RFC 9110, 12.5.3: what would be
    )


def overloaded(why: str) -> Answer:
    """Nothing was stored; ``why`` says what is full."""
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"Overloaded: {why}",
        ("Retry-After", RETRY_AFTER_SECONDS),
    )


def starting(waits_for: str) -> Answer:
    """Nothing was stored; the ledger cannot be asked yet."""
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"Starting: {waits_for}",
        ("Retry-After", RETRY_AFTER_SECONDS),
    )


def wrong_clock(why: str) -> Answer:
    """Nothing was stored: it would be dated wrong."""
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"No event is taken: {why}",
        ("Retry-After", ROOM_AFTER_SECONDS),
    )


def unauthorized(challenge: str) -> Answer:
    """The body is the contract's; what is asked for stands where RFC 6750 has it."""
    named = f'Bearer realm="meterd"{challenge}'
    return problem(HTTPStatus.UNAUTHORIZED, "Unauthorized", ("WWW-Authenticate", named))


def pruned(until_ms: int) -> Answer:
    """Totals are there, and what would be counted from events is not."""
    until = format_instant(until_ms)
    return problem(
        HTTPStatus.GONE,
        f"Events of before {until} were pruned (retention.events): what is asked for needs some"
        " that may be gone. From then on all are there",
        (PRUNED_UNTIL, until),
    )


def forbidden(scope: Scope) -> Answer:
    """As ``unauthorized``, with the scope that is lacking."""
    named = f'Bearer error="insufficient_scope", scope="{scope}"'
    return problem(HTTPStatus.FORBIDDEN, "Forbidden", ("WWW-Authenticate", named))


def too_many_wrong_keys(wait_s: float) -> Answer:
    return problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too many requests without a valid key",
        ("Retry-After", str(math.ceil(wait_s))),
    )


DISK_FULL: Final = problem(
    HTTPStatus.INSUFFICIENT_STORAGE,
    "Insufficient storage: nothing was stored",
    ("Retry-After", ROOM_AFTER_SECONDS),
)
CONFLICT: Final = problem(
    HTTPStatus.CONFLICT, "idempotencyKey was used before for an event with other content"
)
NO_KEY: Final = unauthorized("")
UNKNOWN_KEY: Final = unauthorized(
    ', error="invalid_token", error_description="the key in x-apikey, or else Authorization, is'
    ' not known: meterd keys list shows those that are"'
)
BROKEN: Final = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error")
DAMAGED: Final = problem(
    HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error: a stored record is damaged"
)
NOT_FOUND: Final = problem(HTTPStatus.NOT_FOUND, "Not found")
UNKNOWN_OUTCOME: Final = problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The outcome is not known: repeat the request; events without a key may count twice",
    ("Retry-After", RETRY_AFTER_SECONDS),
)
