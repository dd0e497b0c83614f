"""meterd/domain/config.py"""

from __future__ import annotations

import ipaddress
import json
from typing import Literal

import pytest

from meterd.domain.addresses import Server
from meterd.domain.admission import Admission, Late
from meterd.domain.config import (
    Config,
    EventType,
    LogFormat,
    LogLevel,
    Retention,
    Storage,
    changes_needing_restart,
    decode,
    public_config,
)
from meterd.domain.credentials import ALL_SCOPES, ApiKey, Scope, hash_of
from meterd.domain.endpoints import Endpoint
from meterd.domain.operations import Operation
from meterd.domain.periods import DAY_MS, PeriodType

HASH = hash_of("mk_something")

EVERYTHING = f"""
periods = ["daily", "yearly"]
grace = "1h30m"
accept_past = "90d"
accept_future = "1m"
late = "reject"
revise_after = "10m"
idempotency_window = "100d"
dry_run = true
log_level = "debug"
log_format = "console"

[events."z.last"]
op = "last"
[events.a]
op = "sum"
description = "Calls"
unit = "calls"

[[webhooks]]
id = "billing"
url = "https://billing.example/hooks?token=hunter2hunter2"
secret = ["whsec_new_secret", "whsec_old_secret"]
enabled = false
description = "Billing"
allow_private = ["10.0.5.0/24", "::1"]
schedule = ["1s", "2d"]
deadline = "30s"
slots = 16
batch = 100
[[webhooks]]
url = "http://localhost:3000/webhooks/metering"
secret_env = "HOOK_SECRET"

[[keys]]
id = "dashboard"
hash = "{HASH}"
scopes = ["read", "admin"]
description = "Hall"

[server]
bind = "[::1]:9000"

[storage]
path = "/var/lib/meterd"

[retention]
events = "400d"
"""
SECRET_ENV = {"HOOK_SECRET": "from-the-environment"}


def toml(text: str, **environ: str) -> Config:
    return decode(text.encode(), form="toml", environ=environ)


def test_every_option_is_read() -> None:
    """And lands where the types say, event types in the order of the text."""
    config = toml(EVERYTHING, **SECRET_ENV)
    assert list(config.events) == ["z.last", "a"]
    private = (ipaddress.IPv4Network("10.0.5.0/24"), ipaddress.IPv6Network("::1/128"))
    first, second = config.webhooks
    assert config == Config(
        periods=(PeriodType.DAILY, PeriodType.YEARLY),
        grace_ms=5_400_000,
        admission=Admission(7_776_000_000, 60_000, Late.REJECT),
        revise_after_ms=600_000,
        idempotency_window_ms=100 * DAY_MS,
        dry_run=True,
        log_level=LogLevel.DEBUG,
        log_format=LogFormat.CONSOLE,
        events={
            "z.last": EventType(Operation.LAST),
            "a": EventType(Operation.SUM, "Calls", "calls"),
        },
        webhooks=(
            Endpoint(
                "billing",
                "https://billing.example/hooks?token=hunter2hunter2",
                ("whsec_new_secret", "whsec_old_secret"),
                enabled=False,
                description="Billing",
                allow_private=private,
                schedule_ms=(1000, 172_800_000),
                deadline_ms=30_000,
                slots=16,
                batch=100,
            ),
            Endpoint(
                second.id, "http://localhost:3000/webhooks/metering", ("from-the-environment",)
            ),
        ),
        keys=(ApiKey("dashboard", HASH, frozenset({Scope.READ, Scope.ADMIN}), "Hall"),),
        server=Server("::1", 9000),
        storage=Storage("/var/lib/meterd"),
        retention=Retention(400 * DAY_MS),
    )
    assert second.id.startswith("localhost-3000-")
    assert first.id == "billing"


def test_an_empty_text_is_the_defaults() -> None:
    """No event types and no periods is a valid configuration: the API answers 503."""
    assert toml("") == Config()
    assert decode(b"{}", form="json", environ={}) == Config()
    assert toml("periods = []\n[events]\n") == Config()


def test_both_forms_mean_the_same() -> None:
    """Whatever TOML can say here, JSON says with the same keys."""
    in_json = {
        "periods": ["daily"],
        "events": {"a": {"op": "max", "unit": "bytes"}},
        "webhooks": [{"id": "x", "url": "http://h/", "secret": ["a", "b"], "enabled": True}],
        "server": {"bind": "0.0.0.0:1"},
    }
    in_toml = """
        periods = ["daily"]
        events.a = {op = "max", unit = "bytes"}
        webhooks = [{id = "x", url = "http://h/", secret = ["a", "b"], enabled = true}]
        server.bind = "0.0.0.0:1"
    """
    text = json.dumps(in_json).encode()
    assert decode(text, form="json", environ={}) == toml(in_toml)


OLD_SYSTEM = """{
  "_comment": "Edit this file and deploy again.",
  "periods": ["hourly", "daily", "weekly", "monthly"],
  "events": {
    "_comment": "what is counted",
    "api.requests": {"op": "sum", "description": "Requests", "_comment": "all of them"},
    "disk.bytes": {"op": "max"},
    "latency.ms": {"op": "avg"}
  },
  "webhooks": [
    {"url": "https://example.com", "secret": "whsec_your_webhook_secret", "enabled": true},
    {"_comment": "not yet", "url": "https://stats.example/hook", "secret": "short",
     "enabled": false, "description": "Statistics"},
    {"url": "https://example.com", "secret": "whsec_twice_the_same_url", "enabled": true}
  ]
}
"""


def test_a_file_of_the_old_system_is_accepted_as_it_is() -> None:
    """Comments, short secrets and a URL that is there twice included."""
    config = decode(OLD_SYSTEM.encode(), form="json", environ={})
    assert list(config.events) == ["api.requests", "disk.bytes", "latency.ms"]
    assert config.periods == tuple(PeriodType)[:4]
    assert [endpoint.enabled for endpoint in config.webhooks] == [True, False, True]
    ids = [endpoint.id for endpoint in config.webhooks]
    assert ids[2] == f"{ids[0]}-2"
    assert len(set(ids)) == 3


def test_an_id_from_the_url_does_not_depend_on_the_other_endpoints() -> None:
    """Adding an endpoint renames no delivery of another."""
    hook = '[[webhooks]]\nurl = "http://{}/"\nsecret = "sssss"\n'
    alone = toml(hook.format("b")).webhooks
    together = toml(hook.format("a") + hook.format("b")).webhooks
    assert alone[0] == together[1]


def test_the_environment_wins() -> None:
    """Over every option it has a variable for."""
    config = toml(
        EVERYTHING,
        METERD_BIND="127.0.0.1:0",
        METERD_DATA_DIR="/data",
        METERD_API_KEY="compat-key",
        DRY_RUN="false",
        **SECRET_ENV,
    )
    assert config.server == Server("127.0.0.1", 0)
    assert config.storage == Storage("/data")
    assert config.dry_run is False
    assert config.keys[-1] == ApiKey(
        "METERD_API_KEY", hash_of("compat-key"), ALL_SCOPES, "from the environment"
    )
    assert len(config.keys) == 2


@pytest.mark.parametrize(
    ("value", "on"), [("true", True), ("1", True), ("false", False), ("0", False)]
)
def test_dry_run_by_the_environment(value: str, on: bool) -> None:
    """Both words turn it both ways."""
    assert toml(f"dry_run = {str(not on).lower()}", DRY_RUN=value).dry_run is on


def test_an_empty_variable_is_not_set() -> None:
    """Compose files hand down variables that nobody set as empty ones."""
    empty = dict.fromkeys(("METERD_BIND", "METERD_DATA_DIR", "METERD_API_KEY", "DRY_RUN"), "")
    assert toml("dry_run = true", **empty) == Config(dry_run=True)


def test_the_public_configuration() -> None:
    """The names of the file, without keys; secrets and the query's values masked."""
    config = toml(EVERYTHING, METERD_API_KEY="compat-key", **SECRET_ENV)
    shown = public_config(config)
    assert shown == {
        "periods": ["daily", "yearly"],
        "events": {
            "z.last": {"op": "last"},
            "a": {"op": "sum", "description": "Calls", "unit": "calls"},
        },
        "webhooks": [
            {
                "id": "billing",
                "url": "https://billing.example/hooks?token=***",
                "secret": ["***cret", "***cret"],
                "enabled": False,
                "description": "Billing",
                "allow_private": ["10.0.5.0/24", "::1/128"],
                "schedule": ["1s", "2d"],
                "deadline": "30s",
                "slots": 16,
                "batch": 100,
            },
            {
                "id": config.webhooks[1].id,
                "url": "http://localhost:3000/webhooks/metering",
                "secret": "***ment",
                "enabled": True,
                "description": "",
                "allow_private": [],
                "schedule": ["5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "1d"],
                "deadline": "15s",
                "slots": 4,
                "batch": 1,
            },
        ],
        "alerts": [],
        "grace": "1h30m",
        "accept_past": "90d",
        "accept_future": "1m",
        "late": "reject",
        "revise_after": "10m",
        "idempotency_window": "100d",
        "retention": {"events": "400d"},
        "dry_run": True,
        "log_level": "debug",
        "log_format": "console",
    }
    text = json.dumps(shown)
    for hidden in (HASH, hash_of("compat-key"), "hunter2", "whsec_new", "from-the-environ"):
        assert hidden not in text


def test_the_reprs_of_a_config_hold_no_secret() -> None:
    """A log line that shows a Config gives nothing away."""
    shown = repr(toml(EVERYTHING, METERD_API_KEY="compat-key", **SECRET_ENV))
    for hidden in ("hunter2", "whsec_", "from-the-environment", "compat-key"):
        assert hidden not in shown


def test_changes_that_need_a_restart() -> None:
    """Only the socket and the store: everything else takes effect on a reload."""
    old = Config()
    assert changes_needing_restart(old, toml(EVERYTHING, **SECRET_ENV)) == [
        'server.bind is still "127.0.0.1:8080"; "[::1]:9000" needs a restart',
        'storage.path is still "meterd-data"; "/var/lib/meterd" needs a restart',
    ]
    assert changes_needing_restart(old, toml('grace = "1s"\ndry_run = true')) == []


@pytest.mark.parametrize(("form", "enabled"), [("toml", True), ("json", False)])
def test_a_webhook_that_does_not_say_whether_it_is_enabled(
    form: Literal["toml", "json"], enabled: bool
) -> None:
    """Ours is; the old system's was not, and its files mean what they meant."""
    text = {
        "toml": '[[webhooks]]\nurl = "https://a.example"\nsecret = "whsec_long_enough"',
        "json": '{"webhooks": [{"url": "https://a.example", "secret": "whsec_long_enough"}]}',
    }
    [endpoint] = decode(text[form].encode(), form=form, environ={}).webhooks
    assert endpoint.enabled == enabled


def test_tls_is_of_two_files_and_stays_when_the_environment_binds() -> None:
    """The address is METERD_BIND's, the files are those of the text."""
    text = b'[server]\nbind = "[::1]:1"\ntls_certificate = "a.crt"\ntls_key = "a.key"'
    config = decode(text, form="toml", environ={"METERD_BIND": "127.0.0.1:2"})
    assert config.server == Server("127.0.0.1", 2, "a.crt", "a.key")
    assert config.server.has_tls
    assert not Config().server.has_tls
