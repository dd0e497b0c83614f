"""meterd/key_commands.py"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from meterd.cli import main
from meterd.domain.credentials import Keyring, Scope
from meterd.domain.instants import format_instant
from meterd.keyfile import KEY_FILE, read_keys

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """\
periods = ["daily"]
[events.a]
op = "sum"
"""
HASH = "0" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration, and none of the environment's own variables."""
    for name in ("METERD_CONFIG", "METERD_DATA_DIR", "METERD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "systemconfig.toml").write_text(CONFIG)
    return tmp_path


def run(*arguments: str) -> Result:
    """Whatever goes wrong, an operator never sees a traceback."""
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def test_a_wrong_argument_is_exit_code_2() -> None:
    """A scope that there is not, a description that would steer a terminal."""
    assert run("keys", "create", "--scope", "root").exit_code == 2
    result = run("keys", "create", "--description", "a\nb")
    assert result.exit_code == 2
    assert "must not hold control characters" in result.stderr


def test_a_created_key_is_printed_once_and_lets_in(folder: Path) -> None:
    """The key alone is on stdout, so a script can take it; only its hash is on disk."""
    result = run("keys", "create", "--scope", "ingest", "--scope", "read", "--description", "shop")
    assert result.exit_code == 0
    text = result.stdout.strip()
    (made,) = read_keys(folder / "meterd-data")
    assert result.stdout == text + "\n"
    assert Keyring([made]).authenticate(text) is made
    assert made.scopes == {Scope.INGEST, Scope.READ}
    assert made.description == "shop"
    assert result.stderr == (
        f"{made.id} made (ingest,read); it is shown only now."
        " A running meterd follows on: meterd reload\n"
        f"note: no meterd has run on {folder / 'meterd-data'} yet, and this key is for the one that"
        " will: if yours has another data folder, run this where it was started, or with its"
        " METERD_DATA_DIR\n"
    )
    (folder / "meterd-data" / "store").mkdir()
    assert "note:" not in run("keys", "create").stderr
    assert text not in (folder / "meterd-data" / KEY_FILE).read_text()


def test_a_key_may_do_everything_by_default(folder: Path) -> None:
    """Two keys are never the same."""
    assert run("keys", "create").stdout != run("keys", "create").stdout
    assert [made.scopes for made in read_keys(folder / "meterd-data")] == [frozenset(Scope)] * 2


def test_keys_are_listed_with_their_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From all three places, never with a hash."""
    run("keys", "create", "--scope", "read", "--description", "shop")
    (made,) = read_keys(folder / "meterd-data")
    configured = f'{CONFIG}[[keys]]\nid = "old"\nhash = "{HASH}"\nscopes = ["admin"]\n'
    (folder / "systemconfig.toml").write_text(configured)
    monkeypatch.setenv("METERD_API_KEY", "compat-key")
    result = run("keys", "list")
    lines = [re.split("  +", line) for line in result.stdout.splitlines()]
    assert lines == [
        ["ID", "SCOPES", "MADE", "FILE", "DESCRIPTION"],
        [made.id, "read", format_instant(made.created_ms or 0), "meterd-data/keys.json", "shop"],
        ["old", "admin", "systemconfig.toml"],
        ["METERD_API_KEY", "ingest,read,admin,metrics", "from the environment"],
    ]
    assert "a meterd that was started without it does not know that key" in result.stderr
    monkeypatch.delenv("METERD_API_KEY")
    assert run("keys", "list").stderr == ""


def test_a_revoked_key_is_gone(folder: Path) -> None:
    """From the file, and the command says how a running daemon learns of it."""
    run("keys", "create")
    (made,) = read_keys(folder / "meterd-data")
    result = run("keys", "revoke", made.id)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "meterd reload" in result.stderr
    assert read_keys(folder / "meterd-data") == ()


def test_a_key_that_cannot_be_revoked_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says where the key is, and never claims to have revoked it."""
    configured = f'{CONFIG}[[keys]]\nid = "old"\nhash = "{HASH}"\nscopes = ["admin"]\n'
    (folder / "systemconfig.toml").write_text(configured)
    monkeypatch.setenv("METERD_API_KEY", "compat-key")
    for key_id, message in {
        "old": "old stands in systemconfig.toml: take its [[keys]] out there\n",
        "METERD_API_KEY": "METERD_API_KEY is in the environment: take it out there and restart\n",
        "none": "no key has the id none; meterd keys list shows them\n",
    }.items():
        result = run("keys", "revoke", key_id)
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)


def test_a_damaged_key_file_is_one_line(folder: Path) -> None:
    """And is not overwritten."""
    (folder / "meterd-data").mkdir()
    (folder / "meterd-data" / KEY_FILE).write_text("{")
    for command in (["keys", "create"], ["keys", "list"], ["keys", "revoke", "x"], ["check"]):
        result = run(*command)
        assert result.exit_code == 1
        assert result.stderr.startswith("meterd-data/keys.json: is damaged")
        assert len(result.stderr.splitlines()) == 1
    assert (folder / "meterd-data" / KEY_FILE).read_text() == "{"


def test_keys_are_told_to_programs() -> None:
    """With ``--json``: an object a line, and nothing else on stdout."""
    made = json.loads(run("keys", "create", "--scope", "read", "--json").stdout)
    assert Keyring(read_keys("meterd-data")).authenticate(made.pop("key"))
    assert made["scopes"] == ["read"]
    [listed] = run("keys", "list", "--json").stdout.splitlines()
    assert json.loads(listed) == {**made, "file": "meterd-data/keys.json"}
    assert json.loads(run("keys", "revoke", made["id"], "--json").stdout) == {"id": made["id"]}
    assert run("keys", "list", "--json").stdout == ""
