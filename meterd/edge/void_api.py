"""The routes of one event: as it is, and taken back; and what the latter's body takes."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from quart import request

from meterd.domain.credentials import Scope
from meterd.domain.errors import PrunedError
from meterd.domain.event_ids import from_text, next_id, stamp_of
from meterd.domain.sections import quoted
from meterd.domain.voids import REASON_MAX, VoidOutcome
from meterd.edge import problems
from meterd.edge.documents import event_document
from meterd.edge.parameters import UnfitParameterError, json_object
from meterd.edge.problems import Answer
from meterd.edge.routes import body_bytes, needs, read_body, respond, unless
from meterd.ledger import EventQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    from quart import Response
    from quart_trio import QuartTrio

    from meterd.domain.config import Config
    from meterd.domain.stored_events import StoredEvent
    from meterd.edge.access import Access
    from meterd.edge.limits import BodyBudget
    from meterd.edge.readiness import Readiness
    from meterd.ledger import Ledger

_REASON: Final = f"reason must be a string of 1 to {REASON_MAX} characters, not all of them blank"
# Somebody writes it to somebody, so lines may end and be indented: Unicode's category Cc but these.
_OTHER_CONTROL_CHARACTERS: Final = {*map(chr, (*range(0x20), *range(0x7F, 0xA0)))} - {*"\t\n\r"}
_OTHER: Final = "reason must not contain control characters but for line breaks and tabs"
_EXAMPLE: Final = '{"reason": "sent twice"}'
_STATUS: Final = {
    VoidOutcome.VOIDED: HTTPStatus.CREATED,
    VoidOutcome.VOID_BEFORE: HTTPStatus.OK,
}


def add_void_routes(
    app: QuartTrio,
    access: Access,
    config: Callable[[], Config],
    ledger: Ledger,
    readiness: Readiness,
    bodies: BodyBudget,
) -> None:
    @app.get("/events/<event_id>")
    @needs(Scope.READ, access)
    @unless(readiness.refusal_to_read)
    async def event(event_id: str) -> Response:
        if request.args:
            raise UnfitParameterError("There are no parameters: the _id is in the path")
        found = await _event(ledger, event_id)
        if found is None:
            await _refuse_pruned(ledger, event_id)
        return respond(
            _no_event(event_id) if found is None else Answer(HTTPStatus.OK, event_document(found))
        )

    @app.post("/events/<event_id>/void")
    @needs(Scope.ADMIN, access)
    @unless(readiness.refusal_of_events)
    async def void(event_id: str) -> Response:
        if request.args:
            raise UnfitParameterError("There are no parameters: reason is a field of the body")
        with bodies.holding(body_bytes()):
            reason = decode_reason(await read_body())
        name = from_text(event_id)
        late = config().admission.late
        voided = None if name is None else await ledger.void(name, reason, late=late)
        if voided is None:
            return respond(_no_event(event_id))
        if voided.outcome is VoidOutcome.TOO_LATE:
            return respond(_TOO_LATE)
        return respond(Answer(_STATUS[voided.outcome], event_document(voided.event)))


def decode_reason(body: bytes) -> str:
    """Raises UnfitParameterError, naming what is wrong and what it takes."""
    given = json_object(body, _EXAMPLE)
    for name in given:
        if name != "reason":
            raise UnfitParameterError(f"{quoted(name[:60])} is no field; there is reason")
    reason = given.get("reason")
    if reason is None:
        raise UnfitParameterError(f"reason is required: {_REASON}")
    if not isinstance(reason, str) or not 0 < len(reason.strip()) <= len(reason) <= REASON_MAX:
        raise UnfitParameterError(_REASON)
    if not _OTHER_CONTROL_CHARACTERS.isdisjoint(reason):
        raise UnfitParameterError(_OTHER)
    return reason


async def _event(ledger: Ledger, event_id: str) -> StoredEvent | None:
    name = from_text(event_id)
    if name is None:
        return None
    # Of all that is not behind it, the last: either the event itself, or there is none.
    last = await ledger.events(EventQuery(), limit=1, before=next_id(name))
    return next((stored for stored in last if stored.id == name), None)


async def _refuse_pruned(ledger: Ledger, event_id: str) -> None:
    """Raises PrunedError where there may have been an event of that id, which says when it came."""
    name, until_ms = from_text(event_id), await ledger.pruned_until_ms()
    if name is not None and stamp_of(name).received_ms < until_ms:
        raise PrunedError(until_ms)


def _no_event(event_id: str) -> Answer:
    return problems.problem(
        HTTPStatus.NOT_FOUND,
        f"No event has the id {quoted(event_id)}: GET /events lists them, each with its _id",
    )


_TOO_LATE: Final = problems.problem(
    HTTPStatus.UNPROCESSABLE_ENTITY,
    'The event is in an hour that is closed, and stays as it is (late = "reject")',
)
