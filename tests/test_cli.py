"""meterd/cli.py and meterd/__main__.py"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click
import lmdb
import pytest
from click.testing import CliRunner, Result

from meterd import __version__
from meterd.cli import main
from meterd.embedded.store import Store
from tests.daemon_process import ROOT
from tests.edge.encrypted import certificate_in

if TYPE_CHECKING:
    from meterd.source import ConfigSource

CONFIG = """\
periods = ["daily"]
[events.a]
op = "sum"
[[webhooks]]
url = "http://localhost:3000/hook?token=hunter2"
secret = "whsec_AAAABBBBCCCCDDDDEEEEFFFFGGGGHHHH"
enabled = false
"""
VALID = "systemconfig.toml is valid"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration, and none of the environment's own variables."""
    for name in ("METERD_CONFIG", "METERD_BIND", "METERD_DATA_DIR", "METERD_API_KEY", "DRY_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "systemconfig.toml").write_text(CONFIG)
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def test_check_says_what_would_run() -> None:
    """Exit 0, the summary on stdout, tokens masked."""
    result = run("check")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "systemconfig.toml is valid",
        "  address     127.0.0.1:8080",
        "  tls         no",
        "  data        meterd-data",
        "  periods     daily; closed 5m after their end",
        "  event type  a (sum)",
        "  webhook     localhost-3000-HASH http://localhost:3000/hook?token=*** (disabled)".replace(
            "HASH", result.stdout.split("localhost-3000-")[1][:8]
        ),
        "  keys        none; the first start makes one",
        "  events      kept for ever",
        "  dry run     no",
        "  log level   info",
        "  log format  auto",
    ]


def test_check_says_of_what_somebody_is_told(folder: Path) -> None:
    """Which figures of whom, and at which values."""
    alerts = """
[[alerts]]
id = "quota"
event = "a"
period = "monthly"
thresholds = [800, "999.50"]
[[alerts]]
id = "acmes"
event = "a"
period = "daily"
thresholds = [1]
customer = "acme"
"""
    text = (folder / "systemconfig.toml").read_text()
    (folder / "systemconfig.toml").write_text(text + alerts)
    said = run("check").stdout
    assert "  alert       quota: a at 800, 999.5, monthly\n" in said
    assert '  alert       acmes: a at 1, daily of "acme"\n' in said
    assert json.loads(run("check", "--json").stdout)["alerts"] == ["quota", "acmes"]


def test_check_says_for_how_long_events_are_kept(folder: Path) -> None:
    """What is taken over by a reload deletes them."""
    text = (folder / "systemconfig.toml").read_text()
    (folder / "systemconfig.toml").write_text(text + '\n[retention]\nevents = "400d"\n')
    said = "  events      kept for 400d at least, then deleted for good\n"
    assert said in run("check").stdout


def test_check_looks_at_the_certificate(folder: Path) -> None:
    """As a start would: until when it is good, whether clients take it, whether it can be used."""
    text = (folder / "systemconfig.toml").read_text()
    tls = '\n[server]\ntls_certificate = "meterd.crt"\ntls_key = "meterd.key"\n'
    (folder / "systemconfig.toml").write_text(text + tls)
    ends = datetime(2100, 5, 4, tzinfo=UTC)
    certificate_in(folder, not_after=ends)
    assert "  tls         meterd.crt, until 2100-05-04T00:00:00.000Z\n" in run("check").stdout
    certificate_in(folder, not_before=ends - timedelta(days=90), not_after=ends)
    result = run("check")
    assert "meterd.crt, which clients refuse: certificate is not yet valid\n" in result.stdout
    (folder / "meterd.key").unlink()
    result = run("check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "server.tls_key: cannot read meterd.key" in result.stderr


def test_check_tells_every_fault(folder: Path) -> None:
    """Exit 1, nothing on stdout, one line for each fault on stderr."""
    (folder / "bad.toml").write_text('dry_run = 1\n[events.a]\nop = "summ"')
    result = run("check", "--config", "bad.toml")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "bad.toml: line 1: dry_run: must be true or false, not 1",
        (
            "bad.toml: line 3: events.a.op: must be one of sum, avg, min, max, count, first, last,"
            ' not "summ"; did you mean sum?'
        ),
    ]


def test_check_points_out_what_is_probably_not_meant(folder: Path) -> None:
    """Valid all the same: exit 0, and notes on stderr."""
    (folder / "systemconfig.toml").write_text("")
    result = run("check")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "note: no event types: every event is answered with 503",
        "note: no periods: nothing is aggregated and no webhook is sent",
    ]


def test_check_does_not_touch_the_data_folder(folder: Path) -> None:
    """Checking is reading."""
    run("check")
    assert [path.name for path in folder.iterdir()] == ["systemconfig.toml"]


def test_a_wrong_argument_is_exit_code_2() -> None:
    """As everywhere on the command line."""
    assert run("check", "--confg", "x").exit_code == 2


def test_a_reload_is_for_the_daemon_that_has_the_folder(folder: Path) -> None:
    """Valid configurations only, and nobody else: a killed one's id may be another process's."""
    told: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: told.append(number))
    data = folder / "meterd-data"
    try:
        data.mkdir()
        for text in ("", f"{os.getpid()}\n", "a command\n"):
            (data / "lock").write_text(text)
            result = run("reload")
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr == f"no meterd runs on {data}, as far as can be seen from here\n"
            assert run("check").stderr == ""
        with closing(Store(data)):
            result = run("reload")
            assert (result.exit_code, result.stdout) == (0, "")
            assert result.stderr.startswith(f"process {os.getpid()} was told; ")
            assert told == [signal.SIGHUP]
            (folder / "systemconfig.toml").write_text("grace = 'soon'")
            assert run("reload").exit_code == 1
            tls = '[server]\ntls_certificate = "missing.crt"\ntls_key = "missing.key"\n'
            (folder / "systemconfig.toml").write_text(CONFIG + tls)
            result = run("reload")
            assert (result.exit_code, result.stdout) == (1, "")
            assert "cannot read missing.crt" in result.stderr
    finally:
        signal.signal(signal.SIGHUP, before)
    assert told == [signal.SIGHUP]


def test_check_tells_what_waits_for_a_restart(folder: Path) -> None:
    """Where a meterd runs that listens elsewhere, and only there."""
    with closing(Store(folder / "meterd-data")), socket.create_server(("127.0.0.1", 0)) as listener:
        bind = f"127.0.0.1:{listener.getsockname()[1]}"
        noted = run("check")
        assert (noted.exit_code, noted.stdout.splitlines()[0]) == (0, VALID)
        assert noted.stderr == (
            f"note: process {os.getpid()} listens on {bind}: it needs a restart, not a reload, for"
            " another server.bind\n"
        )
        (folder / "systemconfig.toml").write_text(f'{CONFIG}[server]\nbind = "{bind}"\n')
        noted = run("check")
        assert (noted.exit_code, noted.stderr) == (0, "")


def test_a_daemon_that_may_not_be_told_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, say."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    with closing(Store(folder / "meterd-data")):
        result = run("reload")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"process {os.getpid()} cannot be told: Operation not permitted\n"


def test_serve_hands_over_source_and_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon gets the file to read again on SIGHUP; its answer is the exit code."""
    served: list[ConfigSource] = []

    class Serving(ModuleType):
        @staticmethod
        def serve(source: ConfigSource) -> int:
            served.append(source)
            return 70

    monkeypatch.setitem(sys.modules, "meterd.serving", Serving("meterd.serving"))
    monkeypatch.setenv("DRY_RUN", "1")
    assert run("serve").exit_code == 70
    assert served[0].path == Path("systemconfig.toml")
    assert served[0].read().dry_run


def every_command(command: click.Command, *path: str) -> list[tuple[str, ...]]:
    below = command.commands.items() if isinstance(command, click.Group) else ()
    return [path, *(found for name, sub in below for found in every_command(sub, *path, name))]


GROUPS = {("keys",), ("deliveries",), ("webhooks",)}


@pytest.mark.parametrize("path", every_command(main), ids=" ".join)
def test_every_help_shows_an_example(path: tuple[str, ...]) -> None:
    """And is printed without reading a configuration."""
    result = run(*path, "--config", "missing", "--help") if path[1:] else run(*path, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert "meterd" in result.stdout.split("Example:")[1]


@pytest.mark.parametrize("path", every_command(main), ids=" ".join)
def test_help_can_be_read_and_copied(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal of 80 columns: no example is broken, no summary of a command is cut."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(*path, "--help").stdout.splitlines()
    assert lines[-1].strip().startswith("Example: ")
    assert not [line for line in lines[1:] if line.endswith("...")]


@pytest.mark.parametrize("path", every_command(main), ids=" ".join)
def test_exit_codes_are_documented(path: tuple[str, ...]) -> None:
    """Scripts rely on them; and on JSON, where a command has something to say."""
    said = " ".join(run(*path, "--help").stdout.split())
    if path in GROUPS:
        return
    assert "Exit codes" in said
    assert ("--json" in said) is (path not in {(), ("serve",), ("completion",)})


def test_a_check_is_told_to_programs() -> None:
    """With ``--json``: an object a line, and nothing else on stdout."""
    checked = json.loads(run("check", "--json").stdout)
    assert (checked["address"], checked["eventTypes"]) == ("127.0.0.1:8080", {"a": "sum"})
    assert (checked["webhooks"][0]["enabled"], checked["notes"]) == (False, [])


def test_the_version_is_told() -> None:
    """``meterd --version`` names what it is and what it is made of; git knows the commit."""
    told = re.fullmatch(
        r"meterd (\S+) \(commit ([0-9a-f]{12}), Python ([0-9.]+\S*), LMDB ([0-9.]+)\)\n",
        run("--version").stdout,
    )
    assert told is not None
    assert told.groups()[::2] == (__version__, platform.python_version())
    assert told[4] == ".".join(map(str, lmdb.version()))
    git = ["git", "cat-file", "-t", told[2]]
    assert subprocess.check_output(git, cwd=ROOT, text=True) == "commit\n"


def test_python_m_meterd(folder: Path) -> None:
    """The module is the command, without a terminal and in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-m", "meterd", "check"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith("systemconfig.toml is valid\n")
