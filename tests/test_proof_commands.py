"""``meterd prove`` and ``meterd check-proof``, as they are typed."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from meterd import proof_commands
from meterd.cli import main
from meterd.embedded import records
from meterd.embedded.snapshot import open_snapshot
from tests.embedded.pruned_store import LATER, make_prunable, prune_all
from tests.embedded.sample_store import copied_sample, spoil
from tests.embedded.test_proving import other_value

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

HOUR = "acme_hourly_2026011411"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = copied_sample(tmp_path)
    monkeypatch.setenv("METERD_DATA_DIR", str(found))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "systemconfig.toml").write_text('[storage]\npath = "data"\n')
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def digest(data: Path, name: str) -> str:
    with open_snapshot(data) as snapshot:
        for _, payload in snapshot.transaction().forward("aggregations", b"", b""):
            one = records.decode_aggregation(payload)
            if one.id == name:
                return one.digest.hex()
    raise AssertionError(name)


def test_a_proof_is_written_and_holds_without_the_store(data: Path, tmp_path: Path) -> None:
    """It says what it proves, and the digest that the webhook has."""
    written = run("prove", HOUR, "hour.jsonl")
    assert written.exit_code == 0, written.output
    assert f"digest {digest(data, HOUR)}" in written.output.splitlines()
    data.rename(tmp_path / "gone")
    checked = run("check-proof", "hour.jsonl")
    assert (checked.exit_code, checked.output) == (0, written.output)
    found = json.loads(run("check-proof", "hour.jsonl", "--json").output)
    assert (found["id"], found["events"] > 0) == (HOUR, True)


def test_a_changed_file_proves_nothing(data: Path, tmp_path: Path) -> None:
    """It says on which line; nobody's file is written over."""
    assert run("prove", HOUR, "hour.jsonl").exit_code == 0
    file = tmp_path / "hour.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"events"', b'"Events"', 1))
    refused = run("check-proof", "hour.jsonl")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("hour.jsonl: line ")
    again = run("prove", HOUR, "hour.jsonl")
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)
    assert b'"Events"' in file.read_bytes()


def test_a_proof_goes_through_a_pipe(data: Path, tmp_path: Path) -> None:
    """With -, or none, there is no file: what is proved is said on stderr, and what does not goes
    nowhere.
    """
    assert run("prove", HOUR, "hour.jsonl").exit_code == 0
    proof = (tmp_path / "hour.jsonl").read_bytes()
    piped = run("prove", HOUR, "-")
    assert (piped.exit_code, piped.stdout_bytes) == (0, proof)
    assert run("prove", HOUR).stdout_bytes == proof
    checked = CliRunner().invoke(main, ["check-proof", "-"], input=proof)
    assert (checked.exit_code, checked.stdout) == (0, piped.stderr)
    assert CliRunner().invoke(main, ["check-proof", "-"], input=proof[:-9]).exit_code == 1
    as_json = run("prove", HOUR, "--json")
    assert (as_json.stdout_bytes, json.loads(as_json.stderr)["id"]) == (proof, HOUR)
    spoil(data, other_value)
    said = [run("prove", f"acme_hourly_20260114{hour}", "-") for hour in range(11, 16)]
    assert 1 in {one.exit_code for one in said}
    assert all((one.exit_code == 0) == bool(one.stdout_bytes) for one in said)
    assert not (tmp_path / "-").exists()


def test_no_room_for_what_is_checked_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not where the proof goes: nothing is written there, nor read from there."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run("prove", HOUR, "hour.jsonl").exit_code == 0
    monkeypatch.setattr(proof_commands, "TemporaryFile", full)
    for found in (run("prove", HOUR), run("check-proof", "-")):
        assert (found.exit_code, found.stdout_bytes) == (1, b"")
        said = "a temporary file, in TMPDIR: cannot be written: No space left on device\n"
        assert found.stderr == said


def test_what_is_damaged_is_not_written(data: Path, tmp_path: Path) -> None:
    """Nothing is left behind."""
    spoil(data, other_value)
    names = [f"acme_hourly_20260114{hour}" for hour in range(11, 16)]
    said = [run("prove", name, f"{name}.jsonl") for name in names]
    assert 1 in {one.exit_code for one in said}
    whole = sum(one.exit_code == 0 for one in said)
    assert len(list(tmp_path.glob("*.jsonl*"))) == whole


def test_what_is_pruned_is_shown_by_its_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and told by an exit code of its own; what was written before still holds."""
    data = make_prunable(tmp_path)
    monkeypatch.setenv("METERD_DATA_DIR", str(data))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "systemconfig.toml").write_text('[storage]\npath = "data"\n')
    day = "acme_daily_20260114"
    assert run("prove", day, "before.jsonl").exit_code == 0
    prune_all(data, LATER)
    written = run("prove", day, "after.jsonl")
    checked = run("check-proof", "after.jsonl")
    assert (written.exit_code, checked.exit_code) == (3, 3)
    assert written.output == checked.output
    assert "revision 2: as it was published, with 0 events; behind " in checked.stdout
    assert "note: of hourly 2026011409, hourly 2026011411, hourly 2026011412 and " in checked.stderr
    assert " the events were pruned: " in checked.stderr
    found = [
        json.loads(run("check-proof", name, "--json").stdout)
        for name in ("before.jsonl", "after.jsonl")
    ]
    assert found[0]["digest"] == found[1]["digest"] == digest(data, day)
    assert (found[0]["pruned"], found[1]["events"]) == ([], 0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["prove", "acme_hourly_2099010100", "x"], 1, "no aggregation acme_hourly_2099010100"),
        (["prove", "", "x"], 2, "must not be empty"),
        (["prove", HOUR, "no/such/folder/x"], 1, "cannot be written: No such file"),
        (["prove", "acme_monthly_202601", "x"], 1, "is not closed"),
        (["check-proof", "missing"], 1, "missing"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    data: Path, arguments: list[str], code: int, said: str
) -> None:
    assert data.is_dir()
    found = run(*arguments)
    assert (found.exit_code, said in found.stderr) == (code, True), found.stderr


def test_an_earlier_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.embedded.test_upgrade import lay

    lay(tmp_path, 7)
    monkeypatch.setenv("METERD_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "systemconfig.toml").write_text('[storage]\npath = "data"\n')
    monkeypatch.chdir(tmp_path)
    found = run("prove", HOUR, "x")
    assert (found.exit_code, "has format 7" in found.stderr) == (1, True)
