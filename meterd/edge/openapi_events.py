"""Events that are stored, and taken back, as the API's document describes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec

from meterd.domain.credentials import Scope
from meterd.domain.voids import REASON_MAX
from meterd.edge.openapi_parts import (
    ASKING,
    CURSOR,
    CUSTOMER,
    CUSTOMER_ID,
    EVENT_ID,
    EVENT_TYPE,
    NO_EVENT_ID,
    PASSED_OVER,
    PRUNED,
    RECEIVED_AT,
    STORING,
    TEXT,
    UNFIT,
    WITH_BODY,
    Exchange,
    Instant,
    Operation,
    Parameter,
    Reply,
    in_path,
    instant,
    keyed,
    limit,
    or_empty,
)

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class Void(msgspec.Struct, frozen=True, rename="camel"):
    """Why and when an event was taken back."""

    reason: str
    voided_at: Instant


class Event(msgspec.Struct, frozen=True, rename="camel"):
    """As it was stored; minute to year are of ``receivedAt``, in UTC, ``week`` is ISO 8601's.
    ``idempotencyKey`` is there where it was sent with one; where that was the header of its batch,
    ``idempotencyItem`` is its place among its customer's items. ``void`` is there where it was
    taken back.
    """

    id: str = msgspec.field(name="_id")
    event_type: str
    customer_id: str
    value: float
    metadata: dict[str, Any]
    received_at: Instant
    minute: str
    hour: str
    day: str
    week: str
    month: str
    year: str
    timestamp: Instant | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    idempotency_item: int | UnsetType = UNSET
    void: Void | UnsetType = UNSET


# What Python takes for blank: ECMA-262's \s, which is that of JSON Schema, is another set.
NOT_BLANK: Final = (
    r"[^\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
)
# But for tabs and line breaks.
NO_CONTROL_CHARACTERS: Final = (
    r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"  # all of category Cc
)


class VoidRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the event is taken back: not all blank, no control characters but line breaks."""

    reason: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=REASON_MAX,
            extra_json_schema={
                "allOf": [{"pattern": NOT_BLANK}, {"pattern": NO_CONTROL_CHARACTERS}]
            },
        ),
    ]


_EVENT: Final = {
    "_id": EVENT_ID,
    "eventType": EVENT_TYPE,
    "customerId": CUSTOMER,
    "value": 1,
    "metadata": {"endpoint": "/api/users"},
    "receivedAt": RECEIVED_AT,
    "minute": "202601141058",
    "hour": "2026011410",
    "day": "20260114",
    "week": "202603",
    "month": "202601",
    "year": "2026",
}
_VOID_EVENT: Final = {
    **_EVENT,
    "void": {"reason": "sent twice", "voidedAt": "2026-01-14T11:20:00.000Z"},
}
_ID: Final = in_path("eventId", "The event's `_id`.")
_NO_EVENT: Final = f'No event has the id "{NO_EVENT_ID}": GET /events lists them, each with its _id'

LIST_EVENTS: Final = Operation(
    id="listEvents",
    method="get",
    path="/events",
    scope=Scope.READ,
    tag="Events",
    summary="List events",
    about="The newest first, by the time of receipt." + PASSED_OVER,
    parameters=or_empty(
        CUSTOMER_ID,
        Parameter(
            name="eventType",
            about="Of this type only; one that nobody knows finds nothing.",
            schema=TEXT,
        ),
        instant("from", "Received then or later"),
        instant("to", "Received then or earlier"),
        limit(),
        Parameter(
            name="order",
            about="Which come first.",
            schema={"type": "string", "enum": ["newest", "oldest"], "default": "newest"},
        ),
        CURSOR,
    ),
    replies=(
        Reply(
            about="An array. `Link` leads to the next page, where there is one.",
            kind=list[Event],
            headers=("Link", "Meterd-Pruned-Until"),
            links={
                "getEvent": ("eventId", "$response.body#/0/_id"),
                "voidEvent": ("eventId", "$response.body#/0/_id"),
            },
        ),
        UNFIT,
    ),
    exchanges=(
        Exchange(
            name="ofOneCustomer",
            about="The last ten of a customer",
            given={"customerId": CUSTOMER, "limit": 10},
            answer=[_EVENT],
        ),
        Exchange(
            name="inARange",
            about="Of one type in some days, the oldest first",
            given={
                "eventType": EVENT_TYPE,
                "from": "2026-01-14",
                "to": "9000-01-01T00:00:00+01:00",
                "order": "oldest",
            },
            answer=[_EVENT],
        ),
        Exchange(
            name="badLimit",
            about="A limit that is none",
            given={"limit": 0},
            status=HTTPStatus.BAD_REQUEST,
            answer={"error": "limit must be a whole number from 1 to 100000"},
        ),
    ),
    refusals=(*keyed(Scope.READ), *ASKING),
)

GET_EVENT: Final = Operation(
    id="getEvent",
    method="get",
    path="/events/{eventId}",
    scope=Scope.READ,
    tag="Events",
    summary="Show an event",
    about="One event, by its `_id`. There are no query parameters.",
    parameters=(_ID,),
    replies=(
        Reply(
            about="The event.", kind=Event, links={"voidEvent": ("eventId", "$response.body#/_id")}
        ),
        UNFIT,
        Reply(status=HTTPStatus.NOT_FOUND, about="There is no such event."),
    ),
    exchanges=(
        Exchange(name="anEvent", about="An event", given={"eventId": EVENT_ID}, answer=_EVENT),
        Exchange(
            name="noEvent",
            about="There is none of that id",
            given={"eventId": NO_EVENT_ID},
            status=HTTPStatus.NOT_FOUND,
            answer={"error": _NO_EVENT},
        ),
    ),
    refusals=(*keyed(Scope.READ), *ASKING, *PRUNED),
)

VOID_EVENT: Final = Operation(
    id="voidEvent",
    method="post",
    path="/events/{eventId}/void",
    scope=Scope.ADMIN,
    tag="Events",
    summary="Take an event back",
    about="It stays in the log, and counts in no period any more; closed periods that it was in are"
    " published once more, as `aggregation.revised`.",
    parameters=(_ID,),
    body=VoidRequest,
    replies=(
        Reply(status=HTTPStatus.CREATED, about="The event is void.", kind=Event),
        Reply(about="It was void before: nothing changes.", kind=Event),
        Reply(status=HTTPStatus.BAD_REQUEST, about="There is no reason, or another field."),
        Reply(status=HTTPStatus.NOT_FOUND, about="There is no such event."),
        Reply(
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
            about='It is in an hour that is closed, and stays as it is (`late = "reject"`).',
        ),
    ),
    exchanges=(
        Exchange(
            name="sentTwice",
            about="An event that was sent twice",
            given={"eventId": EVENT_ID},
            body={"reason": "sent twice"},
            status=HTTPStatus.CREATED,
            answer=_VOID_EVENT,
        ),
        Exchange(
            name="voidBefore",
            about="And once more",
            given={"eventId": EVENT_ID},
            body={"reason": "sent twice"},
            answer=_VOID_EVENT,
        ),
        Exchange(
            name="noReason",
            about="Without a reason",
            given={"eventId": EVENT_ID},
            body={},
            status=HTTPStatus.BAD_REQUEST,
            answer={
                "error": f"reason is required: reason must be a string of 1 to {REASON_MAX}"
                " characters, not all of them blank"
            },
        ),
        Exchange(
            name="noEvent",
            about="There is none of that id",
            given={"eventId": NO_EVENT_ID},
            body={"reason": "sent twice"},
            status=HTTPStatus.NOT_FOUND,
            answer={"error": _NO_EVENT},
        ),
    ),
    refusals=(*keyed(Scope.ADMIN), *STORING, *WITH_BODY, *PRUNED),
)

OPERATIONS: Final = (LIST_EVENTS, GET_EVENT, VOID_EVENT)
