"""The systemconfig.toml that meterd ships."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from meterd.domain.addresses import Server
from meterd.domain.alerts import Alert
from meterd.domain.config import OPTIONS, Config, EventType, Retention, Storage, decode
from meterd.domain.credentials import ApiKey
from meterd.domain.endpoints import Endpoint
from meterd.domain.operations import Operation
from meterd.domain.periods import DAY_MS

SHIPPED = (Path(__file__).parent.parent / "systemconfig.toml").read_text()
# An option, set or as an example in a comment.
OPTION = re.compile(r"(?:# )?(\w+) = ")
HEADER = re.compile(r'(?:# )?\[+(\w+)(?:\."[^"]+")?\]+')

# Fields whose options have another name.
OPTIONS_OF_FIELDS = {
    "schedule_ms": ["schedule"],
    "deadline_ms": ["deadline"],
    "attempts_kept_ms": ["attempts_kept"],
    "grace_ms": ["grace"],
    "admission": ["accept_past", "accept_future", "late"],
    "revise_after_ms": ["revise_after"],
    "idempotency_window_ms": ["idempotency_window"],
    "events_ms": ["events"],
    "secrets": ["secret", "secret_env"],
    "host": ["bind"],
    "port": ["bind"],
    "created_ms": [],  # kept of a key the command line made
}
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "": Config,
    "events": EventType,
    "webhooks": Endpoint,
    "alerts": Alert,
    "keys": ApiKey,
    "server": Server,
    "storage": Storage,
    "retention": Retention,
}


def described() -> dict[str, set[str]]:
    """The options that stand in the file, by their table."""
    found: dict[str, set[str]] = {"": set()}
    table = ""
    for line in SHIPPED.splitlines():
        if header := HEADER.fullmatch(line):
            table = header[1]
            found[""].add(table)
            found.setdefault(table, set())
        elif option := OPTION.match(line):
            found[table].add(option[1])
    return found


def test_every_option_is_in_the_file() -> None:
    """Set, or as a comment; and nothing else."""
    assert described() == {table: set(names) for table, names in OPTIONS.items()}


@pytest.mark.parametrize("table", OPTIONS)
def test_every_field_has_its_option(table: str) -> None:
    """A field that no option fills, or an option that fills none, is an oversight."""
    options = [
        option
        for field in msgspec.structs.fields(STRUCTS[table])
        for option in OPTIONS_OF_FIELDS.get(field.name, [field.name])
    ]
    assert set(options) == set(OPTIONS[table])


def test_every_option_has_its_comment() -> None:
    """The line above the first mention of an option says what it does and what its default is."""
    lines = SHIPPED.splitlines()
    table, seen = "", set()
    for number, line in enumerate(lines):
        if header := HEADER.fullmatch(line):
            table = header[1]
        elif (option := OPTION.match(line)) and (table, option[1]) not in seen:
            seen.add((table, option[1]))
            assert re.match(r"# (?!\w+ = )", lines[number - 1]), f"{table} {option[1]}"


def test_what_it_sets() -> None:
    """The seven event types, four periods and the receiver known from the old system."""
    config = decode(SHIPPED.encode(), form="toml", environ={})
    assert {name: kind.op for name, kind in config.events.items()} == {
        "api.calls": Operation.SUM,
        "storage.bytes": Operation.MAX,
        "response.time.ms": Operation.AVG,
        "test.min": Operation.MIN,
        "test.count": Operation.COUNT,
        "test.first": Operation.FIRST,
        "test.last": Operation.LAST,
    }
    assert all(kind.description for kind in config.events.values())
    assert list(config.periods) == ["hourly", "daily", "weekly", "monthly"]
    (receiver,) = config.webhooks
    assert receiver.url == "http://localhost:3000/webhooks/metering"
    assert receiver.secrets == ("whsec_test_secret",)
    assert receiver.enabled
    assert [str(network) for network in receiver.allow_private] == ["127.0.0.0/8", "::1/128"]
    assert config.keys == ()


def test_the_defaults_it_shows_are_the_defaults() -> None:
    """What is written as a default and what an empty file means are the same."""
    config, empty = decode(SHIPPED.encode(), form="toml", environ={}), Config()
    times = ("grace_ms", "admission", "revise_after_ms", "idempotency_window_ms")
    for field in (*times, "dry_run", "log_level", "log_format", "server", "storage", "retention"):
        assert getattr(config, field) == getattr(empty, field)


def test_the_examples_in_comments_are_valid() -> None:
    """Taking the comment mark away is all it needs."""
    lines = [
        line.removeprefix("# ") if OPTION.match(line) or HEADER.fullmatch(line) else line
        for line in SHIPPED.replace("# secret_env", "# # secret_env").splitlines()
    ]
    config = decode("\n".join(lines).encode(), form="toml", environ={})
    assert [key.id for key in config.keys] == ["dashboard"]
    assert config.events["api.calls"].unit == "calls"
    assert config.retention == Retention(400 * DAY_MS)
