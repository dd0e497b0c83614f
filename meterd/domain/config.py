"""Decodes systemconfig, TOML or the old system's JSON, into one immutable Config.

The environment wins over the text. Every fault is reported at once, one line each, with the line of
the text where there is one. What is in a Config has been checked: nothing later has to doubt it.
This file opens nothing; keys that the command line made are added by whoever reads the data folder.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.addresses import Server, bind_address
from meterd.domain.admission import USUAL, Admission, Late
from meterd.domain.alerts import ALERT_OPTIONS, Alert, configured_alerts, public_alert
from meterd.domain.credentials import ApiKey, configured_keys, environment_key
from meterd.domain.durations import format_duration
from meterd.domain.endpoints import (
    Endpoint,
    configured_endpoints,
    masked_secret,
    masked_url,
)
from meterd.domain.errors import ConfigError
from meterd.domain.operations import Operation
from meterd.domain.periods import DAY_MS, PeriodType
from meterd.domain.sections import (
    DESCRIPTION,
    Fault,
    Refused,
    Section,
    duration,
    flag,
    one_of,
    quoted,
    shown,
    string,
    whole_number,
)
from meterd.domain.source_text import Form, line_of, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.domain.source_text import KeyPath

EVENT_TYPES_MAX: Final = 1000  # each has totals in each customer's record
# Bytes: a store key holds 511, and the customer's id takes up to 256 of them.
EVENT_TYPE_NAME_MAX: Final = 100
UNIT_MAX: Final = 64
PATH_MAX: Final = 4096  # Linux's PATH_MAX
GRACE_MAX_MS: Final = 35 * DAY_MS
PAST_MAX_MS: Final = 3650 * DAY_MS
FUTURE_MAX_MS: Final = DAY_MS  # what a clock may be off
REVISE_AFTER_MAX_MS: Final = 35 * DAY_MS
ATTEMPTS_KEPT_MAX_MS: Final = 3650 * DAY_MS
ATTEMPTS_MIB_MAX: Final = 1 << 20
EVENTS_KEPT_MAX_MS: Final = 36_500 * DAY_MS

# The options of each kind of table; "" is the top level. An unknown one is refused.
OPTIONS: Final = {
    "": (
        "periods",
        "grace",
        "accept_past",
        "accept_future",
        "late",
        "revise_after",
        "idempotency_window",
        "retention",
        "dry_run",
        "log_level",
        "log_format",
        "events",
        "webhooks",
        "alerts",
        "keys",
        "server",
        "storage",
    ),
    "events": ("op", "description", "unit"),
    "webhooks": (
        "id",
        "url",
        "secret",
        "secret_env",
        "enabled",
        "description",
        "allow_private",
        "schedule",
        "deadline",
        "slots",
        "batch",
    ),
    "alerts": ALERT_OPTIONS,
    "keys": ("id", "hash", "scopes", "description"),
    "server": ("bind", "tls_certificate", "tls_key"),
    "storage": ("path", "attempts_kept", "attempts_mib"),
    "retention": ("events",),
}
# Variables that win over the text. An empty one counts as not set, as compose files leave them.
ENVIRONMENT: Final = {"": ("METERD_BIND", "METERD_DATA_DIR", "METERD_API_KEY", "DRY_RUN")}
# JSON has no comments; the old system's files write them so.
_IGNORED: Final = {"toml": frozenset[str](), "json": frozenset({"_comment"})}


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """``auto``: for people on a terminal, else for programs."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class EventType(msgspec.Struct, frozen=True):
    op: Operation
    description: str = ""
    unit: str = ""


class Storage(msgspec.Struct, frozen=True):
    """``path`` of the data folder; a relative one starts at the working directory.

    The log of attempts to deliver is kept for so long, and takes no more than so much.
    """

    path: str = "meterd-data"
    attempts_kept_ms: int = 30 * DAY_MS
    attempts_mib: int = 256


class Retention(msgspec.Struct, frozen=True):
    """For how long at least events are kept; None is for ever."""

    events_ms: int | None = None


class Config(msgspec.Struct, frozen=True):
    """Everything meterd is told. ``events`` keeps the order of the text."""

    periods: tuple[PeriodType, ...] = ()
    grace_ms: int = 5 * 60_000
    admission: Admission = USUAL
    revise_after_ms: int = 60_000
    idempotency_window_ms: int = USUAL.past_ms
    dry_run: bool = False
    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.AUTO
    events: dict[str, EventType] = msgspec.field(default_factory=dict)
    webhooks: tuple[Endpoint, ...] = ()
    alerts: tuple[Alert, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    server: Server = Server()
    storage: Storage = Storage()
    retention: Retention = Retention()


_DEFAULT: Final = Config()
# What lines of faults begin with that are not of the text.
OF_ENVIRONMENT: Final = "environment: "


def decode(text: bytes, *, form: Form, environ: Mapping[str, str]) -> Config:
    """The configuration that the text and the environment make together.

    Raises ConfigError with one line for each fault, in the order of the text, behind those that
    begin with ``OF_ENVIRONMENT``. No message repeats a
    secret or a key.
    """
    document = parse(text, form)
    faults: list[Fault] = []
    outside: list[Fault] = []
    root = Section(document.values, options=OPTIONS, faults=faults, ignored=_IGNORED[form])
    environment = Section(
        {name: environ[name] for name in ENVIRONMENT[""] if environ.get(name)},
        options=ENVIRONMENT,
        faults=outside,
    )
    # The old system sent nothing to a webhook that did not say it was enabled; its files are JSON.
    webhooks = configured_endpoints(root, environ, enabled=form == "toml")
    config = _config(root, environment, webhooks)
    if faults or outside:
        lines = [f"{OF_ENVIRONMENT}{fault}" for fault in outside]
        raise ConfigError("\n".join([*lines, *_in_order(faults, document.lines())]))
    return config


def _in_order(faults: list[Fault], lines: Mapping[KeyPath, int]) -> list[str]:
    placed = sorted(
        ((line_of(fault.path, lines) or 0, fault) for fault in faults), key=lambda pair: pair[0]
    )
    return [f"line {line}: {fault}" if line else str(fault) for line, fault in placed]


def _config(root: Section, environment: Section, webhooks: tuple[Endpoint, ...]) -> Config:
    root.refuse_unknown()
    server, storage, retention = map(root.table, ("server", "storage", "retention"))
    for section in (server, storage, retention):
        section.refuse_unknown()
    bind = server.option("bind", bind_address, _DEFAULT.server)
    path = storage.option("path", string(at_most=PATH_MAX), _DEFAULT.storage.path)
    environment_holds: ApiKey | None = environment.option("METERD_API_KEY", environment_key, None)
    dry_run = root.option("dry_run", flag, _DEFAULT.dry_run)
    events = {
        name: _event_type(name, section)
        for name, section in root.named_tables("events", at_most=EVENT_TYPES_MAX).items()
    }
    return Config(
        periods=_periods(root),
        grace_ms=root.option("grace", duration(at_most_ms=GRACE_MAX_MS), _DEFAULT.grace_ms),
        admission=(admission := _admission(root)),
        revise_after_ms=root.option(
            "revise_after", duration(at_most_ms=REVISE_AFTER_MAX_MS), _DEFAULT.revise_after_ms
        ),
        idempotency_window_ms=(window_ms := _window(root, admission.past_ms)),
        dry_run=environment.option("DRY_RUN", _switch, dry_run),
        log_level=root.option("log_level", one_of(LogLevel), _DEFAULT.log_level),
        log_format=root.option("log_format", one_of(LogFormat), _DEFAULT.log_format),
        events=events,
        webhooks=webhooks,
        alerts=configured_alerts(root, {name: kind.op for name, kind in events.items()}),
        keys=configured_keys(root) + ((environment_holds,) if environment_holds else ()),
        server=_with_tls(server, environment.option("METERD_BIND", bind_address, bind)),
        storage=Storage(
            environment.option("METERD_DATA_DIR", string(at_most=PATH_MAX), path),
            storage.option(
                "attempts_kept",
                duration(at_most_ms=ATTEMPTS_KEPT_MAX_MS),
                _DEFAULT.storage.attempts_kept_ms,
            ),
            storage.option(
                "attempts_mib",
                whole_number(at_least=1, at_most=ATTEMPTS_MIB_MAX),
                _DEFAULT.storage.attempts_mib,
            ),
        ),
        retention=_retention(retention, admission.past_ms, window_ms),
    )


def _admission(root: Section) -> Admission:
    return Admission(
        root.option("accept_past", duration(at_most_ms=PAST_MAX_MS), USUAL.past_ms),
        root.option("accept_future", duration(at_most_ms=FUTURE_MAX_MS), USUAL.future_ms),
        root.option("late", one_of(Late), USUAL.late),
    )


def _window(root: Section, past_ms: int) -> int:
    """How long keys are remembered: no event that is still taken may count twice."""
    usual_ms = max(past_ms, _DEFAULT.idempotency_window_ms)
    name = "idempotency_window"
    window_ms = root.option(name, duration(at_most_ms=PAST_MAX_MS), usual_ms)
    if window_ms < past_ms:
        root.fault(f"must be at least accept_past, which is {format_duration(past_ms)}", name)
    return window_ms


def _retention(section: Section, past_ms: int, window_ms: int) -> Retention:
    """An event is there for as long as others of its time come, and as its key is remembered."""
    kept_ms = section.option("events", duration(at_most_ms=EVENTS_KEPT_MAX_MS), None)
    if kept_ms is not None:
        for name, least_ms in (("accept_past", past_ms), ("idempotency_window", window_ms)):
            if kept_ms < least_ms:
                section.fault(
                    f"must be at least {name}, which is {format_duration(least_ms)}", "events"
                )
                break
    return Retention(kept_ms)


def _with_tls(section: Section, server: Server) -> Server:
    names = ("tls_certificate", "tls_key")
    files = [section.option(name, string(at_most=PATH_MAX), "") for name in names]
    for name, other in (names, names[::-1]):
        if name in section.values and other not in section.values:
            section.fault(f"needs {other} beside it", name)
    return msgspec.structs.replace(server, **dict(zip(names, files, strict=True)))


def _periods(root: Section) -> tuple[PeriodType, ...]:
    periods = root.each("periods", one_of(PeriodType), at_most=len(PeriodType))
    for period in PeriodType:
        if periods.count(period) > 1:
            root.fault(f"must not name {period} twice", "periods")
    return periods


def _event_type(name: str, section: Section) -> EventType:
    try:
        string(at_most=EVENT_TYPE_NAME_MAX)(name)
    except Refused as refused:
        section.fault(f"the name of an event type {refused}")
    if meant := _unquoted(name, section.values):
        section.fault(f"has no op; a name with dots is quoted: [events.{quoted(meant)}]")
        return EventType(Operation.SUM)
    section.refuse_unknown()
    return EventType(
        section.required("op", one_of(Operation), Operation.SUM),
        section.option("description", DESCRIPTION, ""),
        section.option("unit", string(at_least=0, at_most=UNIT_MAX), ""),
    )


def _unquoted(name: str, values: Mapping[str, Any]) -> str | None:
    """What ``[events.api.calls]`` meant: TOML reads it as a table ``calls`` in a table ``api``."""
    meant = name
    while "op" not in values:
        tables = [key for key, value in values.items() if isinstance(value, dict)]
        if not tables:
            return None
        meant += f".{tables[0]}"
        values = values[tables[0]]
    return meant if meant != name else None


def _switch(value: Any) -> bool:
    if value not in ("true", "1", "false", "0"):
        raise Refused(f"must be true, 1, false or 0, not {shown(value)}")
    return value in ("true", "1")


def public_config(config: Config) -> dict[str, Any]:
    """The configuration as ``GET /config`` shows it: no API keys, secrets and tokens masked."""
    return {
        "periods": [period.value for period in config.periods],
        "events": {name: _public_event_type(kind) for name, kind in config.events.items()},
        "webhooks": [public_endpoint(endpoint) for endpoint in config.webhooks],
        "alerts": [public_alert(alert) for alert in config.alerts],
        "grace": format_duration(config.grace_ms),
        "accept_past": format_duration(config.admission.past_ms),
        "accept_future": format_duration(config.admission.future_ms),
        "late": config.admission.late.value,
        "revise_after": format_duration(config.revise_after_ms),
        "idempotency_window": format_duration(config.idempotency_window_ms),
        "retention": _public_retention(config.retention),
        "dry_run": config.dry_run,
        "log_level": config.log_level.value,
        "log_format": config.log_format.value,
    }


def _public_retention(retention: Retention) -> dict[str, str]:
    kept_ms = retention.events_ms
    return {} if kept_ms is None else {"events": format_duration(kept_ms)}


def _public_event_type(event_type: EventType) -> dict[str, str]:
    shown_here = {
        "op": event_type.op.value,
        "description": event_type.description,
        "unit": event_type.unit,
    }
    return {name: value for name, value in shown_here.items() if value}


def public_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """A webhook as ``GET /config`` shows it."""
    masked = [masked_secret(secret) for secret in endpoint.secrets]
    return {
        "id": endpoint.id,
        "url": masked_url(endpoint.url),
        "secret": masked[0] if len(masked) == 1 else masked,
        "enabled": endpoint.enabled,
        "description": endpoint.description,
        "allow_private": [str(network) for network in endpoint.allow_private],
        "schedule": [format_duration(wait_ms) for wait_ms in endpoint.schedule_ms],
        "deadline": format_duration(endpoint.deadline_ms),
        "slots": endpoint.slots,
        "batch": endpoint.batch,
    }


def changes_needing_restart(old: Config, new: Config) -> list[str]:
    """What a reload cannot do, one line each: an open socket or store stays where it is."""
    pairs = (
        ("server.bind", old.server.bind, new.server.bind),
        ("storage.path", old.storage.path, new.storage.path),
    )
    return [
        f"{option} is still {quoted(before)}; {quoted(after)} needs a restart"
        for option, before, after in pairs
        if before != after
    ]
