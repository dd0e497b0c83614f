"""meterd/options.py: see also tests/test_cli.py, where every command uses it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from meterd.domain.errors import ConfigError, MeterdError
from meterd.options import (
    Daemon,
    Duration,
    Instant,
    OneLineErrors,
    client_options,
    config_source,
    data_folder,
)
from tests.daemon_process import ROOT


def test_a_failure_is_its_own_lines() -> None:
    """On stderr, with exit code 1, and no traceback."""

    @click.group(cls=OneLineErrors)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise MeterdError("one\ntwo")

    result = CliRunner().invoke(group, ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "one\ntwo\n")


def test_what_a_path_leads_to_is_no_wrong_argument(tmp_path: Path) -> None:
    """1 for what is there and does not fit, 2 for what no machine would take; in groups, too."""

    @click.group(cls=OneLineErrors)
    def group() -> None:
        pass

    @group.group()
    def within() -> None:
        pass

    @within.command()
    @click.argument("folder", type=click.Path(file_okay=False))
    @click.option("--count", type=int)
    def look(folder: str, count: int) -> None:
        pass

    file = tmp_path / "file"
    file.touch()
    result = CliRunner().invoke(group, ["within", "look", str(file)])
    said = f"Directory '{file}' is a file.\n"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", said)
    for wrong in (["--count", "many", str(tmp_path)], [], ["--colour", str(tmp_path)]):
        assert CliRunner().invoke(group, ["within", "look", *wrong]).exit_code == 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("x", "'x' is no whole number from 1 to 5"),
        ("1.5", "'1.5' is no whole number from 1 to 5"),
        ("9", "'9' is no whole number from 1 to 5"),
    ],
)
def test_a_wrong_number_is_told_what_it_takes(value: str, said: str) -> None:
    """And not of ranges of integers; exit code 2, as all that no machine would take."""

    @click.group(cls=OneLineErrors)
    def group() -> None:
        pass

    @group.command()
    @click.option("--curl", type=click.IntRange(1, 5))
    @click.option("--from", "least", type=click.IntRange(1))
    def show(curl: int, least: int) -> None:
        pass

    result = CliRunner().invoke(group, ["show", "--curl", value])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Invalid value for '--curl': {said}\n" in result.stderr
    assert "no whole number from 1 on\n" in CliRunner().invoke(group, ["show", "--from=0"]).stderr


def test_the_data_folder_is_the_configured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the file that is given, of this folder's, or of the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METERD_CONFIG", raising=False)
    monkeypatch.delenv("METERD_DATA_DIR", raising=False)
    with pytest.raises(ConfigError, match="no configuration"):
        data_folder(None)
    (tmp_path / "systemconfig.toml").write_text('[storage]\npath = "here"')
    (tmp_path / "other.toml").write_text('[storage]\npath = "there"')
    assert data_folder(None) == Path("here")
    assert data_folder(Path("other.toml")) == Path("there")
    assert config_source(None).path == Path("systemconfig.toml")
    monkeypatch.setenv("METERD_DATA_DIR", "elsewhere")
    assert data_folder(None) == Path("elsewhere")


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ('bind = "127.0.0.1:8081"', "http://127.0.0.1:8081"),
        ('bind = "0.0.0.0:80"', "http://127.0.0.1:80"),
        ('bind = "[::]:80"', "http://[::1]:80"),
        ('bind = "[fd00::7]:80"', "http://[fd00::7]:80"),
        ('bind = "a.test:443"\ntls_certificate = "c"\ntls_key = "k"', "https://a.test:443"),
    ],
)
def test_a_daemon_is_asked_where_it_listens(tmp_path: Path, server: str, url: str) -> None:
    """On this machine, where it listens everywhere."""
    path = tmp_path / "systemconfig.toml"
    path.write_text(f"[server]\n{server}\n")
    with Daemon(path, None, "key").client() as client:
        assert client.url == url
    with Daemon(path, "http://other.test:1/", "key").client() as client:
        assert client.url == "http://other.test:1"


def test_a_daemon_that_cannot_be_asked(tmp_path: Path) -> None:
    """Without a key, or a port that is known: what to give is said."""
    path = tmp_path / "systemconfig.toml"
    path.write_text('[server]\nbind = "127.0.0.1:0"\n')
    with pytest.raises(MeterdError, match="set METERD_API_KEY, or give --key"):
        Daemon(path, None, None).client()
    with pytest.raises(MeterdError, match="leaves the port to the system: give --url"):
        Daemon(path, None, "key").client()
    with pytest.raises(ConfigError), Daemon(tmp_path / "missing.toml", None, "key").client():
        pass
    with Daemon(tmp_path / "missing.toml", "http://a.test", "key").client():
        pass  # nothing of the configuration is needed


def test_a_command_is_told_whom_to_ask() -> None:
    """By three options, which are first in its help; the context and its own options come as ever.

    Nothing is looked up before the command asks: no configuration is there, and no key is needed
    to be told that an argument is wrong.
    """

    @click.command()
    @click.argument("name")
    @client_options
    @click.option("--limit", type=int)
    @click.pass_context
    def ask(ctx: click.Context, name: str, daemon: Daemon, limit: int) -> None:
        click.echo(f"{ctx.info_name} {name} {limit} {daemon}")

    run = CliRunner(env={"METERD_API_KEY": "of the environment"}).invoke
    told = run(ask, ["x", "--limit", "3", "--config", "a.toml", "--url", "b"]).output
    assert told == f"ask x 3 {Daemon(Path('a.toml'), 'b', 'of the environment')}\n"
    told = run(ask, ["x", "--key", "given"]).output
    assert told == f"ask x None {Daemon(None, None, 'given')}\n"
    assert CliRunner(env={"METERD_API_KEY": None}).invoke(ask, ["x", "--limit", "y"]).exit_code == 2
    shown = re.findall(r"^  (--\w+)", run(ask, ["--help"]).output, flags=re.MULTILINE)
    assert shown == ["--config", "--url", "--key", "--limit", "--help"]


def test_instants_and_durations() -> None:
    """As the configuration has them; what is none is told what it takes."""

    @click.command()
    @click.option("--from", "since", type=Instant())
    @click.option("--patience", type=Duration(1000, 60_000), default="5s")
    def wait(since: str | None, patience: float) -> None:
        click.echo(f"{since} {patience}")

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(wait, arguments)
        return result.exit_code, result.output.splitlines()[-1]

    assert run() == (0, "None 5.0")
    assert run("--from", "2026-01-14", "--patience", "1m") == (0, "2026-01-14 60.0")
    for wrong in ("5", "1h", "500ms", "soon"):
        code, said = run("--patience", wrong)
        assert (code, said.split("'--patience': ")[1]) == (
            2,
            f'\'{wrong}\' is no duration such as "5s" or "30s"',
        )
    assert "is not an ISO 8601 date" in run("--from", "x")[1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["check", "check --json", "--help"])
@pytest.mark.parametrize(
    ("stdout", "why"), [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_what_cannot_be_printed_is_one_line(
    tmp_path: Path, stdout: str, why: str, command: str, unbuffered: str
) -> None:
    """On a full disk, say: what is in the file is not all; or where nobody can get it."""
    (tmp_path / "systemconfig.toml").write_text("")
    finished = subprocess.run(
        ["sh", "-c", f"exec {shlex.quote(sys.executable)} -m meterd {command} {stdout}"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert finished.stderr == f"stdout cannot be written: {why}\n"
    assert finished.returncode == 1
