"""The daemon as a process runs it: signals, exit codes, what is printed and what is logged."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from meterd import serving
from meterd.daemon import _url, listening, running
from meterd.domain.credentials import Keyring, new_key
from meterd.domain.errors import (
    CommitFailedError,
    CorruptRecordError,
    MeterdError,
    StoreError,
)
from meterd.embedded import journal, outbox
from meterd.keyfile import add_key
from meterd.machine import SWITCH_SECONDS
from meterd.serving import EXIT_BROKEN, _reload, serve
from meterd.source import ConfigSource
from meterd.work.closer import Closer
from tests.daemon_bench import (
    KEY,
    TEXT,
    WEBHOOK,
    client_of,
    clock,
    configured,
    no_disk,
    post,
    source_in,
)
from tests.daemon_process import DaemonProcess
from tests.edge.encrypted import certificate_in, trusting
from tests.embedded.sample_store import damage, spoil

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from meterd.daemon import Daemon
    from meterd.domain.config import Config
    from meterd.machine import Machine
    from meterd.work.clock import Clock


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """What a daemon sets for its whole process is set back."""
    umask, interval = os.umask(0), sys.getswitchinterval()
    os.umask(umask)
    yield
    os.umask(umask)
    sys.setswitchinterval(interval)
    structlog.reset_defaults()


def log_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


# -- broken ---------------------------------------------------------------------------------------


async def leave_an_event(folder: Path) -> None:
    async with running(configured(folder), clock()) as daemon, client_of(daemon) as http:
        assert await post(http) == 201


@pytest.mark.parametrize("broken", [(journal, "write_closed"), (outbox, "claim")])
def test_the_process_of_a_failed_commit_ends_with_70(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: tuple[Any, str],
) -> None:
    """Whoever waits for that commit: a supervisor starts it again, and it recovers."""
    trio.run(leave_an_event, tmp_path)
    monkeypatch.setattr(*broken, no_disk)
    assert serve(source_in(tmp_path, WEBHOOK.format(port=9))) == EXIT_BROKEN == 70
    [entry] = [one for one in log_of(capsys) if one["level"] == "critical"]
    assert entry["event"].startswith("a write did not reach the disk: ")
    assert entry["error"] == "a transaction failed: no space left on device"
    assert entry["data"] == str(tmp_path / "data")
    assert entry["free_mb"] >= 0


def test_a_mistake_of_ours_ends_the_process_with_70(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed assertion in an actor is no reason to go on with wrong totals."""

    async def mistaken(_: object) -> None:
        raise AssertionError("the closer is mistaken")

    monkeypatch.setattr(Closer, "run", mistaken)
    assert serve(source_in(tmp_path)) == 70
    [entry] = [one for one in log_of(capsys) if one["level"] == "critical"]
    assert entry["event"] == "meterd is broken: start it again, and report this"
    assert "the closer is mistaken" in entry["exception"]


def test_damaged_totals_end_the_process_with_70(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And say what to do; the store is not one that cannot be opened."""
    trio.run(leave_an_event, tmp_path)
    spoil(tmp_path / "data", lambda txn: damage(txn, "totals"))
    assert serve(source_in(tmp_path)) == 70
    [entry] = [one for one in log_of(capsys) if one["level"] == "critical"]
    assert entry["event"].startswith("a stored record is damaged: run meterd verify, ")
    assert entry["error"].startswith("a record of totals does not match its checksum")
    assert entry["data"] == str(tmp_path / "data")


def test_a_store_that_says_nothing_of_itself_is_refused(tmp_path: Path) -> None:
    """As a folder that cannot be used; exit code 1."""
    trio.run(leave_an_event, tmp_path)
    spoil(tmp_path / "data", lambda txn: damage(txn, "meta"))
    with pytest.raises(StoreError, match="cannot be opened: a record of meta does not match"):
        serve(source_in(tmp_path))


@pytest.mark.parametrize("broken", [CommitFailedError, CorruptRecordError, AssertionError])
def test_what_fails_beside_it_does_not_overrule_70(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: type[Exception],
) -> None:
    """Whichever was first; both are in the log."""

    async def broken_twice(_: object) -> None:
        raise ExceptionGroup("both", [MeterdError("that too"), broken("this")])

    monkeypatch.setattr(Closer, "run", broken_twice)
    assert serve(source_in(tmp_path)) == 70
    critical, error = log_of(capsys)
    assert (critical["level"], error["level"]) == ("critical", "error")
    assert "this" in json.dumps(critical)
    assert error["error"] == "that too"


# -- serving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: signal.Signals,
) -> None:
    """SIGHUP reads the file again, bad ones change nothing; the stop is an orderly one."""
    source = source_in(tmp_path)
    in_force: list[Config] = []

    @asynccontextmanager
    async def told_at_once(config: Config, now: Clock, machine: Machine) -> AsyncIterator[Daemon]:
        async with listening(config, now, machine) as daemon:
            await daemon.started.wait()
            daemon.left_out = ["gone"]
            source.path.write_text(TEXT.format(grace="7m", more="").replace("warning", "info"))
            signal.raise_signal(signal.SIGHUP)
            reconfigure = daemon.reconfigure

            def reconfigured(config: Config) -> None:
                reconfigure(config)
                in_force.append(config)
                source.path.write_text("grace = 'soon'")
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(stop)

            monkeypatch.setattr(daemon, "reconfigure", reconfigured)
            yield daemon

    monkeypatch.setattr(serving, "listening", told_at_once)
    assert serve(source) == 0
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    assert [config.grace_ms for config in in_force] == [7 * 60_000]
    log = log_of(capsys)
    at_start = log.pop(0)
    assert at_start["event"] == "taken out, and left out of what closes until put back"
    assert (at_start["level"], at_start["event_types"]) == ("warning", ["gone"])
    assert [entry["event"] for entry in log] == [
        "configuration reloaded",  # the level was "warning" before
        "configuration not reloaded: the old one stays",
        "stopping",
        "stopped",
    ]
    assert "grace" in log[1]["faults"][0]
    assert log[2]["signal"] == stop.name


async def test_a_reload_says_which_event_types_it_takes_out(tmp_path: Path) -> None:
    """Their acknowledged events are on no bill; put back, nothing more is said."""
    gone = '[events."gone"]\nop = "max"\n'
    source = source_in(tmp_path, gone)
    config, text = source.read(), source.path.read_text()
    async with running(config, clock()) as daemon:
        source.path.write_text(text.replace(gone, ""))
        with capture_logs() as logged:
            _reload(source, daemon, config)
        assert [entry.get("event_types") for entry in logged] == [["gone"]]
        source.path.write_text(text)
        with capture_logs() as logged:
            _reload(source, daemon, config)
        assert logged == []


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
TLS = """
[server]
tls_certificate = "{}"
tls_key = "{}"
"""


async def test_tls_is_served_and_reloaded(tmp_path: Path) -> None:
    """A renewed certificate is for new connections; files that do not fit leave the old one."""
    files = certificate_in(tmp_path)
    source = source_in(tmp_path, TLS.format(*files))
    config = source.read()
    async with running(config, clock()) as daemon:
        assert daemon.urls[0].startswith("https://127.0.0.1:")
        old = await certificate_of(daemon)
        certificate_in(tmp_path)
        _reload(source, daemon, config)
        new = await certificate_of(daemon)
        assert old != new
        (tmp_path / "meterd.key").write_text("no key")
        with capture_logs() as logged:
            _reload(source, daemon, config)
        assert [entry["event"] for entry in logged] == [
            "configuration not reloaded: the old one stays"
        ]
        assert files[1] in logged[0]["faults"][0]
        assert await certificate_of(daemon) == new
        certificate_in(tmp_path, not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=90))
        with capture_logs() as logged:
            _reload(source, daemon, config)
        assert [(entry["event"], entry["why"]) for entry in logged] == [
            ("clients refuse this certificate", "certificate has expired")
        ]


async def test_what_needs_a_restart_is_as_it_was_at_the_start(tmp_path: Path) -> None:
    """However often it is reloaded meanwhile: the keys are those of the folder in use."""
    as_it_was = TEXT.format(grace="0s", more=f'[storage]\npath = "{tmp_path / "first"}"')
    source = source_in(tmp_path)
    source.path.write_text(as_it_was)
    of_the_environment = dict(source.environ)
    del of_the_environment["METERD_DATA_DIR"]
    source = ConfigSource(source.path, of_the_environment)
    config = source.read()
    async with running(config, clock()) as daemon:
        add_key(config.storage.path, new_key(bytes(32))[1])
        with capture_logs() as logged:
            source.path.write_text(as_it_was.replace("first", "second"))
            for _ in range(3):
                _reload(source, daemon, config)
                assert len(daemon.settings.config().keys) == 2
            source.path.write_text(as_it_was)
            _reload(source, daemon, config)
    assert [entry["event"] for entry in logged] == ["a change needs a restart"] * 3


async def certificate_of(daemon: Daemon) -> object:
    """Asked for with an event, which is taken."""
    async with httpx.AsyncClient(verify=trusting("http/1.1")) as http:
        url, key = f"{daemon.urls[0]}/usage/api.calls", {"x-apikey": KEY}
        event = {"customerId": "c", "value": 1}
        async with http.stream("POST", url, json=event, headers=key) as answer:
            assert answer.status_code == 201
            return (
                answer.extensions["network_stream"]
                .get_extra_info("ssl_object")
                .getpeercert(binary_form=True)
            )


def test_files_that_cannot_be_used_keep_it_from_starting(tmp_path: Path) -> None:
    """Named, before anything is served."""
    missing = str(tmp_path / "missing")
    source = source_in(tmp_path, TLS.format(missing, missing))
    with pytest.raises(MeterdError, match=f"^server.tls_certificate: cannot read {missing}: "):
        serve(source)


def test_an_address_in_use_is_one_failure(tmp_path: Path) -> None:
    """With its address, and not as a group of groups."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        source = source_in(tmp_path)
        taken_too = ConfigSource(source.path, {**source.environ, "METERD_BIND": bind})
        with pytest.raises(MeterdError, match=f"^cannot listen on {bind}: Address already in use$"):
            serve(taken_too)


def test_the_first_start_prints_a_key_that_lets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once; the second start has it in its folder, by its hash."""
    source = source_in(tmp_path)
    keyless = ConfigSource(
        source.path, {name: text for name, text in source.environ.items() if "KEY" not in name}
    )
    known: list[bool] = []

    @asynccontextmanager
    async def stopped_at_once(
        config: Config, now: Clock, machine: Machine
    ) -> AsyncIterator[Daemon]:
        async with listening(config, now, machine) as daemon:
            signal.raise_signal(signal.SIGTERM)
            yield daemon
            known.append(bool(daemon.settings.config().keys))

    monkeypatch.setattr(serving, "listening", stopped_at_once)
    assert [serve(keyless), serve(keyless)] == [0, 0]
    assert known == [True, True]
    first, _, key, *rest = capsys.readouterr().out.split("\n")
    assert first == "meterd made an API key; it is shown only now:"
    assert rest == ["", ""], "the second start prints nothing"
    assert Keyring(keyless.read().keys).authenticate(key.strip()) is not None


class SpeechlessDaemon(DaemonProcess):
    """Whose stdout is a file on a full disk."""

    def command(self) -> list[str]:
        return ["sh", "-c", f"exec {shlex.join(super().command())} > /dev/full"]


def test_a_key_that_cannot_be_shown_is_told(tmp_path: Path) -> None:
    """It is made, and nobody knows it: the log says what to do, and meterd serves all others."""
    daemon = SpeechlessDaemon(tmp_path, environ={"METERD_API_KEY": ""})
    assert daemon.request("GET", "/healthz").status_code == 200
    assert daemon.stop() == 0
    [told] = [entry for entry in daemon.log if entry["level"] == "error"]
    assert told["event"].endswith(": meterd keys create makes another")
    assert told["error"] == "stdout: No space left on device"


def test_a_start_says_that_it_took_a_key_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was meant for a command, perhaps: no key is made then, and none is printed."""
    source = source_in(tmp_path)
    source.path.write_text(TEXT.format(grace="0s", more="").replace("warning", "info"))

    @asynccontextmanager
    async def stopped_at_once(
        config: Config, now: Clock, machine: Machine
    ) -> AsyncIterator[Daemon]:
        async with listening(config, now, machine) as daemon:
            signal.raise_signal(signal.SIGTERM)
            yield daemon

    monkeypatch.setattr(serving, "listening", stopped_at_once)
    assert serve(source) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert KEY not in printed.err
    log = [json.loads(line) for line in printed.err.splitlines()]
    [said] = [entry for entry in log if "METERD_API_KEY" in entry["event"]]
    assert said["event"] == "the key in METERD_API_KEY is let in, with all scopes"
    assert said["other_keys"] == 0


def test_urls_of_both_families() -> None:
    """An IPv6 address stands in brackets (RFC 3986, 3.2.2)."""

    def listener(*name: object) -> Any:
        return SimpleNamespace(socket=SimpleNamespace(getsockname=lambda: name))

    assert _url(listener("127.0.0.1", 8080), has_tls=False) == "http://127.0.0.1:8080"
    assert _url(listener("::1", 8080, 0, 0), has_tls=True) == "https://[::1]:8080"
