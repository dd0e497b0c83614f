"""meterd verify, backup, restore, compact: what is typed, printed, and returned."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from meterd.cli import main
from meterd.embedded.store import UPGRADED, Store
from tests.embedded.sample_store import copied_sample, spoil
from tests.embedded.test_log_check import HOUR, a_total_is_missing
from tests.embedded.test_upgrade import lay
from tests.embedded.test_verification import damage

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
COMMANDS = (["verify"], ["backup", "to"], ["restore", "from"], ["compact"])


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration and its data folder."""
    for name in ("METERD_CONFIG", "METERD_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "systemconfig.toml").write_text('[storage]\npath = "data"\n')
    return copied_sample(tmp_path)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_sound_store() -> None:
    """Exit 0, and what was looked at, on one line."""
    result = run("verify")
    assert result.exit_code == 0
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    assert line.startswith("data: no differences in ")
    assert re.fullmatch(
        r"data: no differences in [\d,]+ events, 6 customers, \d+ aggregations, \d+ deliveries"
        r"; not in totals yet: \d+ events of the last seconds"
        r" \(\d+\.\d s\)",
        line,
    )


def test_as_many_processes_as_one_likes() -> None:
    """Which changes nothing that is said."""
    (said,) = objects(run("verify", "--json", "--processes", "7"))
    (by_default,) = objects(run("verify", "--json"))
    assert {**said, "seconds": 0} == {**by_default, "seconds": 0}
    refused = run("verify", "--processes", "0")
    assert refused.exit_code == 2
    assert "'--processes': '0' is no whole number from 1 to 256" in refused.stderr


def test_events_that_are_in_no_total_yet_are_counted() -> None:
    """They are no difference, and whoever looks at totals must know of them."""
    (said,) = objects(run("verify", "--json"))
    waiting = said["checked"]["events not yet in totals"]
    assert f"; not in totals yet: {waiting} events of the last" in run("verify").stdout


def test_a_store_of_one(tmp_path: Path) -> None:
    """One is one of its kind, and of none there is nothing to say."""
    shutil.rmtree(tmp_path / "data")
    with closing(Store(tmp_path / "data")):
        pass
    assert run("verify").stdout.startswith("data: no differences: the store is empty (")
    (tmp_path / "data" / "keys.json").write_text("{")
    assert run("verify").stdout.splitlines()[1].startswith("data: 1 difference: the store is empty")


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (100, "data.mdb: too short to be meterd's (100 bytes)"),
        (5000, "data.mdb: too short to be meterd's (5,000 bytes)"),
        (None, "data.mdb: not meterd's: its first page says that pages have 2,155,905,152 bytes"),
    ],
)
def test_a_file_that_is_no_store(data: Path, length: int | None, said: str) -> None:
    """One sentence says what is wrong, another that there was nothing to count."""
    file = data / "store" / "data.mdb"
    content = file.read_bytes()
    file.write_bytes(b"\x80" * len(content) if length is None else content[:length])
    result = run("verify")
    assert result.exit_code == 1
    line, last = result.stdout.splitlines()
    assert line == said
    assert last.startswith("data: 1 difference; nothing could be counted (")


def test_a_damaged_delivery(data: Path) -> None:
    """Whose it is, and what could not be counted."""
    spoil(data, lambda txn: damage(txn, "deliveries"))
    line, last = run("verify").stdout.splitlines()
    assert re.fullmatch(
        r"deliveries: customer \w+, hourly \d{10}: delivery 1 to billing"
        r" does not match its checksum",
        line,
    )
    assert re.fullmatch(
        r"data: 1 difference in [\d,]+ events, 6 customers; not in totals yet: \d+ events of the"
        r" last seconds; because of it aggregations, deliveries and attempts could not be"
        r" counted \(\d+\.\d s\)",
        last,
    )
    *_, summary = objects(run("verify", "--json"))
    assert summary["left_out"] == ["aggregations", "deliveries", "attempts"]


def test_a_store_with_a_difference(data: Path) -> None:
    """Exit 1, and what differs by customer, period and type, each with both values."""
    spoil(data, a_total_is_missing)
    result = run("verify")
    assert result.exit_code == 1
    *found, last = result.stdout.splitlines()
    of_the_hour = [line for line in found if f"customer acme, hourly {HOUR.key}, " in line]
    assert of_the_hour
    assert all("stands nothing, should be count " in line for line in of_the_hour)
    assert last.startswith(f"data: {len(found)} differences in ")
    printed = objects(run("verify", "--json"))
    assert printed[0]["difference"]["customer_id"] == "acme"
    assert printed[-1]["differences"] == len(found) == len(printed) - 1
    assert printed[-1]["checked"]["events"] > 1000


def test_another_folder_is_verified() -> None:
    """A backup, without its being configured."""
    run("backup", "saved")
    Path("systemconfig.toml").unlink()
    assert run("verify", "saved").stdout.startswith("saved: no differences")


def test_there_and_back(tmp_path: Path) -> None:
    """A backup, its restoration, a compaction: each says what it did."""
    result = run("backup", "saved")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("backed up to saved: 1.")
    assert " MiB, checked: " in result.stdout
    result = run("restore", "saved", "--to", "new")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("restored to new: ")
    (tmp_path / "data").rename(tmp_path / "old")
    (made,) = objects(run("restore", "saved", "--json"))
    assert made["folder"] == "data"
    assert made["checked"]["events"] > 1000
    result = run("compact")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("nothing to save in data: 1.")
    (made,) = objects(run("compact", "--json"))
    assert made["bytes"] == made["bytes_before"]


def test_sizes_are_as_large_as_they_are(data: Path) -> None:
    """Below a MiB in KiB: a small store is not of 0.0."""
    spoil(data, lambda txn: txn.put("attempts", b"x", bytes(300_000)))
    spoil(data, lambda txn: txn.delete("attempts", b"x"))
    assert re.match(r"[3-9]\d\d KiB saved in data: 1\.\d MiB, checked: ", run("compact").stdout)
    shutil.rmtree(data)
    with closing(Store(data)):
        pass
    said = r"backed up to saved: \d\d KiB, checked: nothing is in it yet\n"
    assert re.fullmatch(said, run("backup", "saved").stdout)


def test_refusals_are_one_line(data: Path) -> None:
    """Exit 1, nothing on stdout, and what to do."""
    Path("full").mkdir()
    Path("full/x").touch()
    in_use = f"another meterd has data open (process {os.getpid()})"
    nowhere = Path("nowhere").absolute()
    with closing(Store(data)):
        refused = [
            (run("backup", "full"), "full is not empty, it has x: move that away"),
            (run("restore", "nowhere"), f"{in_use}: stop it and move the folder away"),
            (run("restore", "nowhere", "--to", "new"), f"there is no folder {nowhere}"),
            (run("compact"), f"{in_use}: stop it first"),
            (run("verify", "nowhere"), f"there is no folder {nowhere}"),
            (run("verify", "full"), "there is no store in full"),
        ]
    for result, message in refused:
        assert (result.exit_code, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 1
        assert message in result.stderr


def test_a_key_file_that_cannot_be_read_is_a_difference(data: Path) -> None:
    """Nobody would be let in; everything else is looked at all the same."""
    (data / "keys.json").write_text("{")
    result = run("verify")
    assert result.exit_code == 1
    line, last = result.stdout.splitlines()
    assert line.startswith("keys.json: the file cannot be read: data/keys.json: is")
    assert last.startswith("data: 1 difference in ")


def test_an_earlier_version_is_told(data: Path) -> None:
    """Of its folders only pages and checksums are checked, whatever is done with them."""
    shutil.rmtree(data / "store")
    lay(data.parent, UPGRADED[-1])
    for arguments in (["verify"], ["backup", "to"], ["restore", "to", "--to", "new"], ["compact"]):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert f"note: the store has format {UPGRADED[-1]}, of which only pages" in result.stderr
    *_, summary = objects(run("verify", "--json"))
    assert summary["format"] == UPGRADED[-1]
    assert objects(run("backup", "two", "--json"))[0]["format"] == UPGRADED[-1]


def test_what_killed_backups_left_is_told() -> None:
    """Beside the copy that was made."""
    Path("monday.new/store").mkdir(parents=True)
    result = run("backup", "tuesday")
    assert result.exit_code == 0
    assert (
        result.stderr
        == f"note: {Path.cwd()}/monday.new was left by a backup that was killed: remove it\n"
    )


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize(
    "arguments", [["backup", "to"], ["restore", "saved", "--to", "new"], ["compact"]], ids=" ".join
)
def test_a_command_that_is_told_to_end_leaves_nothing(
    data: Path, arguments: list[str], told: signal.Signals
) -> None:
    """Amid its copy."""
    run("backup", "saved")
    before = sorted(Path().rglob("*"))
    program = (
        "import os, signal, sys;"
        f" signal.signal({int(told)}, signal.SIG_DFL);"
        " from meterd.__main__ import main;"
        " from meterd.embedded.snapshot import Snapshot;"
        f" sys.argv = ['meterd', *{arguments!r}];"
        f" Snapshot.copy_to = lambda *_: os.kill(os.getpid(), {int(told)}); main()"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (finished.returncode, finished.stderr) == (128 + told, "")
    left = {str(path) for path in set(Path().rglob("*")) - set(before)}
    assert left <= {"data/lock", "new", "new/lock"}


def test_a_wrong_argument_is_exit_code_2() -> None:
    """As everywhere on the command line."""
    for arguments in (
        ["backup"],
        ["backup", "a", "b"],
        ["restore"],
        ["verify", "--jsn"],
        ["compact", "data"],
    ):
        assert run(*arguments).exit_code == 2, arguments


@pytest.mark.parametrize("command", ["backup", "restore", "verify"])
def test_a_file_in_place_of_a_folder_is_exit_code_1(command: str) -> None:
    """The same for each: one line, that names it."""
    result = run(command, "systemconfig.toml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "systemconfig.toml" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_without_a_configuration(arguments: list[str]) -> None:
    """The reason, as for every command."""
    Path("systemconfig.toml").unlink()
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no configuration" in result.stderr


@pytest.mark.parametrize("name", ["verify", "backup", "restore", "compact"])
def test_exit_codes_are_documented(name: str) -> None:
    """Scripts rely on them."""
    assert "Exit codes: 0" in run(name, "--help").stdout


def output_on_terminal(arguments: list[str]) -> Iterator[bytes]:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "meterd", *arguments],
        env={"PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=follower,
    )
    os.close(follower)
    try:
        while some := os.read(leader, 10_000):
            yield some
    except OSError:  # Linux says so at the end
        pass
    os.close(leader)
    assert process.stdout is not None
    with process.stdout:
        yield process.stdout.read()
    assert process.wait() == 0


def test_a_terminal_shows_how_far_it_is() -> None:
    """A bar for each stage on stderr; stdout has the result alone."""
    *bars, result = output_on_terminal(["verify"])
    assert b"events" in b"".join(bars)
    assert result.startswith(b"data: no differences")
    assert result.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [["verify"], ["backup", "to"]], ids=" ".join)
def test_what_serves_is_not_loaded(arguments: list[str]) -> None:
    """A cron job pays for what it does, not for the HTTP stack."""
    program = (
        "import sys; from meterd.cli import main; main({!r}, standalone_mode=False);"
        " print(*[name for name in ('quart', 'hypercorn', 'httpx') if name in sys.modules])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program.format(arguments)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert finished.stderr == ""
    assert finished.stdout.splitlines()[-1] == ""
