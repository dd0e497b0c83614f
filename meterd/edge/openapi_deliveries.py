"""Deliveries of webhooks, as the API's document describes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from meterd.domain.credentials import Scope
from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.outcomes import ErrorKind
from meterd.domain.periods import PeriodType
from meterd.edge.holds import Hold
from meterd.edge.openapi_parts import (
    ASKING,
    CURSOR,
    CUSTOMER,
    CUSTOMER_ID,
    DELIVERY_ID,
    PERIODS,
    STORING,
    TEXT,
    UNFIT,
    WEBHOOK,
    WITH_BODY,
    Exchange,
    Instant,
    Operation,
    Parameter,
    Reply,
    in_path,
    keyed,
    limit,
)

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class Delivery(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A body on its way to a webhook. Of a batch there is ``deliveries``, how many it has, and
    neither sequence, customer nor revision; of a threshold that was reached there are event type
    and ``threshold``, and no revision. ``held`` says what keeps it from being sent.
    """

    id: str
    endpoint: str
    type: str | UnsetType = UNSET
    sequence: int | UnsetType = UNSET
    customer_id: str | UnsetType = UNSET
    period: PeriodType
    period_key: str
    period_start: Instant
    period_end: Instant
    revision: int | UnsetType = UNSET
    status: DeliveryStatus
    attempts: int
    created_at: Instant
    next_attempt_at: Instant | UnsetType = UNSET
    attempt_begun_at: Instant | UnsetType = UNSET
    delivered_at: Instant | UnsetType = UNSET
    dry_run: bool | UnsetType = UNSET
    last_attempt_at: Instant | UnsetType = UNSET
    last_error: str | UnsetType = UNSET
    held: Hold | UnsetType = UNSET
    event_type: str | UnsetType = UNSET
    threshold: str | UnsetType = UNSET
    deliveries: int | UnsetType = UNSET


class ListedDelivery(Delivery, frozen=True, rename="camel", kw_only=True):
    """With its ``payload`` where ``afterSequence`` was given."""

    payload: dict[str, Any] | UnsetType = UNSET


class Attempt(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What was sent, and what came of it. ``curl`` is the line that sends it once more, with its
    signature of then; what may be a token in the URL is masked.
    """

    number: int
    started_at: Instant
    ended_at: Instant | UnsetType = UNSET
    duration_ms: int | UnsetType = UNSET
    outcome_unknown: bool | UnsetType = UNSET
    dry_run: bool | UnsetType = UNSET
    error: str | UnsetType = UNSET
    error_class: ErrorKind | UnsetType = UNSET
    url: str | UnsetType = UNSET
    address: str | UnsetType = UNSET
    request_headers: list[tuple[str, str]] | UnsetType = UNSET
    body_sha256: str | UnsetType = msgspec.field(default=UNSET, name="bodySha256")
    status: int | UnsetType = UNSET
    response_headers: list[tuple[str, str]] | UnsetType = UNSET
    response_body: str | UnsetType = UNSET
    response_body_base64: str | UnsetType = msgspec.field(default=UNSET, name="responseBodyBase64")
    response_cut: bool | UnsetType = UNSET
    curl: str | UnsetType = UNSET


class LoggedAttempt(Attempt, frozen=True, rename="camel", kw_only=True):
    """``batch`` is the id of the batch that it went with, of which it was that attempt."""

    batch: str | UnsetType = UNSET
    batch_attempt: int | UnsetType = UNSET


class DeliveryHistory(Delivery, frozen=True, rename="camel", kw_only=True):
    """With its body and its last attempts, the earliest first."""

    batch: str | UnsetType = UNSET
    body: str
    body_sha256: str = msgspec.field(name="bodySha256")
    attempts_kept: int
    attempt_log: list[LoggedAttempt]


class ReplayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that closed within ``from`` and ``to``, both inclusive, goes to the webhook
    ``endpoint``. ``dryRun`` counts only. ``cursor`` is that of the answer before.
    """

    endpoint: str
    start: Instant = msgspec.field(name="from")
    end: Instant | UnsetType = msgspec.field(default=UNSET, name="to")
    dry_run: bool = msgspec.field(default=False, name="dryRun")
    cursor: str | UnsetType = UNSET


class Replayed(msgspec.Struct, frozen=True, rename="camel"):
    """How many are sent again, and how many were made. With ``cursor`` there is more: send the
    same body with it.
    """

    dry_run: bool
    again: int
    created: int
    held: Hold | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


_DELIVERY: Final[dict[str, Any]] = {
    "id": DELIVERY_ID,
    "endpoint": WEBHOOK,
    "type": "aggregation.completed",
    "sequence": 1,
    "customerId": CUSTOMER,
    "period": "hourly",
    "periodKey": "2026011410",
    "periodStart": "2026-01-14T10:00:00.000Z",
    "periodEnd": "2026-01-14T10:59:59.999Z",
    "revision": 1,
    "status": "delivered",
    "attempts": 1,
    "createdAt": "2026-01-14T11:05:00.120Z",
    "deliveredAt": "2026-01-14T11:05:00.301Z",
    "lastAttemptAt": "2026-01-14T11:05:00.301Z",
}
_BODY: Final = (
    '{"type":"aggregation.completed","customerId":"customer_1","period":"hourly","data":'
    '{"periodKey":"2026011410","events":{"api.calls":542}},"created":1768388700,"sequence":1}'
)
_SHA256: Final = "3b6ff1e6f5d6c2a1b0c9d8e7f60514233241506f7e8d9cab0c1d2e3f4a5b6c7d"
ATTEMPT: Final[dict[str, Any]] = {
    "number": 1,
    "startedAt": "2026-01-14T11:05:00.250Z",
    "endedAt": "2026-01-14T11:05:00.301Z",
    "durationMs": 51,
    "url": "https://billing.example/webhooks/metering",
    "address": "192.0.2.7:443",
    "requestHeaders": [["Content-Type", "application/json"], ["webhook-id", DELIVERY_ID]],
    "bodySha256": _SHA256,
    "status": 200,
    "responseHeaders": [["content-length", "2"]],
    "responseBody": "ok",
    "curl": "curl -isS -X POST https://billing.example/webhooks/metering --data-binary ...",
}
_ID: Final = in_path(
    "deliveryId", "The delivery's `id`, which is the `webhook-id` it is sent with."
)
_NONE: Final = 'No delivery has the id "msg_0": GET /deliveries lists them'
_MISSING: Final = Reply(status=HTTPStatus.NOT_FOUND, about="There is no such delivery.")

LIST_DELIVERIES: Final = Operation(
    id="listDeliveries",
    method="get",
    path="/deliveries",
    scope=Scope.READ,
    tag="Webhooks",
    summary="List deliveries",
    about="The newest first, with what holds them. With `endpoint` and `afterSequence` it is that"
    " webhook's stream, to be pulled: by sequence, each with its `payload`. Other parameters, and"
    " empty ones, are refused.",
    parameters=(
        Parameter(name="endpoint", about="To the webhook of this id only.", schema=TEXT),
        CUSTOMER_ID,
        Parameter(name="period", about="Of periods of this length only.", schema=PERIODS),
        Parameter(
            name="status",
            about="In this state only: `parked` is what was given up.",
            schema={"type": "string", "enum": list(map(str, DeliveryStatus))},
        ),
        Parameter(
            name="afterSequence",
            about="Behind the last sequence received, 0 for none; needs `endpoint`.",
            schema={"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
        ),
        limit(),
        CURSOR,
    ),
    replies=(
        Reply(
            about="An array. `Link` leads to the next page, where there is one.",
            kind=list[ListedDelivery],
            headers=("Link",),
            links={
                "getDelivery": ("deliveryId", "$response.body#/0/id"),
                "retryDelivery": ("deliveryId", "$response.body#/0/id"),
            },
        ),
        UNFIT,
        Reply(status=HTTPStatus.NOT_FOUND, about="No webhook has that id."),
    ),
    exchanges=(
        Exchange(
            name="ofOneCustomer",
            about="Of a customer, of its hours",
            given={"customerId": CUSTOMER, "period": "hourly", "status": "delivered", "limit": 10},
            answer=[_DELIVERY],
        ),
        Exchange(
            name="stream",
            about="A webhook's stream from the beginning",
            given={"endpoint": WEBHOOK, "afterSequence": 0},
            answer=[{**_DELIVERY, "payload": {"type": "aggregation.completed"}}],
        ),
        Exchange(
            name="noEndpoint",
            about="A stream of no webhook",
            given={"afterSequence": 0},
            status=HTTPStatus.BAD_REQUEST,
            answer={"error": "afterSequence needs endpoint: each has its own sequences"},
        ),
        Exchange(
            name="unknownEndpoint",
            about="A webhook that there is not",
            given={"endpoint": "nobody"},
            status=HTTPStatus.NOT_FOUND,
            answer={"error": 'No webhook has the id "nobody": GET /webhooks lists them'},
        ),
    ),
    refusals=(*keyed(Scope.READ), *ASKING),
)

GET_DELIVERY: Final = Operation(
    id="getDelivery",
    method="get",
    path="/deliveries/{deliveryId}",
    scope=Scope.READ,
    tag="Webhooks",
    summary="Show a delivery",
    about="With its body, its last 100 attempts of `attemptsKept`, and what it waits for.",
    parameters=(
        _ID,
        Parameter(
            name="skip",
            about="How many of the last attempts to leave out.",
            schema={"type": "integer", "minimum": 0, "maximum": 999_999, "default": 0},
        ),
    ),
    replies=(Reply(about="The delivery.", kind=DeliveryHistory), UNFIT, _MISSING),
    exchanges=(
        Exchange(
            name="delivered",
            about="One that has arrived",
            given={"deliveryId": DELIVERY_ID},
            answer={
                **_DELIVERY,
                "body": _BODY,
                "bodySha256": _SHA256,
                "attemptsKept": 1,
                "attemptLog": [ATTEMPT],
            },
        ),
        Exchange(
            name="noDelivery",
            about="There is none of that id",
            given={"deliveryId": "msg_0", "skip": 100},
            status=HTTPStatus.NOT_FOUND,
            answer={"error": _NONE},
        ),
    ),
    refusals=(*keyed(Scope.READ), *ASKING),
)

RETRY: Final = Operation(
    id="retryDelivery",
    method="post",
    path="/deliveries/{deliveryId}/retry",
    scope=Scope.ADMIN,
    tag="Webhooks",
    summary="Send a delivery again",
    about="At once, whatever became of it before, under the same `webhook-id`; or `held` says what"
    " it waits for. A body is passed over.",
    parameters=(_ID,),
    replies=(Reply(about="It is to be sent.", kind=Delivery), _MISSING),
    exchanges=(
        Exchange(
            name="again",
            about="Once more",
            given={"deliveryId": DELIVERY_ID},
            answer={
                **{name: value for name, value in _DELIVERY.items() if name != "deliveredAt"},
                "status": "pending",
                "nextAttemptAt": "2026-01-14T12:00:00.000Z",
            },
        ),
        Exchange(
            name="noDelivery",
            about="There is none of that id",
            given={"deliveryId": "msg_0"},
            status=HTTPStatus.NOT_FOUND,
            answer={"error": _NONE},
        ),
    ),
    refusals=(*keyed(Scope.ADMIN), *STORING),
)

REPLAY: Final = Operation(
    id="replayDeliveries",
    method="post",
    path="/deliveries/replay",
    scope=Scope.ADMIN,
    tag="Webhooks",
    summary="Send all that closed between two moments",
    about="What the webhook was sent before goes again under its `webhook-id`, what it was never"
    " sent is made. A field that nobody knows is refused.",
    body=ReplayRequest,
    replies=(
        Reply(about="How much is sent, or would be.", kind=Replayed),
        Reply(
            status=HTTPStatus.BAD_REQUEST,
            about="A field is not what it takes: the message names both.",
        ),
    ),
    exchanges=(
        Exchange(
            name="counted",
            about="Count only",
            body={"endpoint": WEBHOOK, "from": "2026-01-01T00:00:00.000Z", "dryRun": True},
            answer={"dryRun": True, "again": 12, "created": 0},
        ),
        Exchange(
            name="fromTheFuture",
            about="Nothing has closed yet",
            body={"endpoint": WEBHOOK, "from": "9000-01-01T00:00:00.000Z"},
            status=HTTPStatus.BAD_REQUEST,
            answer={"error": "from must not be in the future"},
        ),
    ),
    refusals=(*keyed(Scope.ADMIN), *STORING, *WITH_BODY),
)

OPERATIONS: Final = (LIST_DELIVERIES, GET_DELIVERY, RETRY, REPLAY)
