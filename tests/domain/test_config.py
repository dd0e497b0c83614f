"""meterd/domain/config.py"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.addresses import Server
from meterd.domain.config import (
    Config,
    EventType,
    LogLevel,
    Storage,
    advice,
    changes_needing_restart,
    decode,
    public_config,
)
from meterd.domain.credentials import ALL_SCOPES, ApiKey, Scope, hash_of
from meterd.domain.endpoints import Endpoint
from meterd.domain.errors import ConfigError
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType

if TYPE_CHECKING:
    from meterd.domain.source_text import Form

HASH = hash_of("mk_something")

# What the longer messages say an option takes.
KNOWN = "known are periods, grace, dry_run, log_level, events, webhooks, keys, server, storage"
PERIODS = "must be one of hourly, daily, weekly, monthly, yearly"
OPERATIONS = "must be one of sum, avg, min, max, count, first, last"
SCOPES = "must be one of ingest, read, admin"
NAME = "the name of an event type"
SHA = "must be the key's SHA-256 in 64 lowercase hexadecimal digits"
BIND = (
    "must be host:port such as 127.0.0.1:8080, [::1]:8080 or, for every IPv4 address of the"
    " machine, 0.0.0.0:8080"
)

EVERYTHING = f"""
periods = ["daily", "yearly"]
grace = "1h30m"
dry_run = true
log_level = "debug"

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
"""
SECRET_ENV = {"HOOK_SECRET": "from-the-environment"}


def toml(text: str, **environ: str) -> Config:
    return decode(text.encode(), form="toml", environ=environ)


def faults(text: str, form: Form = "toml", **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        decode(text.encode(), form=form, environ=environ)
    return str(raised.value).splitlines()


def test_every_option_is_read() -> None:
    """And lands where the types say, event types in the order of the text."""
    config = toml(EVERYTHING, **SECRET_ENV)
    assert list(config.events) == ["z.last", "a"]
    private = (ipaddress.IPv4Network("10.0.5.0/24"), ipaddress.IPv6Network("::1/128"))
    first, second = config.webhooks
    assert config == Config(
        periods=(PeriodType.DAILY, PeriodType.YEARLY),
        grace_ms=5_400_000,
        dry_run=True,
        log_level=LogLevel.DEBUG,
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
            ),
            Endpoint(
                second.id, "http://localhost:3000/webhooks/metering", ("from-the-environment",)
            ),
        ),
        keys=(ApiKey("dashboard", HASH, frozenset({Scope.READ, Scope.ADMIN}), "Hall"),),
        server=Server("::1", 9000),
        storage=Storage("/var/lib/meterd"),
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
        "webhooks": [{"id": "x", "url": "http://h/", "secret": ["a", "b"], "allow_private": []}],
        "server": {"bind": "0.0.0.0:1"},
    }
    in_toml = """
        periods = ["daily"]
        events.a = {op = "max", unit = "bytes"}
        webhooks = [{id = "x", url = "http://h/", secret = ["a", "b"], allow_private = []}]
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("perods = []", ["line 1: perods: unknown option; did you mean periods?"]),
        ('_comment = "x"', [f"line 1: _comment: unknown option; {KNOWN}"]),
        (
            'periods = "daily"',
            ['line 1: periods: must be an array, not "daily"'],
        ),
        (
            '\nperiods = ["daily", "weeky", 5]',
            [
                (
                    "line 2: periods[1]: must be one of hourly, daily, weekly, monthly, yearly,"
                    ' not "weeky"; did you mean weekly?'
                ),
                "line 2: periods[2]: must be one of hourly, daily, weekly, monthly, yearly, not 5",
            ],
        ),
        ('periods = ["daily", "daily"]', ["line 1: periods: must not name daily twice"]),
        (
            "grace = 300",
            ['line 1: grace: must be a duration such as "30s", "5m", "1h30m" or "35d", not 300'],
        ),
        ('grace = "36d"', ['line 1: grace: must be at most 35d, not "36d"']),
        ('dry_run = "yes"', ['line 1: dry_run: must be true or false, not "yes"']),
        (
            'log_level = "warn"',
            [
                (
                    "line 1: log_level: must be one of debug, info, warning, error,"
                    ' not "warn"; did you mean warning?'
                )
            ],
        ),
        (
            "[events.api.calls]\nop = 'sum'",
            ['line 1: events.api: has no op; a name with dots is quoted: [events."api.calls"]'],
        ),
        (
            '[events."a.b"]\nop = "median"\n',
            [f'line 2: events."a.b".op: {OPERATIONS}, not "median"'],
        ),
        ("[events.a]", ["line 1: events.a: op is missing"]),
        (
            "[events.a]\n[events.b]",
            ["line 1: events.a: op is missing", "line 2: events.b: op is missing"],
        ),
        ('[events]\na = "sum"', ['line 2: events.a: must be a table, not "sum"']),
        (
            '[events."tab\\t"]\nop = "sum"',
            [
                (
                    'line 1: events."tab\\t": the name of an event type must not hold control'
                    " characters or lone surrogates"
                )
            ],
        ),
        (
            f'[events.{"x" * 101}]\nop = "sum"',
            [f"line 1: events.{'x' * 101}: {NAME} must be 1 to 100 bytes of UTF-8, not 101"],
        ),
        (
            '[events.""]\nop = "sum"',
            ['line 1: events."": the name of an event type must be 1 to 100 bytes of UTF-8, not 0'],
        ),
        (
            '[events.a]\nop = "sum"\nurl = "x"',
            ["line 3: events.a.url: unknown option; it is an option of webhooks"],
        ),
        (
            '[webhooks]\nurl = "http://h/"',
            ["line 1: webhooks: must be an array of tables ([[double brackets]]), not a table"],
        ),
        (
            "[[webhooks]]",
            [
                "line 1: webhooks[0]: url is missing",
                (
                    "line 1: webhooks[0]: secret is missing; or name an environment variable in"
                    " secret_env"
                ),
            ],
        ),
        (
            '[[webhooks]]\nurl = "http://h/"\nsecret = "a"\nsecret_env = "B"',
            ["line 4: webhooks[0].secret_env: must not be given beside secret"],
        ),
        (
            '[[webhooks]]\nurl = "http://h/"\nsecret_env = "UNSET"',
            ['line 3: webhooks[0].secret_env: the environment variable "UNSET" is not set'],
        ),
        (
            '[[webhooks]]\nurl = "http://h/"\nsecret_env = 5',
            ["line 3: webhooks[0].secret_env: must name an environment variable, not 5"],
        ),
        (
            '[[webhooks]]\nid = "a"\nurl = "http://h/"\nsecret = "a"\n' * 2,
            ['line 6: webhooks[1].id: "a" is the id of another endpoint'],
        ),
        (
            '[[keys]]\nid = "a"\nhash = "mk_hunter2"\nscopes = ["raed"]',
            [
                f"line 3: keys[0].hash: {SHA}",
                f'line 4: keys[0].scopes[0]: {SCOPES}, not "raed"; did you mean read?',
            ],
        ),
        (
            f'[[keys]]\nid = "a"\nhash = "{HASH}"\nscopes = ["read"]\n' * 2,
            [
                'line 6: keys[1].id: "a" is the id of another key',
                "line 7: keys[1].hash: is the hash of another key",
            ],
        ),
        (
            f'[[keys]]\nid = "a"\nhash = "{HASH}"\nscopes = []',
            ["line 1: keys[0]: scopes is missing: some of ingest, read, admin"],
        ),
        (
            "[server]\ndry_run = true",
            [
                (
                    "line 2: server.dry_run: unknown option; it is an option of the top level,"
                    " above the first [table]"
                )
            ],
        ),
        (
            '[server]\nbind = "8080"',
            [f'line 2: server.bind: {BIND}, not "8080"'],
        ),
        ("server = 1", ["line 1: server: must be a table, not 1"]),
        ('[storage]\npath = ""', ["line 2: storage.path: must be 1 to 4096 bytes of UTF-8, not 0"]),
    ],
)
def test_a_fault_names_the_place_and_what_it_takes(text: str, expected: list[str]) -> None:
    """One line for each fault, all of them, in the order of the text."""
    assert faults(text) == expected


def test_faults_in_json_have_lines_too() -> None:
    """The old system's form is mended as easily."""
    text = '{\n "periods": [\n  "daily",\n  "x"],\n "events": {"a": {"op": 1}},\n "why": 1}'
    assert faults(text, "json") == [
        f'line 4: periods[1]: {PERIODS}, not "x"',
        f"line 5: events.a.op: {OPERATIONS}, not 1",
        f"line 6: why: unknown option; {KNOWN}",
    ]


def test_everything_is_bounded() -> None:
    """A text that asks for too much is refused, not obeyed."""
    events = "".join(f"[events.e{number}]\nop = 'sum'\n" for number in range(1001))
    hooks = "[[webhooks]]\nurl = 'http://h/'\nsecret = 'a'\n" * 65
    assert faults(events) == ["line 1: events: must hold at most 1000, not 1001"]
    assert faults(hooks) == ["line 1: webhooks: must hold at most 64, not 65"]
    long = "é" * 251
    assert faults(f"[events.a]\nop = 'sum'\ndescription = '{long}'\nunit = '{long}'") == [
        "line 3: events.a.description: must be 0 to 500 bytes of UTF-8, not 502",
        "line 4: events.a.unit: must be 0 to 64 bytes of UTF-8, not 502",
    ]


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


def test_faults_of_the_environment_come_first_and_name_the_variable() -> None:
    """They have no line. The key is not repeated."""
    environ = {"METERD_BIND": "x", "METERD_API_KEY": "hunter2", "DRY_RUN": "yes"}
    lines = refusal(b"a = 1", "toml", **environ).splitlines()
    assert lines[-1].startswith("line 1: a: unknown option")
    assert sorted(lines[:-1]) == [
        'DRY_RUN: must be true, 1, false or 0, not "yes"',
        "METERD_API_KEY: must be 8 to 256 characters long",
        (
            "METERD_BIND: must be host:port such as 127.0.0.1:8080, [::1]:8080 or, for every IPv4"
            ' address of the machine, 0.0.0.0:8080, not "x"'
        ),
    ]


def refusal(text: bytes, form: Form, **environ: str) -> str:
    """The faults, or nothing of a valid configuration; any other exception ends the test."""
    try:
        decode(text, form=form, environ=environ)
    except ConfigError as error:
        return str(error)
    return ""


names = st.sampled_from(
    [
        "periods",
        "grace",
        "events",
        "webhooks",
        "keys",
        "server",
        "storage",
        "op",
        "url",
        "secret",
        "secret_env",
        "scopes",
        "hash",
        "id",
        "bind",
        "path",
        "enabled",
        "allow_private",
        "x",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=25,
)


@given(st.dictionaries(names, documents))
def test_whatever_the_text_holds_the_answer_is_a_config_or_a_config_error(document: Any) -> None:
    """No value of any shape makes another exception, and every fault is one printable line."""
    text = json.dumps(document).encode()
    assert all(line.isprintable() for line in refusal(text, "json").split("\n"))


@given(st.binary())
def test_any_bytes_are_answered(text: bytes) -> None:
    """Also what is neither TOML nor JSON."""
    assert refusal(text, "toml").strip() == refusal(text, "toml")
    assert refusal(text, "json").strip() == refusal(text, "json")


def test_no_secret_is_ever_repeated() -> None:
    """Not in a fault, whichever place a secret stands wrongly in."""
    text = """
[[webhooks]]
url = "http://me:hunter2@h/#hunter2"
secret = ["hunter2", "hunter2"]
[[webhooks]]
url = "hunter2"
secret = "hunter2\\n"
[[webhooks]]
url = "http://h/"
secret = {hunter2 = "hunter2"}
[[keys]]
id = "a"
hash = "hunter2"
scopes = ["read"]
"""
    lines = faults(text, METERD_API_KEY="hunter2")
    assert len(lines) == 7
    assert not any("hunter2" in line for line in lines)


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
            },
            {
                "id": config.webhooks[1].id,
                "url": "http://localhost:3000/webhooks/metering",
                "secret": "***ment",
                "enabled": True,
                "description": "",
                "allow_private": [],
            },
        ],
        "grace": "1h30m",
        "dry_run": True,
        "log_level": "debug",
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


def test_advice() -> None:
    """What is valid and probably not meant is said, without the secret."""
    assert advice(Config()) == [
        "no event types: every event is answered with 503",
        "no periods: nothing is aggregated and no webhook is sent",
    ]
    assert advice(toml(EVERYTHING, **SECRET_ENV)) == []
    config = toml(EVERYTHING.replace("whsec_old_secret", "hunter2"), **SECRET_ENV)
    assert advice(config) == ["webhook billing: a secret under 16 characters can be guessed"]
