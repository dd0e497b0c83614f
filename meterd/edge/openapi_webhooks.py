"""Webhooks as they are configured and stand, as the API's document describes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from meterd.domain.credentials import Scope
from meterd.domain.endpoints import masked_secret
from meterd.edge.openapi_deliveries import ATTEMPT, Attempt
from meterd.edge.openapi_parts import (
    ASKING,
    STORING,
    WEBHOOK,
    Exchange,
    Instant,
    Operation,
    Reply,
    in_path,
    keyed,
)

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class ConfiguredWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """As the configuration has it; of a secret, or of both in a rotation, the last characters."""

    id: str
    url: str
    secret: str | list[str]
    enabled: bool
    description: str
    allow_private: list[str]
    schedule: list[str]
    deadline: str
    slots: int
    batch: int


class Statistics(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What came of attempts since the last start."""

    attempts: int
    delivered: int
    failed: int
    consecutive_failures: int
    one_at_a_time: bool
    in_the_air: int
    last_success_at: Instant | UnsetType = UNSET
    last_failure_at: Instant | UnsetType = UNSET
    last_error: str | UnsetType = UNSET


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """As it is configured, and how it stands; of one that is not configured any more only the
    latter. ``pending`` and ``parked`` are counted up to ``countedTo``, which stands for that many
    or more.
    """

    id: str
    url: str | UnsetType = UNSET
    secret: str | list[str] | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    description: str | UnsetType = UNSET
    allow_private: list[str] | UnsetType = UNSET
    schedule: list[str] | UnsetType = UNSET
    deadline: str | UnsetType = UNSET
    slots: int | UnsetType = UNSET
    batch: int | UnsetType = UNSET
    state: Literal["on", "paused", "gone", "off", "removed"]
    paused_until: Instant | UnsetType = msgspec.field(default=UNSET, name="pausedUntil")
    gone_since: Instant | UnsetType = msgspec.field(default=UNSET, name="goneSince")
    last_sequence: int = msgspec.field(name="lastSequence")
    pending: int
    parked: int
    counted_to: int = msgspec.field(name="countedTo")
    statistics: Statistics | UnsetType = UNSET


class Probed(Attempt, frozen=True, rename="camel", kw_only=True):
    """The test that was sent, and what came of it."""

    delivered: bool
    id: str
    body: str


CONFIGURED: Final[dict[str, Any]] = {
    "id": WEBHOOK,
    "url": "https://billing.example/webhooks/metering",
    "secret": masked_secret("whsec_of_an_example"),
    "enabled": True,
    "description": "",
    "allow_private": [],
    "schedule": ["5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "1d"],
    "deadline": "15s",
    "slots": 4,
    "batch": 1,
}
_WEBHOOK: Final[dict[str, Any]] = {
    **CONFIGURED,
    "state": "on",
    "lastSequence": 12,
    "pending": 0,
    "parked": 0,
    "countedTo": 10000,
    "statistics": {
        "attempts": 12,
        "delivered": 12,
        "failed": 0,
        "consecutiveFailures": 0,
        "oneAtATime": False,
        "inTheAir": 0,
        "lastSuccessAt": "2026-01-14T11:05:00.301Z",
    },
}
_ID: Final = in_path("endpointId", "The webhook's `id`.")
_MISSING: Final = Reply(status=HTTPStatus.NOT_FOUND, about="There is no such webhook.")
_OFF: Final = Reply(
    status=HTTPStatus.CONFLICT,
    about="It is off in the configuration, or taken out of it: nothing is sent there.",
)
_NOBODY: Final = Exchange(
    name="noWebhook",
    about="There is none of that id",
    given={"endpointId": "nobody"},
    status=HTTPStatus.NOT_FOUND,
    answer={"error": 'No webhook has the id "nobody": GET /webhooks lists them'},
)

LIST_WEBHOOKS: Final = Operation(
    id="listWebhooks",
    method="get",
    path="/webhooks",
    scope=Scope.READ,
    tag="Webhooks",
    summary="List webhooks",
    about="Those configured, then those that were and to which something waits or is parked.",
    replies=(
        Reply(
            about="An array.",
            kind=list[Webhook],
            links={
                "testWebhook": ("endpointId", "$response.body#/0/id"),
                "enableWebhook": ("endpointId", "$response.body#/0/id"),
            },
        ),
    ),
    exchanges=(Exchange(name="all", about="All of them", answer=[_WEBHOOK]),),
    refusals=(*keyed(Scope.READ), *ASKING),
)

TEST: Final = Operation(
    id="testWebhook",
    method="post",
    path="/webhooks/{endpointId}/test",
    scope=Scope.ADMIN,
    tag="Webhooks",
    summary="Send a signed test",
    about="At once, over a connection of its own. The answer is 200 also where the test failed:"
    " `delivered` says which. A body is passed over.",
    parameters=(_ID,),
    replies=(Reply(about="What came of it.", kind=Probed), _MISSING, _OFF),
    exchanges=(
        Exchange(
            name="tested",
            about="A test",
            given={"endpointId": WEBHOOK},
            answer={
                "delivered": True,
                "id": "msg_test_0d2c1f8b7a6e5d4c",
                "body": '{"type":"webhook.test","created":1768388700}',
                **ATTEMPT,
            },
        ),
        _NOBODY,
    ),
    refusals=(*keyed(Scope.ADMIN), *ASKING),
)

ENABLE: Final = Operation(
    id="enableWebhook",
    method="post",
    path="/webhooks/{endpointId}/enable",
    scope=Scope.ADMIN,
    tag="Webhooks",
    summary="End a pause, or that it is gone",
    about="What waited for it is sent. A body is passed over.",
    parameters=(_ID,),
    replies=(Reply(about="How it stands now.", kind=Webhook), _MISSING, _OFF),
    exchanges=(
        Exchange(
            name="enabled", about="Sent to again", given={"endpointId": WEBHOOK}, answer=_WEBHOOK
        ),
        _NOBODY,
    ),
    refusals=(*keyed(Scope.ADMIN), *STORING),
)

OPERATIONS: Final = (LIST_WEBHOOKS, TEST, ENABLE)
