"""meterd import, against daemons that run, end and come back; what was exported among it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.asking import run, whole
from tests.daemon_process import KEY, ROOT, DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXACT = "12345678901234567890.123456789"
OPTIONS = 'accept_past = "3650d"\nidempotency_window = "3650d"'
ROWS = 1500


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One with events of every kind: in one moment, of the past, with and without a key."""
    with running(tmp_path_factory.mktemp("old")) as daemon:
        batch = [
            {"eventType": "storage.bytes", "value": number, "customerId": "acme"}
            for number in range(20)
        ]
        batch[3] |= {"timestamp": "2026-01-14T11:00:00.001Z", "idempotencyKey": "kéy"}
        batch[4] |= {"metadata": {"plan": 'a,"b"\n', "n": 1}}
        batch[5] |= {"eventType": "api.calls", "customerId": "kunde é,"}
        text = json.dumps(batch).replace('"value": 7,', f'"value": {EXACT},').encode()
        headers = {"Idempotency-Key": "batch"}
        sent = daemon.request("POST", "/usagebatch", content=text, headers=headers)
        assert sent.status_code == 201
        newest = daemon.request("GET", "/events?limit=1").json()[0]["_id"]
        void = daemon.request("POST", f"/events/{newest}/void", json={"reason": 'sent "twice"'})
        assert void.status_code == 201, void.text
        yield daemon


@contextmanager
def running(folder: Path, **environ: str) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(folder, options=OPTIONS, environ=environ)
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with running(tmp_path_factory.mktemp("new")) as daemon:
        yield daemon


def usage(daemon: DaemonProcess, customer: str) -> list[dict[str, Any]]:
    """But for whether an hour is closed already, which is a matter of when it is looked."""
    windows: list[dict[str, Any]] = daemon.request(
        "GET",
        "/usage",
        params={"customerId": customer, "window": "hourly", "from": "2026-01-01"},
    ).json()
    return [{**one, "status": ""} for one in windows]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_what_is_exported_is_imported(old: DaemonProcess, tmp_path: Path, form: str) -> None:
    """With every figure as it was: exact sums, first and last, hours, metadata, keys; and without
    what was taken back. Again, it counts nothing.
    """
    path = tmp_path / f"events.{form}"
    result = run(old, "export", "-o", str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"20 events to {path} (")
    with running(tmp_path) as new:
        said = json.loads(run(new, "import", str(path), "--json").stdout)
        assert (said["rows"], said["new"], said["refused"], said["void"]) == (20, 19, 0, 1)
        said = json.loads(run(new, "import", str(path), "--json").stdout)
        assert (said["new"], said["before"]) == (0, 19)
        shown = run(new, "import", str(path)).stdout
        assert shown.startswith("20 rows: 0 new, 19 stored before, 1 taken back, left out (")
        for customer in ("acme", "kunde é,"):
            assert usage(new, customer) == usage(old, customer)
        assert EXACT in json.dumps(usage(new, "acme"))
        events = new.request("GET", "/events?order=oldest").json()
        kept = {one["value"]: one for one in events}
        assert kept[3]["idempotencyKey"] == "kéy"
        assert "idempotencyItem" not in kept[4]
        shown = old.request("GET", f"/events/{kept[4]['idempotencyKey']}").json()
        assert (shown["idempotencyKey"], shown["idempotencyItem"]) == ("batch", 4)
        assert kept[4]["metadata"] == {"plan": 'a,"b"\n', "n": 1}
        back = run(old, "import", str(path))
    assert back.exit_code == 1
    assert "is of this meterd" in back.stderr


def test_bad_rows_cost_no_others(new: DaemonProcess, tmp_path: Path) -> None:
    """They are told with line and reason, and kept in a file that can be mended and imported."""
    path, bad = tmp_path / "usage.csv", tmp_path / "bad.jsonl"
    path.write_text(
        "account,amount,metadata.plan\nbad-rows,1.5,pro\nbad-rows,x,pro\n,2,\n"
        'bad-rows,"3",free\nbad-rows,4,a,b\n'
    )
    arguments = (
        *("import", str(path), "--event-type", "api.calls", "--refused", str(bad)),
        *("--column", "customerId=account", "--column", "value=amount"),
    )
    result = run(new, *arguments)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "line 3: value must be a finite number",
        "line 4: customerId is required",
        "line 6: has 4 cells, and the header 3",
    ]
    assert result.stdout.startswith(f"5 rows: 2 new, 0 stored before, 3 refused (in {bad}) (")
    kept = [json.loads(line) for line in bad.read_text().splitlines()]
    assert [one["line"] for one in kept] == [3, 4, 6]
    mended = tmp_path / "mended.jsonl"
    mended.write_text(json.dumps({**kept[0], "value": 2}))
    for _ in range(2):
        assert run(new, "import", str(mended)).exit_code == 0
    assert len(new.request("GET", "/events?customerId=bad-rows").json()) == 3
    told = [json.loads(line) for line in run(new, *arguments, "--json").stdout.splitlines()]
    assert [one["refused"]["line"] for one in told[:-1]] == [3, 4, 6]
    assert told[2] == {"refused": {"line": 6, "errors": ["has 4 cells, and the header 3"]}}
    assert (told[-1]["before"], told[-1]["refused"]) == (2, 3)
    assert len(bad.read_text().splitlines()) == 3
    run(new, *arguments, "--from-line", "4")
    lines = [json.loads(line)["line"] for line in bad.read_text().splitlines()]
    assert lines == [3, 4, 6, 4, 6], "behind those of the lines that are passed over"


def test_many_bad_rows_do_not_flood_a_terminal(new: DaemonProcess) -> None:
    """All of them are told to programs."""
    content = b"[]\n" * 30
    result = run(new, "import", "-", content=content)
    assert len(result.stderr.splitlines()) == 21
    assert "--refused FILE and --json have all" in result.stderr.splitlines()[-1]
    assert len(run(new, "import", "-", "--json", content=content).stdout.splitlines()) == 31


def rows(customer: str) -> bytes:
    return b"".join(
        b'{"eventType":"api.calls","customerId":"%s","value":%d}\n' % (customer.encode(), number)
        for number in range(ROWS)
    )


def total(daemon: DaemonProcess, customer: str) -> int:
    answer = daemon.request("GET", f"/customers/{customer}/usage").json()
    return int(answer["usage"]["api.calls"]["sum"])


def start(daemon: DaemonProcess, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "meterd", *whole(daemon, *arguments)],
        cwd=ROOT,
        env={**os.environ, "METERD_API_KEY": KEY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def feed(importing: subprocess.Popen[bytes], content: bytes) -> None:
    assert importing.stdin is not None
    importing.stdin.write(content)
    importing.stdin.flush()


def wait_for_some(daemon: DaemonProcess, customer: str) -> None:
    until = time.monotonic() + 30
    while not daemon.request("GET", f"/events?customerId={customer}&limit=1").json():
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.05)


def test_an_import_that_was_interrupted_is_run_again(new: DaemonProcess, tmp_path: Path) -> None:
    """Exit code 130 and how to go on; then every row counts once, whichever way one goes on."""
    content = rows("again")
    importing = start(new, "import", "-", "--source", "usage.jsonl")
    feed(importing, b"".join(content.splitlines(keepends=True)[:1200]))
    wait_for_some(new, "again")
    time.sleep(0.2)  # until it has read the answer and waits for more
    importing.send_signal(signal.SIGINT)
    _, stderr = importing.communicate(timeout=20)
    assert importing.returncode == 130
    assert b"not finished; line 1,000 and all before are done." in stderr
    assert b"--from-line 1001 passes over it" in stderr
    path = tmp_path / "usage.jsonl"
    path.write_bytes(content)
    said = json.loads(run(new, "import", str(path), "--from-line", "1001", "--json").stdout)
    assert (said["rows"], said["new"], said["before"]) == (500, 500, 0)
    said = json.loads(run(new, "import", str(path), "--json").stdout)
    assert (said["new"], said["before"]) == (0, ROWS)
    assert total(new, "again") == sum(range(ROWS))


def test_an_import_outlives_a_restart_of_meterd(tmp_path: Path) -> None:
    """It waits, says so, and goes on: each row counts once. Without patience it ends with 1."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
    content = rows("c")
    with running(tmp_path, METERD_BIND=address) as daemon:
        importing = start(daemon, "import", "-", "--source", "usage.jsonl", "--json")
        feed(importing, b"".join(content.splitlines(keepends=True)[:1200]))
        wait_for_some(daemon, "c")
        daemon.stop(signal.SIGKILL)
        feed(importing, b"".join(content.splitlines(keepends=True)[1200:]))
        assert importing.stdin is not None
        importing.stdin.close()
        assert importing.stderr is not None
        assert b"waiting, 5m at most: no meterd answers" in importing.stderr.readline()
        hasty = run(daemon, "import", "-", "--source", "s", "--patience", "0s", content=content)
        assert hasty.exit_code == 1
        assert "no meterd answers" in hasty.stderr
        daemon.start()
        assert importing.wait(timeout=30) == 0
        assert importing.stdout is not None
        said = json.loads(importing.stdout.read())
        assert (said["rows"], said["new"] + said["before"]) == (ROWS, ROWS)
        assert importing.stderr.read() == b"going on\n"
        importing.stdout.close()
        importing.stderr.close()
        assert total(daemon, "c") == sum(range(ROWS))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("import", "usage.txt"), 2, "usage.txt may be anything: give one of jsonl, csv, parquet"),
        (("import", "missing.csv"), 1, "missing.csv: cannot be read: No such file"),
        (("import", "a.jsonl", "--column", "value=x"), 2, "is for CSV and Parquet"),
        (("import", "a.csv", "--column", "price=x"), 2, "'price=x' is not FIELD=COLUMN"),
        (("import", "a.csv", "--patience", "soon"), 2, "'soon' is no duration such as"),
        (("import", "-", "--format", "parquet"), 2, "parquet is read from a file"),
    ],
)
def test_what_cannot_be_done_is_said(
    new: DaemonProcess, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """Before anything is sent or written."""
    result = run(new, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_the_file_of_refused_rows_is_another(new: DaemonProcess, tmp_path: Path) -> None:
    """Or what is imported would be gone."""
    path = tmp_path / "a.jsonl"
    path.write_text("[]\n")
    result = run(new, "import", str(path), "--refused", str(path))
    assert (result.exit_code, path.read_text()) == (1, "[]\n")
    assert "is what is imported" in result.stderr
    result = run(new, "import", str(path), "--refused", str(tmp_path / "no" / "a"))
    assert "cannot be written: No such file" in result.stderr
    path.write_text("[]\n")
    result = run(new, "import", str(path), "--refused", "/dev/full")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "/dev/full: cannot be written: No space left on device\n"
