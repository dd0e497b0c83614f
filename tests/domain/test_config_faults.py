"""meterd/domain/config.py: what it refuses, and in which words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.config import decode
from meterd.domain.errors import ConfigError

if TYPE_CHECKING:
    from meterd.domain.source_text import Form

HASH = "0123456789abcdef" * 4

# What the longer messages say an option takes.
KNOWN = (
    "known are periods, grace, accept_past, accept_future, late, revise_after,"
    " idempotency_window, retention, dry_run, log_level, log_format, events, webhooks, alerts,"
    " keys, server, storage"
)
PERIODS = "must be one of hourly, daily, weekly, monthly, yearly"
OPERATIONS = "must be one of sum, avg, min, max, count, first, last"
SCOPES = "must be one of ingest, read, admin, metrics"
NAME = "the name of an event type"
SHA = "must be the key's SHA-256 in 64 lowercase hexadecimal digits"
BIND = (
    "must be host:port such as 127.0.0.1:8080, [::1]:8080 or, for every IPv4 address of the"
    " machine, 0.0.0.0:8080"
)


def faults(text: str, form: Form = "toml", **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        decode(text.encode(), form=form, environ=environ)
    return str(raised.value).splitlines()


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
            ['line 1: grace: must be a duration such as "30s", "5m", "1h30m" or "2d", not 300'],
        ),
        ('grace = "36d"', ['line 1: grace: must be at most 35d, not "36d"']),
        ('accept_past = "4000d"', ['line 1: accept_past: must be at most 3650d, not "4000d"']),
        ('accept_future = "2d"', ['line 1: accept_future: must be at most 1d, not "2d"']),
        ('late = "never"', ['line 1: late: must be one of revise, reject, not "never"']),
        ('revise_after = "36d"', ['line 1: revise_after: must be at most 35d, not "36d"']),
        (
            'idempotency_window = "34d"',
            ["line 1: idempotency_window: must be at least accept_past, which is 35d"],
        ),
        (
            'accept_past = "90d"\nidempotency_window = "36d"',
            ["line 2: idempotency_window: must be at least accept_past, which is 90d"],
        ),
        (
            '[retention]\nevents = "34d"',
            ["line 2: retention.events: must be at least accept_past, which is 35d"],
        ),
        (
            'idempotency_window = "90d"\n[retention]\nevents = "89d"',
            ["line 3: retention.events: must be at least idempotency_window, which is 90d"],
        ),
        (
            '[retention]\nevents = "36501d"',
            ['line 2: retention.events: must be at most 36500d, not "36501d"'],
        ),
        (
            "[retention]\nevents = 90",
            [
                (
                    'line 2: retention.events: must be a duration such as "30s", "5m", "1h30m" or'
                    ' "2d", not 90'
                ),
            ],
        ),
        (
            '[retention]\nevent = "400d"',
            ["line 2: retention.event: unknown option; did you mean events?"],
        ),
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
            ["line 1: keys[0]: scopes is missing: some of ingest, read, admin, metrics"],
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
        (
            'storage.dir = "x"',
            ["line 1: storage.dir: unknown option; known are path, attempts_kept, attempts_mib"],
        ),
        (
            '[server]\nbind = "[::1]:1"\ntls_key = "k"',
            ["line 3: server.tls_key: needs tls_certificate beside it"],
        ),
        (
            '[server]\ntls_certificate = "c"',
            ["line 2: server.tls_certificate: needs tls_key beside it"],
        ),
        (
            '[server]\ntls_certificate = "c"\ntls_key = ""',
            ["line 3: server.tls_key: must be 1 to 4096 bytes of UTF-8, not 0"],
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
        "schedule",
        "deadline",
        "slots",
        "batch",
        "x",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=25,
)


def test_faults_of_the_environment_come_first_and_name_the_variable() -> None:
    """They have no line. The key is not repeated."""
    environ = {"METERD_BIND": "x", "METERD_API_KEY": "hunter2", "DRY_RUN": "yes"}
    lines = refusal(b"a = 1", "toml", **environ).splitlines()
    assert lines[-1].startswith("line 1: a: unknown option")
    assert sorted(lines[:-1]) == [
        'environment: DRY_RUN: must be true, 1, false or 0, not "yes"',
        "environment: METERD_API_KEY: must be 8 to 256 characters long",
        (
            "environment: METERD_BIND: must be host:port such as 127.0.0.1:8080, [::1]:8080 or, for"
            ' every IPv4 address of the machine, 0.0.0.0:8080, not "x"'
        ),
    ]


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
