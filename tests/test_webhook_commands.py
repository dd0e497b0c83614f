"""meterd webhooks: what is typed and printed, against a daemon that runs."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from standardwebhooks import Webhook

from meterd.domain.signatures import sign
from tests.command_bench import CUSTOMERS, SECRET, Commands, commands, wait_until_settled
from tests.receiver import Receiver

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with commands(tmp_path_factory.mktemp("commands")) as found:
        yield found


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """As Ctrl-C does; what it said until then."""
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)
    assert process.returncode == 130
    return said


def test_webhooks_are_listed(bench: Commands) -> None:
    """With what waits and is parked, and what came of attempts; URLs masked."""
    result = bench.run("webhooks", "list")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split()[:5] == ["ID", "URL", "STATE", "PENDING", "PARKED"]
    assert "DELIVERED SINCE START" in head
    assert "FAILED IN A ROW" in head
    assert [line.split()[0] for line in lines] == ["billing", "nowhere", "off"]
    assert [line.split()[2] for line in lines] == ["on", "on", "off"]
    assert "allow_private" in lines[1]
    assert "t0ps3cret" not in result.stdout
    billing, nowhere, off = bench.objects("webhooks", "list")
    assert billing["statistics"]["delivered"] == len(CUSTOMERS)
    assert (nowhere["parked"], nowhere["pending"]) == (len(CUSTOMERS), 0)
    assert "statistics" not in off


def test_a_test_tells_what_came_of_it(bench: Commands) -> None:
    """Exit 0 for 2xx, 1 for all else; the receiver gets it signed."""
    count = len(bench.receiver.received)
    result = bench.run("webhooks", "test", "billing")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("billing: 200 (http://127.0.0.1:")
    sent = bench.receiver.wait_for(count + 1)[-1]
    assert sent.payload["type"] == "webhook.test"
    # By the daemon's clock, which is an hour ahead.
    expected = sign(
        sent.body,
        message_id=sent.headers["webhook-id"],
        timestamp_s=int(sent.headers["webhook-timestamp"]),
        secrets=(SECRET,),
    )
    assert expected["webhook-signature"] == sent.headers["webhook-signature"]
    bench.receiver.statuses.append(503)
    refused = bench.run("webhooks", "test", "billing", "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["status"] == 503
    bench.receiver.statuses.append(400)
    bench.receiver.body = b"the signature\nis \x1b[31mold"
    told = bench.run("webhooks", "test", "billing").stdout.splitlines()
    bench.receiver.body = b""
    assert told[0].startswith("billing: HTTP 400")
    assert told[1:] == ["the signature", r"is \x1b[31mold"]
    nowhere = bench.run("webhooks", "test", "nowhere")
    assert nowhere.exit_code == 1
    assert "allow_private" in nowhere.stdout
    assert "not known" not in nowhere.stdout, "the error names the address"
    off = bench.run("webhooks", "test", "off")
    assert (off.exit_code, off.stdout) == (1, "")
    for do in ("test", "enable"):
        off = bench.run("webhooks", do, "off")
        assert (off.exit_code, off.stdout) == (1, "")
        assert "enabled = false in the configuration: change it there" in off.stderr
        for name in ("nobody", "no/body", "", "../x"):
            unknown = bench.run("webhooks", do, name)
            assert (unknown.exit_code, unknown.stdout) == (1, "")
            error = f'No webhook has the id "{name}"; meterd webhooks list shows them\n'
            assert unknown.stderr == error


def test_a_webhook_that_is_gone_is_enabled(bench: Commands) -> None:
    """And gets what waited."""
    bench.receiver.statuses.append(410)
    [one] = bench.objects("deliveries", "list", "--endpoint", "billing", "--customer", "b")
    count = len(bench.receiver.received)
    assert bench.run("deliveries", "retry", one["id"]).exit_code == 0
    bench.receiver.wait_for(count + 1)
    while (gone := bench.objects("webhooks", "list")[0])["state"] == "on":
        pass
    assert gone["state"] == "gone"
    again = bench.run("deliveries", "retry", one["id"])
    assert again.exit_code == 0
    assert again.stdout.startswith(f"{one['id']} is held: billing answered 410 at ")
    assert again.stdout.endswith("; meterd webhooks enable billing\n")
    assert again.stdout.split(" is ", 1)[1] in bench.run("deliveries", "show", one["id"]).stdout
    shown = bench.run("webhooks", "enable", "billing")
    assert (shown.exit_code, shown.stdout) == (0, "billing is on; 1 waiting\n")
    bench.run("deliveries", "retry", one["id"])
    assert bench.receiver.wait_for(count + 2)[-1].headers["webhook-id"] == one["id"]
    wait_until_settled(bench)


def test_listening_forwards_what_was_sent(bench: Commands) -> None:
    """With the same ids and bodies, signed with the secret of the configuration, until Ctrl-C."""
    sent = {one.headers["webhook-id"]: one.body for one in bench.receiver.received}
    with Receiver() as other:
        other.statuses.append(500)
        process = bench.start(
            *("webhooks", "listen", "--endpoint", "billing"),
            *("--after", "0", "--forward", other.url),
        )
        received = other.wait_for(len(CUSTOMERS))
        assert process.stdout is not None
        lines = [process.stdout.readline().rstrip() for _ in CUSTOMERS]
        assert interrupt(process) == ("", "listening to billing behind sequence 0\n")
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert [line.split("  ")[-1] for line in lines[1:]] == ["200 OK"] * 2
    assert "500" in lines[0]
    for one in received:
        assert sent[one.headers["webhook-id"]] == one.body
        Webhook(SECRET.encode()).verify(one.body, one.headers)


def test_listening_without_a_receiver_shows(bench: Commands) -> None:
    """Whole bodies; from now on where nothing else is asked for."""
    process = bench.start("webhooks", "listen", "--endpoint", "nowhere", "--after", "1")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    interrupt(process)
    assert [line.split()[0] for line in lines[::2]] == ["2", "3"]
    assert [json.loads(line)["sequence"] for line in lines[1::2]] == [2, 3]
    process = bench.start("webhooks", "listen", "--endpoint", "nowhere")
    assert process.stderr is not None
    assert process.stderr.readline() == "listening to nowhere behind sequence 3\n"
    assert interrupt(process)[0] == ""


def test_another_secret_signs(bench: Commands) -> None:
    """That of the option, or of the environment, for a receiver with its own; as JSON, too."""
    with Receiver() as other:
        process = bench.start(
            *("webhooks", "listen", "--endpoint", "billing", "--after", "2", "--json"),
            *("--secret", "whsec_of_the_other_receiver", "--forward", other.url),
        )
        (received,) = other.wait_for(1)
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        interrupt(process)
    Webhook(b"whsec_of_the_other_receiver").verify(received.body, received.headers)
    assert (line["sequence"], line["forwarded"]) == (3, "200 OK")
    assert line["payload"] == received.payload


def test_what_cannot_be_listened_to(bench: Commands) -> None:
    """Exit 1, and what to do."""
    listen = ("webhooks", "listen", "--endpoint", "nobody")
    unknown = bench.run(*listen)
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "meterd webhooks list shows them" in unknown.stderr
    no_secret = bench.run(*listen, "--forward", "http://127.0.0.1:9/")
    assert (no_secret.exit_code, no_secret.stdout) == (1, "")
    assert "has no webhook nobody: give --secret" in no_secret.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("test",),
        ("enable",),
        ("listen",),
        ("listen", "--endpoint", ""),
        ("listen", "--endpoint", "a", "--after", "-1"),
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_exit_code_2(bench: Commands, arguments: tuple[str, ...]) -> None:
    """As everywhere on the command line."""
    assert bench.run("webhooks", *arguments).exit_code == 2


@pytest.mark.parametrize("url", ["foo", "localhost:3000", "ftp://a/", "http://", ""])
def test_what_cannot_be_forwarded_to_is_named(bench: Commands, url: str) -> None:
    """At once, before anything is read."""
    result = bench.run("webhooks", "listen", "--endpoint", "billing", "--forward", url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--forward" in result.stderr
    assert "must be" in result.stderr


@pytest.mark.parametrize("name", ["list", "test", "enable", "listen"])
def test_exit_codes_are_documented(bench: Commands, name: str) -> None:
    """Scripts rely on them."""
    assert "Exit codes: " in bench.run("webhooks", name, "--help").stdout
