"""How events come in: what ``POST /usage/{eventType}`` and ``POST /usagebatch`` take and answer.

What they take is said by the types that decode it (``domain.events``).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec

from meterd.domain.credentials import Scope
from meterd.domain.event_fields import IDEMPOTENCY_KEY_MAX
from meterd.domain.events import BATCH_MAX, NewEvent, NewItem
from meterd.edge.openapi_parts import (
    CUSTOMER,
    DATING,
    EVENT_TYPE,
    STORING,
    WITH_BODY,
    Exchange,
    Operation,
    Parameter,
    Reply,
    in_path,
    keyed,
)


def batch_of(item: Any) -> Any:
    """The type of an array of so many of them as a batch may have."""
    return Annotated[list[item], msgspec.Meta(min_length=1, max_length=BATCH_MAX)]


NewBatch: Final = batch_of(NewItem)


class EventCaptured(msgspec.Struct, frozen=True, rename="camel"):
    """The event is on disk; as a repeat it was before, and counts nothing."""

    message: str
    event_type: str
    customer_id: str
    duplicate: bool | msgspec.UnsetType = msgspec.UNSET


class EventRefused(msgspec.Struct, frozen=True, rename="camel"):
    """Nothing was stored. ``details`` has at most one line for each field."""

    error: str
    details: list[str]


class EventsCaptured(msgspec.Struct, frozen=True, rename="camel"):
    """All events are on disk; ``duplicates`` of them were before, and count nothing."""

    message: str
    count: int
    duplicates: int | msgspec.UnsetType = msgspec.UNSET


class ItemErrors(msgspec.Struct, frozen=True, rename="camel"):
    """What is wrong with the item of that index."""

    index: int
    errors: list[str]


class EventsPartlyCaptured(msgspec.Struct, frozen=True, rename="camel"):
    """The others are on disk; those in ``failures`` are not."""

    message: str
    success_count: int
    failed_count: int
    failures: list[ItemErrors]
    duplicates: int | msgspec.UnsetType = msgspec.UNSET


class BatchRefused(msgspec.Struct, frozen=True, rename="camel"):
    """Nothing was stored. ``validationErrors`` has every item that is invalid; it is not there
    where the header ``Idempotency-Key`` is what is wrong, as ``details`` then says.
    """

    error: str
    validation_errors: list[ItemErrors] | msgspec.UnsetType = msgspec.UNSET
    valid_count: int | msgspec.UnsetType = msgspec.UNSET
    invalid_count: int | msgspec.UnsetType = msgspec.UNSET
    details: list[str] | msgspec.UnsetType = msgspec.UNSET


class BatchTooLarge(msgspec.Struct, frozen=True, rename="camel"):
    """Nothing was stored: there are too many events, or too many bytes, which have no count."""

    error: str
    received: int | msgspec.UnsetType = msgspec.UNSET
    max_allowed: int | msgspec.UnsetType = msgspec.UNSET


_KEY: Final = Parameter(
    name="Idempotency-Key",
    place="header",
    about="Means the same as `idempotencyKey` in the body: sent again under it, the event counts"
    " once. ASCII, bare or in double quotes.",
    schema={
        "type": "string",
        "minLength": 1,
        "maxLength": IDEMPOTENCY_KEY_MAX,
        "pattern": r"^[!#-~]+$",
    },
)
_OF_BATCH: Final = msgspec.structs.replace(
    _KEY,
    about="The whole batch's: items without an `idempotencyKey` of their own are told apart by"
    " their order among their customer's.",
)
_PREFER: Final = Parameter(
    name="Prefer",
    place="header",
    about="With `handling=lenient` valid events are stored also where others are not (RFC 7240)."
    " Any other preference is passed over.",
    schema={"type": "string", "examples": ["handling=lenient"]},
)
_KEYED: Final = {"customerId": CUSTOMER, "value": 1, "idempotencyKey": "order-4711"}
_CAPTURED: Final = {
    "message": "Event captured",
    "eventType": EVENT_TYPE,
    "customerId": CUSTOMER,
}


def _single(
    name: str,
    about: str,
    body: Any,
    answer: Any,
    status: int = 201,
    *,
    key: str | None = None,
) -> Exchange:
    in_head = {} if key is None else {_KEY.name: key}
    return Exchange(
        name=name,
        about=about,
        given={"eventType": EVENT_TYPE, **in_head},
        body=body,
        answer=answer,
        status=HTTPStatus(status),
    )


def _invalid(*details: str) -> dict[str, Any]:
    return {"error": "Validation failed", "details": list(details)}


CAPTURE: Final = Operation(
    id="captureEvent",
    method="post",
    path="/usage/{eventType}",
    scope=Scope.INGEST,
    tag="Events",
    summary="Capture an event",
    about="Answered with 201 when the event is on disk. The body is taken for JSON whatever its"
    " Content-Type says; fields of other names are passed over, and where one comes twice the last"
    " counts. A request that was not answered is sent again under its `idempotencyKey`: it counts"
    " once.",
    parameters=(
        in_path(
            "eventType",
            "One of the event types that are configured, as `GET /config` shows them.",
        ),
        _KEY,
    ),
    body=NewEvent,
    replies=(
        Reply(
            status=HTTPStatus.CREATED,
            about="The event is on disk, and counts.",
            kind=EventCaptured,
        ),
        Reply(
            about="It was captured before, under its key: nothing is counted.", kind=EventCaptured
        ),
        Reply(
            status=HTTPStatus.BAD_REQUEST,
            about="The body is not a JSON object, or the event type is not configured.",
            headers=("Meterd-Malformed",),
        ),
        Reply(status=HTTPStatus.NOT_FOUND, about="The path has a slash too many."),
        Reply(
            status=HTTPStatus.CONFLICT,
            about="The idempotency key came before with other content: nothing was stored.",
        ),
        Reply(
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
            about="Fields are not what they should be: nothing was stored.",
            kind=EventRefused,
        ),
    ),
    exchanges=(
        _single("one", "An event", {"customerId": CUSTOMER, "value": 1}, _CAPTURED),
        _single(
            "withMetadata",
            "With metadata",
            {"customerId": CUSTOMER, "value": 0.1, "metadata": {"endpoint": "/api/users"}},
            _CAPTURED,
        ),
        _single(
            "dated",
            "Of another time",
            {"customerId": CUSTOMER, "value": 2, "timestamp": "2026-01-14T10:58:00.000Z"},
            _CAPTURED,
        ),
        _single("keyed", "Under an idempotency key", _KEYED, _CAPTURED),
        _single(
            "repeated",
            "Sent again",
            _KEYED,
            {**_CAPTURED, "message": "Event already captured", "duplicate": True},
            200,
        ),
        _single(
            "keyInHeader",
            "The key in the head, and other content than before",
            {"customerId": CUSTOMER, "value": 2},
            {"error": "idempotencyKey was used before for an event with other content"},
            409,
            key="order-4711",
        ),
        _single(
            "invalid",
            "Without a customer, and a text for a value",
            {"value": "1"},
            _invalid("customerId is required", "value must be a finite number"),
            422,
        ),
        _single(
            "noObject",
            "No JSON object",
            "one",
            {"error": "Request body must be a JSON object"},
            400,
        ),
    ),
    refusals=(*keyed(Scope.INGEST), *STORING, *WITH_BODY, *DATING),
)

_BATCH: Final = [
    {"eventType": EVENT_TYPE, "customerId": CUSTOMER, "value": 1},
    {"eventType": EVENT_TYPE, "customerId": "customer_2", "value": 2, "metadata": {"plan": "pro"}},
]
_FAULTY: Final = [_BATCH[0], {"eventType": EVENT_TYPE, "customerId": "customer_2", "value": None}]
_ERRORS: Final = [{"index": 1, "errors": ["value is required"]}]


def _several(
    name: str,
    about: str,
    body: Any,
    answer: Any,
    status: int = 201,
    *,
    key: str | None = None,
    prefer: str | None = None,
) -> Exchange:
    given = {_KEY.name: key, _PREFER.name: prefer}
    return Exchange(
        name=name,
        about=about,
        given={name: value for name, value in given.items() if value is not None},
        body=body,
        answer=answer,
        status=HTTPStatus(status),
    )


CAPTURE_BATCH: Final = Operation(
    id="captureBatch",
    method="post",
    path="/usagebatch",
    scope=Scope.INGEST,
    tag="Events",
    summary="Capture many events",
    about=f"An array of up to {BATCH_MAX} events, each with its `eventType`. All of them are"
    " stored, in one transaction, or none; with `Prefer: handling=lenient` those that are valid.",
    parameters=(_OF_BATCH, _PREFER),
    body=NewBatch,
    replies=(
        Reply(
            status=HTTPStatus.CREATED,
            about="All events are on disk, and count.",
            kind=EventsCaptured,
        ),
        Reply(
            status=HTTPStatus.MULTI_STATUS,
            about="Some were stored, and some not: only behind `Prefer: handling=lenient`.",
            kind=EventsPartlyCaptured,
        ),
        Reply(
            status=HTTPStatus.BAD_REQUEST,
            about="The body is not a JSON array, or an empty one.",
            headers=("Meterd-Malformed",),
        ),
        Reply(
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            about="Too many events, or bytes: nothing was stored.",
            kind=BatchTooLarge,
        ),
        Reply(
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
            about="Events are not what they should be: nothing was stored.",
            kind=BatchRefused,
        ),
    ),
    exchanges=(
        _several("two", "Two events", _BATCH, {"message": "Events captured", "count": 2}),
        _several(
            "keyedBatch",
            "A batch under one key",
            _BATCH,
            {"message": "Events captured", "count": 2},
            key="batch-17",
        ),
        _several(
            "repeatedBatch",
            "Sent again",
            _BATCH,
            {"message": "Events captured", "count": 2, "duplicates": 2},
            key="batch-17",
        ),
        _several(
            "lenient",
            "What is valid is stored",
            _FAULTY,
            {
                "message": "Events partially captured",
                "successCount": 1,
                "failedCount": 1,
                "failures": _ERRORS,
            },
            207,
            prefer="handling=lenient",
        ),
        _several(
            "invalidBatch",
            "All or nothing",
            _FAULTY,
            {
                "error": "Validation failed for some events",
                "validationErrors": _ERRORS,
                "validCount": 1,
                "invalidCount": 1,
            },
            422,
        ),
        _several("empty", "No event", [], {"error": "Events array cannot be empty"}, 400),
    ),
    refusals=(*keyed(Scope.INGEST), *STORING, *WITH_BODY, *DATING),
)

OPERATIONS: Final = (CAPTURE, CAPTURE_BATCH)
