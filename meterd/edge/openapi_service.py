"""What meterd says of itself, as the API's document describes it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from meterd import __version__
from meterd.domain.credentials import Scope
from meterd.domain.operations import Operation as Figure
from meterd.domain.periods import PeriodType
from meterd.edge.openapi_parts import (
    CUSTOMER,
    EVENT_TYPE,
    Exchange,
    Instant,
    Operation,
    Reply,
    keyed,
)
from meterd.edge.openapi_webhooks import CONFIGURED, ConfiguredWebhook

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class About(msgspec.Struct, frozen=True):
    """What runs here, and what may be asked."""

    status: str
    service: str
    version: str
    description: str
    features: list[str]
    endpoints: dict[str, Any]
    configuration: str
    documentation: str


class Pong(msgspec.Struct, frozen=True):
    """That it runs, and its time."""

    status: str
    timestamp: Instant


class Alive(msgspec.Struct, frozen=True):
    """That it runs."""

    status: str


class Ready(msgspec.Struct, frozen=True):
    """``reason`` is what a start still waits for; ``disk`` and ``clock`` say what is wrong."""

    status: Literal["ready", "starting"]
    reason: str | UnsetType = UNSET
    disk: str | UnsetType = UNSET
    clock: str | UnsetType = UNSET


class EventTypeShown(msgspec.Struct, frozen=True):
    """Which number a period's events come down to, and what people are told of it."""

    op: Figure
    description: str | UnsetType = UNSET
    unit: str | UnsetType = UNSET


class AlertShown(msgspec.Struct, frozen=True):
    """At which values of a figure the webhooks are told; of one ``customer``, or of everybody."""

    id: str
    event: str
    period: PeriodType
    thresholds: list[str]
    customer: str | UnsetType = UNSET


class Configuration(msgspec.Struct, frozen=True):
    """As it is in force. No API key is in it, and of secrets the last characters only."""

    periods: list[PeriodType]
    events: dict[str, EventTypeShown]
    webhooks: list[ConfiguredWebhook]
    alerts: list[AlertShown]
    grace: str
    accept_past: str
    accept_future: str
    late: Literal["revise", "reject"]
    revise_after: str
    idempotency_window: str
    retention: dict[str, str]
    dry_run: bool
    log_level: str
    log_format: str


def _open(
    name: str, path: str, summary: str, about: str, *replies: Reply, answer: Any
) -> Operation:
    return Operation(
        id=name,
        method="get",
        path=path,
        scope=None,
        tag="Service",
        summary=summary,
        about=f"{about} No key is needed.",
        replies=replies,
        exchanges=(Exchange(name=name, about=summary, answer=answer),),
    )


OPERATIONS: Final = (
    _open(
        "about",
        "/",
        "What runs here",
        "Name, version, and what may be asked.",
        Reply(about="What runs here.", kind=About),
        answer={
            "status": "ok",
            "service": "meterd",
            "version": __version__,
            "description": "Usage metering: events in, exact totals kept, signed webhooks out",
            "features": ["Acknowledged events are on disk, counted once"],
            "endpoints": {"capture": "POST /usage/{eventType}"},
            "configuration": "Edit systemconfig.toml and send SIGHUP to meterd",
            "documentation": "GET /docs, and GET /openapi.json for programs",
        },
    ),
    _open(
        "ping",
        "/ping",
        "The time",
        "That meterd runs, and what time it has.",
        Reply(about="It runs.", kind=Pong),
        answer={"status": "ok", "timestamp": "2026-01-14T10:58:20.416Z"},
    ),
    _open(
        "healthz",
        "/healthz",
        "Is it alive?",
        "For whoever restarts what hangs.",
        Reply(about="It is.", kind=Alive),
        answer={"status": "ok"},
    ),
    _open(
        "readyz",
        "/readyz",
        "Is it ready?",
        "For whoever sends it requests.",
        Reply(about="It is; what is wrong nevertheless stands beside it.", kind=Ready),
        Reply(
            status=HTTPStatus.SERVICE_UNAVAILABLE,
            about="Not until all is counted and closed after a start.",
            kind=Ready,
        ),
        answer={"status": "ready"},
    ),
    _open(
        "openapi",
        "/openapi.json",
        "This document",
        "OpenAPI 3.1. With a key of the scope `read` or `ingest` it names the event types that are"
        " configured.",
        Reply(about="The document.", kind=dict[str, Any]),
        answer={"openapi": "3.1.0", "info": {"title": "meterd", "version": __version__}},
    ),
    _open(
        "docs",
        "/docs",
        "This document, for people",
        "One page, without scripts.",
        Reply(about="The page.", kind=str, media="text/html"),
        answer="<!doctype html>",
    ),
    Operation(
        id="getConfig",
        method="get",
        path="/config",
        scope=Scope.READ,
        tag="Service",
        summary="Show the configuration",
        about="As it is in force. Secrets are masked.",
        replies=(Reply(about="The configuration.", kind=Configuration),),
        exchanges=(
            Exchange(
                name="config",
                about="What is configured",
                answer={
                    "periods": ["hourly", "daily", "weekly", "monthly"],
                    "events": {EVENT_TYPE: {"op": "sum", "description": "Total API calls"}},
                    "webhooks": [CONFIGURED],
                    "alerts": [
                        {
                            "id": "quota",
                            "event": EVENT_TYPE,
                            "period": "monthly",
                            "thresholds": ["800", "999.99"],
                            "customer": CUSTOMER,
                        }
                    ],
                    "grace": "5m",
                    "accept_past": "35d",
                    "accept_future": "5m",
                    "late": "revise",
                    "revise_after": "1m",
                    "idempotency_window": "35d",
                    "retention": {},
                    "dry_run": False,
                    "log_level": "info",
                    "log_format": "auto",
                },
            ),
        ),
        refusals=keyed(Scope.READ),
    ),
    Operation(
        id="getMetrics",
        method="get",
        path="/metrics",
        scope=Scope.METRICS,
        tag="Service",
        summary="Show how meterd is doing",
        about="For Prometheus: classic text, or OpenMetrics where `Accept` asks for it.",
        replies=(
            Reply(
                about="What is measured.",
                kind=str,
                media="text/plain",
                others={"application/openmetrics-text": str},
            ),
        ),
        exchanges=(
            Exchange(
                name="metrics",
                about="What is measured",
                answer="# TYPE meterd_ready gauge\nmeterd_ready 1.0\n",
            ),
        ),
        refusals=keyed(Scope.METRICS),
    ),
)
