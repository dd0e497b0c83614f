"""meterd events and meterd aggregations, against a daemon that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from meterd.cli import main
from tests.daemon_process import KEY, DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

EXACT = "12345678901234567890.123456789"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    started = DaemonProcess(tmp_path_factory.mktemp("listing"))
    try:
        for number, customer in enumerate(("acme", "b", "kunde é")):
            value = EXACT if number == 0 else number
            body = f'{{"customerId": "{customer}", "value": {value}, "metadata": {{"n": 1.50}}}}'
            captured = started.request("POST", "/usage/api.calls", content=body.encode())
            assert captured.status_code == 201
        [newest] = started.request("GET", "/events?limit=1").json()
        started.request("POST", f"/events/{newest['_id']}/void", json={"reason": "sent\ntwice"})
        batch = [
            {"eventType": "storage.bytes", "customerId": "many", "value": number}
            for number in range(6)
        ]
        assert started.request("POST", "/usagebatch", json=batch).status_code == 201
        started.trigger()
        yield started
    finally:
        started.stop()


def run(daemon: DaemonProcess, *arguments: str) -> Result:
    where = ["--config", str(daemon.config), "--url", daemon.url]
    result = CliRunner().invoke(main, [*arguments, *where], env={"METERD_API_KEY": KEY})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def objects(daemon: DaemonProcess, *arguments: str) -> list[dict[str, Any]]:
    result = run(daemon, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_events_are_a_table(daemon: DaemonProcess) -> None:
    """Newest first, to the digit; columns that are empty are left out."""
    result = run(daemon, "events", "--type", "api.calls")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split("  ")[0] == "RECEIVED"
    assert "TAKEN BACK" in head
    assert "KEY" not in head
    assert [
        word for line in lines for word in ("acme", "b", "kunde é") if f"  {word} " in line
    ] == [
        "kunde é",
        "b",
        "acme",
    ]
    assert r"sent\x0atwice" in lines[0]
    assert f"  {EXACT}  " in lines[2]
    assert '{"n":1.50}' in lines[2]
    assert run(daemon, "events", "--customer", "nobody").stdout == "none\n"


def test_events_are_filtered(daemon: DaemonProcess) -> None:
    """As the API does."""
    assert [one["customerId"] for one in objects(daemon, "events", "--customer", "b")] == ["b"]
    oldest = objects(daemon, "events", "--oldest-first", "--limit", "2")
    assert [one["customerId"] for one in oldest] == ["acme", "b"]
    assert objects(daemon, "events", "--to", "2020-01-01") == []
    assert len(objects(daemon, "events", "--from", oldest[0]["receivedAt"], "--limit", "5")) == 5
    exact = run(daemon, "events", "--customer", "acme", "--json").stdout
    assert f'"value":{EXACT},"metadata":{{"n":1.50}},' in exact


def test_pages_are_followed(daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, or from where one ended, which says how; a page at a time is in memory."""
    monkeypatch.setattr("meterd.listing.PAGE", 2)
    result = run(daemon, "events", "--limit", "3", "--json")
    cursor = result.stderr.split("--cursor ")[1].split()[0]
    assert result.stderr == f"there are more: --all lists them, --cursor {cursor} goes on\n"
    first = [json.loads(line)["_id"] for line in result.stdout.splitlines()]
    rest = [one["_id"] for one in objects(daemon, "events", "--cursor", cursor, "--all")]
    every = run(daemon, "events", "--all", "--json")
    assert every.stderr == ""
    assert [json.loads(line)["_id"] for line in every.stdout.splitlines()] == first + rest
    assert len(first + rest) == 9
    table = run(daemon, "events", "--all").stdout.splitlines()
    assert len(table) == 9 + 5  # a head for each page


def test_aggregations_are_listed(daemon: DaemonProcess) -> None:
    """With exact figures and what came of webhooks."""
    result = run(daemon, "aggregations", "--customer", "acme", "--period", "hourly")
    assert (result.exit_code, result.stderr) == (0, "")
    head, line = result.stdout.splitlines()
    assert head.split()[:5] == ["CUSTOMER", "PERIOD", "KEY", "STATUS", "REVISION"]
    assert f"api.calls {EXACT}" in line
    assert "  open  " in line
    [found] = objects(daemon, "aggregations", "--customer", "acme", "--period", "hourly")
    assert found["exact"] == {"api.calls": EXACT}
    paged = run(daemon, "aggregations", "--limit", "1")
    assert "--cursor" in paged.stderr
    every = objects(daemon, "aggregations", "--all", "--revisions")
    assert {one["customerId"] for one in every} >= {"acme", "b", "many"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("events", "--from", "yesterday"), "'yesterday' is not an ISO 8601 date"),
        (("events", "--customer", ""), "must not be empty"),
        (("events", "--limit", "0"), "'0' is no whole number from 1 to 100,000"),
        (("aggregations", "--period", "secondly"), "'secondly' is not one of"),
        *(
            (
                (*command, "--from", "2026-03-02", "--to", "2026-03-01"),
                "--to: 2026-03-01 is before --from 2026-03-02",
            )
            for command in (
                ("events",),
                ("aggregations",),
                ("usage", "--customer", "acme", "--window", "daily"),
            )
        ),
    ],
)
def test_wrong_arguments_are_named(
    daemon: DaemonProcess, arguments: tuple[str, ...], said: str
) -> None:
    """Exit code 2, before meterd is asked."""
    result = run(daemon, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_what_meterd_refuses_is_told(daemon: DaemonProcess) -> None:
    """In its words, with exit code 1."""
    result = run(daemon, "events", "--cursor", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cursor must be taken from the Link header" in result.stderr


def test_what_was_sent_is_said_of_an_aggregation() -> None:
    """Delivered, or the last error, or that it waits."""
    from meterd.listing_commands import _Status, _webhooks

    assert _webhooks(_Status(delivered=True, attempts=2, last_error="HTTP 500")) == "delivered"
    assert _webhooks(_Status(attempts=2, last_error="HTTP 500")) == "2 attempts: HTTP 500"
    assert _webhooks(_Status(attempts=1, last_error="HTTP 500")) == "1 attempt: HTTP 500"
    assert _webhooks(_Status(attempts=1)) == "waiting"
    assert _webhooks(_Status()) == ""
