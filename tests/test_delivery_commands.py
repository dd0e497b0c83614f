"""meterd deliveries: what is typed and printed, against a daemon that runs."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from meterd.delivery_commands import replay_pages, told_of_replay
from meterd.domain.instants import parse_instant
from meterd.domain.periods import PeriodType
from meterd.edge.parameters import aggregation_cursor
from meterd.ledger import AggregationPlace
from tests.command_bench import CUSTOMERS, NEW, SECRET, Commands, commands, wait_until_settled
from tests.daemon_process import ROOT
from tests.model_deliveries import order_of_customers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NOBODY = "msg_" + "0" * 32


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with commands(tmp_path_factory.mktemp("commands")) as found:
        yield found


def ids(bench: Commands, *options: str) -> list[str]:
    return [one["id"] for one in bench.objects("deliveries", "list", *options)]


def test_deliveries_are_listed(bench: Commands) -> None:
    """One a line, under names of columns; nothing else on stdout."""
    result = bench.run("deliveries", "list", "--endpoint", "billing")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split()[:5] == ["ID", "ENDPOINT", "TYPE", "SEQUENCE", "CUSTOMER"]
    assert "REVISION" in head.split()
    assert "THRESHOLD" not in head.split()  # which none of them has
    assert len(lines) == len(CUSTOMERS)
    assert all("delivered" in line for line in lines)
    assert {line.split()[2] for line in lines} == {"aggregation.completed"}
    assert {line.split()[4] for line in lines} == {"acme", "b", "kunde"}


def test_they_are_filtered(bench: Commands) -> None:
    """By webhook, customer, period and status; limited, which is said."""
    assert len(ids(bench)) == 2 * len(CUSTOMERS)
    assert len(ids(bench, "--status", "parked")) == len(CUSTOMERS)
    assert len(ids(bench, "--customer", "kunde é", "--period", "hourly")) == 2
    assert ids(bench, "--period", "yearly") == []
    result = bench.run("deliveries", "list", "--limit", "2")
    assert len(result.stdout.splitlines()) == 3
    assert "--limit shows more" in result.stderr
    none = bench.run("deliveries", "list", "--period", "yearly")
    assert (none.exit_code, none.output) == (0, "none\n")
    unknown = bench.run("deliveries", "list", "--endpoint", "nobody")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert unknown.stderr == 'No webhook has the id "nobody"; meterd webhooks list shows them\n'


def test_a_delivery_is_shown(bench: Commands) -> None:
    """What it is, each attempt, its body; no secret and no token."""
    [name] = ids(bench, "--endpoint", "billing", "--customer", "acme")
    result = bench.run("deliveries", "show", name)
    assert (result.exit_code, result.stderr) == (0, "")
    for text in (name, "delivered", "attempt 1", "127.0.0.1:", "token=***", "webhook-signature"):
        assert text in result.stdout
    lines = result.stdout.splitlines()
    assert lines == [line.rstrip() for line in lines]
    sent = [line for line in lines if line.startswith("requestHeaders")]
    assert [line.split() for line in sent] == [
        ["requestHeaders", "Content-Type:", "application/json"]
    ]
    assert max(len(line) for line in lines[:-1]) < 130
    assert json.loads(result.stdout.splitlines()[-1])["customerId"] == "acme"
    assert "t0ps3cret" not in result.stdout
    assert SECRET not in result.stdout
    listed = bench.run("deliveries", "list", "--endpoint", "billing").stdout
    assert "LAST ERROR" not in listed, "what arrived after all is no trouble"
    [parked] = ids(bench, "--endpoint", "nowhere", "--customer", "b")
    shown = bench.run("deliveries", "show", parked).stdout
    assert "allow_private" in shown
    assert "refused-address" in shown


def test_what_it_waits_for_is_shown(bench: Commands) -> None:
    """For a webhook that was taken out, say."""
    daemon = bench.daemon
    text = daemon.config.read_text()
    [name] = ids(bench, "--endpoint", "nowhere", "--customer", "acme")
    try:
        daemon.config.write_text(
            re.sub(r"(?s)\[\[webhooks\]\]\nid = .nowhere.*?(?=\[\[)", "", text)
        )
        daemon.send(signal.SIGHUP)
        daemon.wait_for("configuration reloaded")
        again = bench.run("deliveries", "retry", name)
        assert again.exit_code == 0
        assert again.stdout.startswith(f"{name} is held: nowhere is not configured")
        [listed] = bench.objects("deliveries", "list", "--status", "pending")
        assert (listed["held"]["reason"], "nextAttemptAt" in listed) == ("removed", False)
        table = bench.run("deliveries", "list", "--status", "pending").stdout.splitlines()
        assert ("HELD" in table[0], "NEXT" in table[0], "removed" in table[1]) == (
            True,
            False,
            True,
        )
        shown = bench.run("deliveries", "show", name).stdout
        assert "held: nowhere is not configured" in shown
    finally:
        daemon.config.write_text(text)
        daemon.send(signal.SIGHUP)
        daemon.wait_for("configuration reloaded")
    wait_until_settled(bench)


def test_a_curl_line_can_be_piped_to_a_shell(bench: Commands) -> None:
    """It repeats the attempt: the receiver gets the same request."""
    [name] = ids(bench, "--endpoint", "billing", "--customer", "kunde é")
    result = bench.run("deliveries", "show", name, "--curl", "1")
    line = result.stdout.strip().replace("***", "filled-in")
    before = next(one for one in bench.receiver.received if one.headers["webhook-id"] == name)
    count = len(bench.receiver.received)
    subprocess.run(["sh", "-c", line], check=True, capture_output=True)
    again = bench.receiver.wait_for(count + 1)[-1]
    assert again.body == before.body
    for field in ("webhook-id", "webhook-signature", "x-webhook-signature", "content-type"):
        assert again.headers[field] == before.headers[field]
    missing = bench.run("deliveries", "show", name, "--curl", "9")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert missing.stderr == "what was sent at attempt 9 is not in the log; there are 1\n"


def test_a_retry(bench: Commands) -> None:
    """Several at once; the first that is not known ends it."""
    names = ids(bench, "--endpoint", "billing")[:2]
    count = len(bench.receiver.received)
    result = bench.run("deliveries", "retry", *names)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"{name} is under way to billing" for name in names]
    sent = bench.receiver.wait_for(count + 2)[count:]
    assert sorted(one.headers["webhook-id"] for one in sent) == sorted(names)
    for unknown in (NOBODY, "../webhooks", "", "é"):
        result = bench.run("deliveries", "retry", unknown)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("No delivery has the id ")
        assert result.stderr.endswith("; meterd deliveries list shows them\n")
        assert unknown in result.stderr
        assert bench.run("deliveries", "show", unknown).stderr == result.stderr
    wait_until_settled(bench)


def add_new_webhook(bench: Commands, endpoint_id: str) -> None:
    daemon = bench.daemon
    more = NEW.format(url=bench.receiver.url, secret=SECRET).replace('"new"', f'"{endpoint_id}"')
    daemon.config.write_text(daemon.config.read_text() + more)
    daemon.send(signal.SIGHUP)
    daemon.wait_for("configuration reloaded")


def test_a_replay_counts_and_then_sends(bench: Commands) -> None:
    """To a webhook that is new; the second time under the same ids."""
    add_new_webhook(bench, "new")
    asked = ("deliveries", "replay", "--endpoint", "new", "--since", "2026-01-01")
    counted = bench.run(*asked, "--dry-run")
    assert (counted.exit_code, counted.stderr) == (0, "")
    assert counted.stdout == "3 would be sent: 0 sent before, 3 never yet\n"
    count = len(bench.receiver.received)
    done = bench.run(*asked)
    assert done.exit_code == 0
    assert done.stdout == "3 under way: 0 sent before, 3 never yet\n"
    assert done.stderr == "3 to be sent: 0 sent before, 3 never yet\n"
    first = bench.receiver.wait_for(count + 3)[count:]
    wait_until_settled(bench)
    [told] = bench.objects(*asked, "--until", "2999-01-01")
    assert (told["again"], told["created"], told["dryRun"]) == (3, 0, False)
    again = bench.receiver.wait_for(count + 6)[count + 3 :]
    assert {one.headers["webhook-id"] for one in again} == {
        one.headers["webhook-id"] for one in first
    }
    wait_until_settled(bench)
    [none] = bench.objects(*asked, "--until", "2026-01-01", "--dry-run")
    assert (none["again"], none["created"]) == (0, 0)
    for more in ((), ("--dry-run",)):
        result = bench.run(*asked, "--until", "2026-01-01", *more)
        assert (result.exit_code, result.output) == (0, "nothing closed in between\n")


def test_a_stretch_of_time_that_is_none(bench: Commands) -> None:
    """An end before the beginning, or a beginning that is yet to come."""
    asked = ("deliveries", "replay", "--endpoint", "billing", "--since")
    backwards = bench.run(*asked, "2026-11-01", "--until", "2026-10-01")
    assert (backwards.exit_code, backwards.stdout) == (2, "")
    assert "--until: 2026-10-01 is before --since 2026-11-01" in backwards.stderr
    for more in ((), ("--until", "2999-02-01")):
        to_come = bench.run(*asked, "2999-01-01", *more)
        assert (to_come.exit_code, to_come.stdout) == (1, "")
        assert to_come.stderr.startswith("--since 2999-01-01 is in the future: for meterd it is ")


def test_a_replay_to_who_is_off_is_held(bench: Commands) -> None:
    """Nothing of it is under way; said with what ends it, also when it is only counted."""
    asked = ("deliveries", "replay", "--endpoint", "off", "--since", "2026-01-01", "--dry-run")
    result = bench.run(*asked)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "3 would be sent: 0 sent before, 3 never yet",
        "held: off has enabled = false in the configuration",
    ]
    held = {"message": "x answered 410", "enable": "POST /webhooks/x/enable"}
    told = told_of_replay({"again": 1, "created": 0}, "waiting", held, "x")
    assert told.endswith("\nheld: x answered 410; meterd webhooks enable x")


class Interrupted:
    """A daemon that answers two pages; then somebody presses Ctrl-C."""

    def __init__(self, answers: int = 2) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = answers

    def post(self, path: str, content: Mapping[str, Any] | None = None) -> Any:
        assert path == "/deliveries/replay"
        self.asked.append(dict(content or {}))
        if len(self.asked) > self._answers:
            raise SystemExit(130)
        return {"again": 1, "created": 1, "cursor": f"c{len(self.asked)}"}


def test_a_replay_that_ends_early_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """With a line to type, which goes on behind the last page that was answered."""
    asked = {"endpoint": "crm", "from": "2026-01-01", "to": "2026-02-01"}
    line = (
        "not finished; go on with: meterd deliveries replay --endpoint crm"
        " --since 2026-01-01 --until 2026-02-01"
    )
    for answers, more in ((2, " --cursor c2"), (0, "")):
        daemon = Interrupted(answers)
        with pytest.raises(SystemExit):
            replay_pages(daemon, asked, {}, 9)
        assert capsys.readouterr().err == f"{line}{more}\n"
    again = Interrupted()
    with pytest.raises(SystemExit):
        replay_pages(again, asked, {"cursor": "c2"}, 9)
    assert [one["cursor"] for one in again.asked] == ["c2", "c1", "c2"]


def test_it_goes_on_from_a_cursor(bench: Commands) -> None:
    """Behind the aggregation at which it stands."""
    add_new_webhook(bench, "later")
    started = bench.objects("deliveries", "list", "--endpoint", "billing")[0]["periodStart"]
    place = AggregationPlace(parse_instant(started) or 0, "acme", PeriodType.HOURLY)
    cursor = aggregation_cursor(place) or ""
    asked = ("deliveries", "replay", "--endpoint", "later", "--since", "2026-01-01")
    behind = {one for one in CUSTOMERS if order_of_customers(one) > order_of_customers("acme")}
    done = bench.run(*asked, "--cursor", cursor)
    assert done.stdout == f"{len(behind)} under way: 0 sent before, {len(behind)} never yet\n"
    found = bench.objects("deliveries", "list", "--endpoint", "later")
    assert {one["customerId"] for one in found} == behind
    wait_until_settled(bench)


def test_a_wrong_cursor_is_named(bench: Commands) -> None:
    """Exit 1, with what it takes, and nothing is done."""
    asked = ("deliveries", "replay", "--endpoint", "billing", "--since", "2026-01-01")
    result = bench.run(*asked, "--cursor", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "cursor must be that of an earlier answer\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--status", "lost"),
        ("list", "--limit", "0"),
        ("list", "--customer", ""),
        ("list", "--endpoint", ""),
        ("list", "--period", "x"),
        ("show",),
        ("show", "x", "--curl", "0"),
        ("retry",),
        ("replay", "--endpoint", "billing"),
        ("replay", "--since", "2026-01-01"),
        ("replay", "--endpoint", "billing", "--since", "yesterday"),
        ("replay", "--endpoint", "billing", "--since", "2026-01-01", "--until", "x"),
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_exit_code_2(bench: Commands, arguments: tuple[str, ...]) -> None:
    """As everywhere on the command line."""
    assert bench.run("deliveries", *arguments).exit_code == 2


@pytest.mark.parametrize("name", ["list", "show", "retry", "replay"])
def test_exit_codes_are_documented(bench: Commands, name: str) -> None:
    """Scripts rely on them."""
    assert "Exit codes: 0" in bench.run("deliveries", name, "--help").stdout


def test_a_terminal_shows_a_bar(bench: Commands) -> None:
    """On stderr; stdout has the result alone."""
    leader, follower = pty.openpty()
    asked = ("deliveries", "replay", "--endpoint", "billing", "--since", "2026-01-01")
    process = subprocess.Popen(
        [sys.executable, "-m", "meterd", *bench.whole(*asked)],
        cwd=ROOT,
        env={**os.environ, **bench.environ(), "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
    )
    os.close(follower)
    shown = b""
    try:
        while some := os.read(leader, 10_000):
            shown += some
    except OSError:  # Linux says so at the end
        pass
    os.close(leader)
    assert process.communicate()[0] == "3 under way: 3 sent before, 0 never yet\n"
    assert b"replay" in shown
    assert b"100%" in shown
    wait_until_settled(bench)
