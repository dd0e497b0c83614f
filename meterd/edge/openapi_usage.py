"""Customers and their usage, as the API's document describes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from meterd.domain.credentials import Scope
from meterd.domain.operations import Operation as Figure
from meterd.domain.periods import PeriodType
from meterd.edge.openapi_parts import (
    ASKING,
    CURSOR,
    CUSTOMER,
    CUSTOMER_ID,
    EVENT_TYPE,
    PERIODS,
    PRUNED,
    TEXT,
    UNFIT,
    Exchange,
    Instant,
    Operation,
    Parameter,
    Reply,
    in_path,
    instant,
    keyed,
    limit,
)
from meterd.edge.usage_request import GROUP_BY_MAX, LIMIT_MAX


class Customer(msgspec.Struct, frozen=True, rename="camel"):
    """One that events came of, and when the first was received."""

    customer_id: str
    first_seen: Instant


class ExactFigures(msgspec.Struct, frozen=True):
    """Every digit, as text; of ``avg`` 34, rounded half-even."""

    value: str | None
    sum: str
    avg: str
    min: str
    max: str
    first: str
    last: str


class Figures(msgspec.Struct, frozen=True):
    """What the events of a type come to: ``value`` by the operation that is configured, and all
    others. Both are null for a type that is not configured any more.
    """

    operation: Figure | None
    value: float | None
    count: int
    sum: float
    avg: float
    min: float
    max: float
    first: float
    last: float
    exact: ExactFigures


class LiveUsage(msgspec.Struct, frozen=True, rename="camel"):
    """A customer's running totals of a period, by event type; those without events are not there.
    ``firstSeen`` is null for one that no event came of.
    """

    customer_id: str
    first_seen: Instant | None
    period: PeriodType
    period_start: Instant
    period_end: Instant
    period_key: str
    status: Literal["open", "closed"]
    usage: dict[str, Figures]


class UsageRow(Figures, frozen=True, rename="camel", kw_only=True):
    """What the events of one window and event type come to. ``group`` has a value for each
    ``groupBy``, null where events have none.
    """

    customer_id: str
    window: PeriodType
    period_start: Instant
    period_end: Instant
    period_key: str
    status: Literal["open", "closed"]
    event_type: str
    group: dict[str, str | None] | msgspec.UnsetType = msgspec.UNSET


_FIGURES: Final = {
    "operation": "sum",
    "value": 542,
    "count": 542,
    "sum": 542,
    "avg": 1,
    "min": 1,
    "max": 1,
    "first": 1,
    "last": 1,
    "exact": {
        "value": "542",
        "sum": "542",
        "avg": "1",
        "min": "1",
        "max": "1",
        "first": "1",
        "last": "1",
    },
}
_MONTH: Final = {
    "periodStart": "2026-01-01T00:00:00.000Z",
    "periodEnd": "2026-01-31T23:59:59.999Z",
    "periodKey": "202601",
    "status": "open",
}
_ROW: Final[dict[str, Any]] = {
    "customerId": CUSTOMER,
    "window": "monthly",
    **_MONTH,
    "eventType": EVENT_TYPE,
}

LIST_CUSTOMERS: Final = Operation(
    id="listCustomers",
    method="get",
    path="/customers",
    scope=Scope.READ,
    tag="Usage",
    summary="List customers",
    about="Everyone that events came of, by id. Other parameters, and empty ones, are refused.",
    parameters=(limit(LIMIT_MAX), CURSOR),
    replies=(
        Reply(
            about="An array. `Link` leads to the next page, where there is one.",
            kind=list[Customer],
            headers=("Link",),
            links={"getCustomerUsage": ("customerId", "$response.body#/0/customerId")},
        ),
        UNFIT,
    ),
    exchanges=(
        Exchange(
            name="firstTen",
            about="Ten of them",
            given={"limit": 10},
            answer=[{"customerId": CUSTOMER, "firstSeen": "2026-01-14T10:58:20.416Z"}],
        ),
    ),
    refusals=(*keyed(Scope.READ), *ASKING),
)

LIVE_USAGE: Final = Operation(
    id="getCustomerUsage",
    method="get",
    path="/customers/{customerId}/usage",
    scope=Scope.READ,
    tag="Usage",
    summary="Show a customer's running totals",
    about="An event that was acknowledged is in them, at once. A customer that never sent one is no"
    " error. Other parameters, and empty ones, are refused.",
    parameters=(
        in_path("customerId", "The customer's id, percent-encoded."),
        Parameter(
            name="period",
            about="In which period.",
            schema={**PERIODS, "default": PeriodType.MONTHLY.value},
        ),
        instant("at", "In the period of that moment; without it, in the one that runs"),
    ),
    replies=(
        Reply(about="The totals, by event type.", kind=LiveUsage),
        UNFIT,
        Reply(status=HTTPStatus.NOT_FOUND, about="The path has a slash too many."),
    ),
    exchanges=(
        Exchange(
            name="thisMonth",
            about="In the month that runs",
            given={"customerId": CUSTOMER},
            answer={
                "customerId": CUSTOMER,
                "firstSeen": "2026-01-14T10:58:20.416Z",
                "period": "monthly",
                **_MONTH,
                "usage": {EVENT_TYPE: _FIGURES},
            },
        ),
        Exchange(
            name="nobody",
            about="Of one that sent nothing, in an hour",
            given={"customerId": "nobody/at all", "period": "hourly", "at": "2026-01-14T10:30:00Z"},
            answer={
                "customerId": "nobody/at all",
                "firstSeen": None,
                "period": "hourly",
                "periodStart": "2026-01-14T10:00:00.000Z",
                "periodEnd": "2026-01-14T10:59:59.999Z",
                "periodKey": "2026011410",
                "status": "closed",
                "usage": {},
            },
        ),
    ),
    refusals=(*keyed(Scope.READ), *ASKING),
)

USAGE: Final = Operation(
    id="getUsage",
    method="get",
    path="/usage",
    scope=Scope.READ,
    tag="Usage",
    summary="Show a customer's usage over windows",
    about="A row for each window, event type and group, the earliest window first. Windows are"
    " whole UTC periods. The answer is whole, or it is refused; with `limit` it comes in pages."
    " Events whose `metadata` has a name with that text are let through by"
    " `filter.metadata.<name>`: given several times, any of the texts; of several names, all.",
    parameters=(
        msgspec.structs.replace(CUSTOMER_ID, required=True, about="Whose usage."),
        Parameter(
            name="eventType",
            about="Of this type only: one that is configured, or that events are stored of.",
            schema=TEXT,
        ),
        instant("from", "Where the first window begins, in UTC"),
        instant("to", "Where the last window ends, in UTC"),
        Parameter(
            name="window",
            about="How long a window is.",
            schema={**PERIODS, "default": PeriodType.DAILY.value},
        ),
        Parameter(
            name="groupBy",
            about="A row for each value of that name of `metadata`.",
            schema={
                "type": "array",
                "items": {"type": "string", "pattern": r"^metadata\..+$"},
                "maxItems": GROUP_BY_MAX,
                "uniqueItems": True,
            },
        ),
        limit(LIMIT_MAX, None),
        CURSOR,
    ),
    replies=(
        Reply(
            about="An array, or CSV where `Accept: text/csv` asks for it, with every digit. `Link`"
            " leads to the next page, where there is one.",
            kind=list[UsageRow],
            others={"text/csv": str},
            headers=("Link",),
        ),
        UNFIT,
    ),
    exchanges=(
        Exchange(
            name="byMonth",
            about="By month",
            given={"customerId": CUSTOMER, "window": "monthly"},
            answer=[_ROW | _FIGURES],
        ),
        Exchange(
            name="grouped",
            about="By a name of metadata, of one type",
            given={
                "customerId": CUSTOMER,
                "eventType": EVENT_TYPE,
                "window": "monthly",
                "groupBy": ["metadata.endpoint"],
                "from": "2026-01-01",
            },
            answer=[_ROW | {"group": {"metadata.endpoint": "/api/users"}} | _FIGURES],
        ),
        Exchange(
            name="notABorder",
            about="In the middle of a month",
            given={"customerId": CUSTOMER, "window": "monthly", "from": "2026-01-14"},
            status=HTTPStatus.BAD_REQUEST,
            answer={
                "error": "from must be where a window that is monthly begins, in UTC:"
                " 2026-01-01T00:00:00.000Z or 2026-02-01T00:00:00.000Z"
            },
        ),
    ),
    refusals=(*keyed(Scope.READ), *ASKING, *PRUNED),
)

OPERATIONS: Final = (LIST_CUSTOMERS, LIVE_USAGE, USAGE)
