"""meterd export, against a daemon that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.asking import run
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    started = DaemonProcess(tmp_path_factory.mktemp("exporting"))
    try:
        batch = [
            *({"eventType": "storage.bytes", "value": n, "customerId": "acme"} for n in range(3)),
            {"eventType": "api.calls", "value": 5, "customerId": "kunde é,"},
        ]
        assert started.request("POST", "/usagebatch", json=batch).status_code == 201
        yield started
    finally:
        started.stop()


def test_an_export_is_filtered(daemon: DaemonProcess, tmp_path: Path) -> None:
    """To stdout, in the order of receipt; the summary is beside it."""
    result = run(daemon, "export", "--type", "api.calls")
    assert result.exit_code == 0
    [line] = result.stdout.splitlines()
    assert (json.loads(line)["value"], result.stderr[:9]) == (5, "1 event (")
    assert run(daemon, "export", "--to", "2020-01-01").stdout == ""
    csv = run(daemon, "export", "--customer", "acme", "--format", "csv").stdout.splitlines()
    assert csv[0] == (
        "_id,eventType,customerId,value,metadata,timestamp,receivedAt,idempotencyKey,void"
    )
    assert [line.split(",")[3] for line in csv[1:]] == ["0", "1", "2"]
    path = tmp_path / "e.csv"
    told = run(daemon, "export", "-o", str(path), "--json")
    assert json.loads(told.stdout) | {"seconds": 0} == {
        "file": str(path),
        "events": 4,
        "seconds": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "--resume"), "needs --output"),
        (("export", "--json"), "needs --output"),
        (("export", "--format", "parquet"), "parquet needs --output"),
        (("export", "-o", "a.parquet", "--resume"), "parquet cannot go on"),
        (("export", "-o", "a.xlsx"), "a.xlsx may be anything: give one of jsonl, csv, parquet"),
        (("export", "-o", "a.tsv"), "a.tsv may be anything: give one of jsonl, csv, parquet"),
        (("export", "-o", "a"), "a may be anything: give one of jsonl, csv, parquet"),
        (("export", "--from", "x"), "'x' is not an ISO 8601 date"),
        (
            ("export", "--from", "2026-03-02", "--to", "2026-03-01T23:59:59.999Z"),
            "--to: 2026-03-01T23:59:59.999Z is before --from 2026-03-02",
        ),
    ],
)
def test_what_cannot_be_done_is_said(
    daemon: DaemonProcess,
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is asked or written."""
    monkeypatch.chdir(tmp_path)
    result = run(daemon, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_says_nothing_is_taken_with_a_format(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """Without one it would be JSON lines under the name of a spreadsheet: nothing is written."""
    path = tmp_path / "a.xlsx"
    assert run(daemon, "export", "-o", str(path)).exit_code == 2
    assert list(tmp_path.iterdir()) == []
    assert run(daemon, "export", "-o", str(path), "--format", "csv").exit_code == 0
    assert path.read_text().startswith("_id,eventType,")
