"""Aggregations and the trigger, as the API's document describes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, Literal

import msgspec

from meterd.domain.credentials import Scope
from meterd.domain.periods import PeriodType
from meterd.edge.openapi_parts import (
    ASKING,
    CURSOR,
    CUSTOMER,
    CUSTOMER_ID,
    EVENT_TYPE,
    PASSED_OVER,
    PERIODS,
    STORING,
    UNFIT,
    Exchange,
    Instant,
    Operation,
    Parameter,
    Reply,
    instant,
    keyed,
    limit,
    or_empty,
)

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class WebhookStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One for all webhooks: delivered when each has it, else the last failure."""

    delivered: bool
    attempts: int
    delivered_at: Instant | UnsetType = UNSET
    dry_run: bool | UnsetType = UNSET
    last_error: str | UnsetType = UNSET
    last_attempt_at: Instant | UnsetType = UNSET


class Aggregation(msgspec.Struct, frozen=True, rename="camel"):
    """A customer's totals of a period: by event type the figure of its operation, and of how many
    events. ``exact`` has every digit, as text. ``digest`` is chained to what was published before.
    """

    id: str = msgspec.field(name="_id")
    customer_id: str
    period: PeriodType
    period_start: Instant
    period_end: Instant
    period_key: str
    timestamp: Instant
    events: dict[str, float]
    event_counts: dict[str, int]
    webhook_status: WebhookStatus
    event_count: int
    created_at: Instant
    status: Literal["open", "closed"]
    revision: int
    exact: dict[str, str]
    digest: str | UnsetType = UNSET


class Triggered(msgspec.Struct, frozen=True, rename="camel"):
    """What was written, and for how many customers and events."""

    message: str
    jobs_created: int
    jobs_updated: int
    jobs_queued: int
    customers_found: int
    periods_configured: int
    events_scanned: int


class NothingTriggered(msgspec.Struct, frozen=True, rename="camel"):
    """There is no event at all."""

    message: str
    jobs_queued: int


_AGGREGATION: Final = {
    "_id": f"{CUSTOMER}_hourly_2026011410",
    "customerId": CUSTOMER,
    "period": "hourly",
    "periodStart": "2026-01-14T10:00:00.000Z",
    "periodEnd": "2026-01-14T10:59:59.999Z",
    "periodKey": "2026011410",
    "timestamp": "2026-01-14T11:05:00.120Z",
    "events": {EVENT_TYPE: 542},
    "eventCounts": {EVENT_TYPE: 542},
    "webhookStatus": {
        "delivered": True,
        "attempts": 1,
        "deliveredAt": "2026-01-14T11:05:00.301Z",
    },
    "eventCount": 542,
    "createdAt": "2026-01-14T11:05:00.120Z",
    "status": "closed",
    "revision": 1,
    "exact": {EVENT_TYPE: "542"},
    "digest": "2f7a1c9e4b8d6053f1e2d3c4b5a69788796a5b4c3d2e1f00112233445566778f",
}

LIST_AGGREGATIONS: Final = Operation(
    id="listAggregations",
    method="get",
    path="/aggregations",
    scope=Scope.READ,
    tag="Aggregations",
    summary="List aggregations",
    about="The last period first, then by customer. Those of running periods are as of the last"
    " trigger." + PASSED_OVER,
    parameters=or_empty(
        CUSTOMER_ID,
        Parameter(name="period", about="Of this length only.", schema=PERIODS),
        instant("from", "Periods that begin then or later"),
        instant("to", "Periods that begin then or earlier"),
        Parameter(
            name="revisions",
            about="`all` shows what was revised, too, behind what it became.",
            schema={"type": "string", "enum": ["newest", "all"], "default": "newest"},
        ),
        limit(),
        CURSOR,
    ),
    replies=(
        Reply(
            about="An array. `Link` leads to the next page, where there is one.",
            kind=list[Aggregation],
            headers=("Link",),
        ),
        UNFIT,
    ),
    exchanges=(
        Exchange(
            name="ofOneCustomer",
            about="The hours of a customer",
            given={"customerId": CUSTOMER, "period": "hourly"},
            answer=[_AGGREGATION],
        ),
        Exchange(
            name="allRevisions",
            about="With all revisions, since a day",
            given={"revisions": "all", "from": "2026-01-01", "limit": 5},
            answer=[_AGGREGATION],
        ),
        Exchange(
            name="badPeriod",
            about="A period that is none",
            given={"period": "secondly"},
            status=HTTPStatus.BAD_REQUEST,
            answer={"error": f"period must be one of: {', '.join(PeriodType)}"},
        ),
    ),
    refusals=(*keyed(Scope.READ), *ASKING),
)

TRIGGER: Final = Operation(
    id="triggerAggregations",
    method="post",
    path="/aggregations/trigger",
    scope=Scope.ADMIN,
    tag="Aggregations",
    summary="Close what has ended, show what runs",
    about="Every period that has ended is closed, grace or not, and its webhooks are sent. Of every"
    " period that runs an open aggregation is written, without a webhook. A body is passed over.",
    replies=(
        Reply(status=HTTPStatus.ACCEPTED, about="It is done.", kind=Triggered),
        Reply(about="There is no event at all.", kind=NothingTriggered),
        Reply(
            status=HTTPStatus.SERVICE_UNAVAILABLE,
            about="No periods are configured; or meterd is starting.",
        ),
    ),
    exchanges=(
        Exchange(
            name="triggered",
            about="Close and show",
            status=HTTPStatus.ACCEPTED,
            answer={
                "message": "Aggregation jobs queued for processing",
                "jobsCreated": 3,
                "jobsUpdated": 9,
                "jobsQueued": 12,
                "customersFound": 3,
                "periodsConfigured": 4,
                "eventsScanned": 5420,
            },
        ),
    ),
    refusals=(*keyed(Scope.ADMIN), *STORING),
)

OPERATIONS: Final = (LIST_AGGREGATIONS, TRIGGER)
