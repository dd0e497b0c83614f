"""meterd void, against a daemon that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.asking import run
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODYS = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    started = DaemonProcess(tmp_path_factory.mktemp("void"))
    try:
        yield started
    finally:
        started.stop()


def test_an_event_is_taken_back(daemon: DaemonProcess) -> None:
    """By the id that meterd events shows; again it is not, and its first reason is shown."""
    for value in (1, 2):
        body = {"customerId": "acme", "value": value}
        assert daemon.request("POST", "/usage/api.calls", json=body).status_code == 201
    newest = json.loads(run(daemon, "events", "--limit", "1", "--json").stdout)["_id"]
    result = run(daemon, "void", newest, "--reason", "sent\ntwice")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{newest} is taken back: sent\\x0atwice\n"
    again = run(daemon, "void", newest, "--reason", "another")
    assert again.stdout == f"{newest} was taken back before: sent\\x0atwice\n"
    shown = json.loads(run(daemon, "void", newest, "--reason", "another", "--json").stdout)
    assert (shown["_id"], shown["void"]["reason"]) == (newest, "sent\ntwice")
    left = json.loads(run(daemon, "usage", "--customer", "acme", "--json").stdout)
    assert left["usage"]["api.calls"]["exact"]["sum"] == "1"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((NOBODYS,), 2, "Missing option '--reason'"),
        ((NOBODYS, "--reason", ""), 2, "must not be empty"),
        (("--reason", "a"), 2, "Missing argument 'ID'"),
        (("..", "--reason", "a"), 1, 'No event has the id ".."; meterd events shows them'),
        ((NOBODYS, "--reason", "a"), 1, f'No event has the id "{NOBODYS}"; meterd events shows'),
        ((NOBODYS, "--reason", "a\x1b"), 1, "but for line breaks"),
        ((NOBODYS, "--reason", "x" * 501), 1, "reason must be a string of 1 to 500 characters"),
        ((NOBODYS, "--reason", "a", "--key", "no"), 1, "does not know the key"),
    ],
)
def test_what_cannot_be_taken_back_is_said(
    daemon: DaemonProcess, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """With what to do."""
    result = run(daemon, "void", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
