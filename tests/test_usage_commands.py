"""meterd customers and meterd usage, against a daemon that runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.asking import run
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

EXACT = "12345678901234567890.123456789"
JANUARY = "2026-01-14T10:00:00Z"
# Each is a part of a path that some program would take for another.
NAMES = ("..", "a/b", "kunde é?x=1")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("usage")
    started = DaemonProcess(folder, options='accept_past = "3650d"')
    try:
        batch: list[dict[str, Any]] = [
            {"customerId": "acme", "value": 1, "metadata": {"plan": "pro", "n": 1}},
            {"customerId": "acme", "value": 2, "metadata": {"plan": "free"}},
            {"customerId": "acme", "value": 4, "timestamp": JANUARY},
            *({"customerId": name, "value": 1} for name in NAMES),
        ]
        items = [{"eventType": "api.calls", **one} for one in batch]
        text = json.dumps(items).replace('"value": 4', f'"value": {EXACT}').encode()
        assert started.request("POST", "/usagebatch", content=text).status_code == 201
        yield started
    finally:
        started.stop()


def rows(result: Result) -> list[list[str]]:
    assert (result.exit_code, result.stderr) == (0, "")
    return [line.split() for line in result.stdout.splitlines()]


def objects(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_customers_are_listed(daemon: DaemonProcess) -> None:
    """By their ids, a page at a time."""
    head, *lines = rows(run(daemon, "customers"))
    assert head == ["CUSTOMER", "FIRST", "SEEN"]
    assert [line[0] for line in lines] == ["..", "a/b", "acme", "kunde"]
    first = run(daemon, "customers", "--limit", "1", "--json")
    cursor = first.stderr.split("--cursor ")[1].split()[0]
    rest = objects(run(daemon, "customers", "--all", "--cursor", cursor, "--json"))
    assert [one["customerId"] for one in objects(first) + rest] == ["..", "a/b", "acme", NAMES[2]]


def test_usage_of_the_period_that_runs_is_live(daemon: DaemonProcess) -> None:
    """What was acknowledged is in it; of a month unless another period is asked for."""
    head, line = rows(run(daemon, "usage", "--customer", "acme"))
    assert head == ["PERIOD", "STATUS", "TYPE", "OPERATION", "VALUE", "COUNT"]
    assert line == [f"{datetime.now(UTC):%Y%m}", "open", "api.calls", "sum", "3", "2"]
    past = ("--at", JANUARY, "--period", "hourly")
    _, line = rows(run(daemon, "usage", "--customer", "acme", *past))
    assert [line[0], *line[2:]] == ["2026011410", "api.calls", "sum", EXACT, "1"]
    [found] = objects(run(daemon, "usage", "--customer", "acme", "--json"))
    assert found["usage"]["api.calls"]["exact"]["max"] == "2"


@pytest.mark.parametrize("name", NAMES)
def test_any_customer_may_be_asked_for(daemon: DaemonProcess, name: str) -> None:
    """Whatever its id would mean in a URL."""
    [found] = objects(run(daemon, "usage", "--customer", name, "--json"))
    assert (found["customerId"], found["usage"]["api.calls"]["count"]) == (name, 1)


def test_a_customer_that_is_not_known_is_said_so(daemon: DaemonProcess) -> None:
    """It is no error: its first event may come."""
    result = run(daemon, "usage", "--customer", "acne")
    assert (result.exit_code, result.stdout) == (0, "none\n")
    assert result.stderr == "note: no event of that customer ever came\n"


def test_usage_over_time(daemon: DaemonProcess) -> None:
    """The earliest window first, between borders of windows, a page of windows at a time."""
    asked = ("usage", "--customer", "acme", "--window", "monthly")
    _, first, second = rows(run(daemon, *asked))
    assert [first[0], *first[2:]] == ["202601", "api.calls", "sum", EXACT, "1"]
    assert second[-2:] == ["3", "2"]
    january = ("--from", "2026-01-01", "--to", "2026-02-01", "--type", "api.calls")
    assert len(objects(run(daemon, *asked, *january, "--json"))) == 1
    assert run(daemon, *asked, "--type", "storage.bytes").stdout == "none\n"
    paged = run(daemon, *asked, "--limit", "1")
    cursor = paged.stderr.split("--cursor ")[1].split()[0]
    assert objects(run(daemon, *asked, "--cursor", cursor, "--json"))[0]["count"] == 2
    result = run(daemon, *asked, "--from", "2026-01-02")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "from must be where a window that is monthly begins" in result.stderr


def test_usage_in_groups(daemon: DaemonProcess) -> None:
    """A row for each value, a column for each name; filters by name and value."""
    asked = ("usage", "--customer", "acme", "--window", "yearly")
    by_plan = rows(run(daemon, *asked, "--group-by", "metadata.plan", "--type", "api.calls"))
    assert by_plan[0][3] == "METADATA.PLAN"
    assert sorted(line[3:] for line in by_plan[1:]) == sorted(
        [["free", "sum", "2", "1"], ["pro", "sum", "1", "1"], ["sum", EXACT, "1"]]
    )
    plans = ("--filter", "metadata.plan=pro", "--filter", "metadata.plan=free")
    [found] = objects(run(daemon, *asked, *plans, "--json"))
    assert found["count"] == 2
    [found] = objects(run(daemon, *asked, *plans, "--filter", "metadata.n=1", "--json"))
    assert found["count"] == 1
    both = ("--group-by", "metadata.plan", "--group-by", "metadata.n", "--json")
    assert {"metadata.plan": "pro", "metadata.n": "1"} in [
        one["group"] for one in objects(run(daemon, *asked, *both))
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing option '--customer'"),
        (("--customer", ""), "must not be empty"),
        (("--customer", "c", "--from", "2026-01-01"), "--from: needs --window"),
        (("--customer", "c", "--to", "2026-01-01"), "--to: needs --window"),
        (("--customer", "c", "--type", "api.calls"), "--type: needs --window"),
        (("--customer", "c", "--all"), "--all: needs --window"),
        (("--customer", "c", "--cursor", "a"), "--cursor: needs --window"),
        (("--customer", "c", "--group-by", "metadata.a"), "--group-by: needs --window"),
        (("--customer", "c", "--filter", "metadata.a=b"), "--filter: needs --window"),
        (
            ("--customer", "c", "--window", "daily", "--at", "2026-01-01"),
            "--at: does not go with --window",
        ),
        (
            ("--customer", "c", "--window", "daily", "--period", "daily"),
            "--period: does not go with --window",
        ),
        (
            ("--customer", "c", "--window", "daily", "--group-by", "plan"),
            "'plan' is not metadata.NAME",
        ),
        (
            ("--customer", "c", "--window", "daily", "--group-by", "metadata."),
            "'metadata.' is not metadata.NAME",
        ),
        (
            ("--customer", "c", "--window", "daily", "--filter", "metadata.=pro"),
            "'metadata.=pro' is not metadata.NAME=VALUE",
        ),
        (
            ("--customer", "c", "--window", "daily", "--filter", "metadata.plan"),
            "'metadata.plan' is not metadata.NAME=VALUE",
        ),
        (("--customer", "c", "--limit", "10001"), "no whole number from 1 to 10,000"),
    ],
)
def test_wrong_arguments_are_named(
    daemon: DaemonProcess, arguments: tuple[str, ...], said: str
) -> None:
    """Exit code 2, before meterd is asked: none of them is passed over."""
    result = run(daemon, "usage", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
