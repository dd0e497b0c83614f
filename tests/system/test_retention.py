"""A real meterd over events whose time is over."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from meterd.domain.instants import format_instant
from meterd.domain.periods import HOUR_MS
from tests.daemon_process import DaemonProcess
from tests.embedded.pruned_store import HOURS, LATER, make_prunable
from tests.ledger_bench import START_MS as START
from tests.ledger_bench import at

if TYPE_CHECKING:
    from pathlib import Path

START_MS = at("2020-01-14T11:15")
EVENTS = HOURS * 73 + 1 + 73
KEPT = '[retention]\nevents = "365d"'
UNTIL = format_instant((START_MS + LATER - START) // HOUR_MS * HOUR_MS + HOUR_MS)


def command(folder: Path, *arguments: str) -> str:
    run = [
        sys.executable,
        "-m",
        "meterd",
        *arguments,
        "--config",
        str(folder / "systemconfig.toml"),
    ]
    done = subprocess.run(run, capture_output=True, text=True, cwd=folder, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_events_go_and_what_was_counted_stays(tmp_path: Path) -> None:
    """Only where the configuration says so; it is told wherever events are asked for, in the log,
    in the metrics and by verify; the file gives its room back when it is made compact.
    """
    make_prunable(tmp_path, START_MS)
    # The data folder is this one's.
    where = f'[storage]\npath = "{tmp_path / "data"}"'
    meterd = DaemonProcess(tmp_path, options=where)

    def get(path: str) -> Any:
        answer = meterd.request("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    try:
        for value in range(3):
            sent = {"customerId": "acme", "value": value}
            assert meterd.request("POST", "/usage/api.calls", json=sent).status_code == 201
        meterd.trigger()
        everything = meterd.request("GET", "/events?limit=10000")
        assert "Meterd-Pruned-Until" not in everything.headers
        kept, gone = everything.json()[:3], everything.json()[3:]
        assert len(gone) == EVENTS
        totals = get("/usage?customerId=acme&window=monthly&to=2020-02-01")
        assert totals
        aggregations = get("/aggregations?to=2020-02-01&limit=10000")
        meterd.configure(options=f"{KEPT}\n{where}")
        meterd.restart()
        said = meterd.wait_for("events were pruned")
        assert (said["events"], said["until"]) == (len(gone), UNTIL)
        answer = meterd.request("GET", "/events?limit=10000")
        assert answer.headers["Meterd-Pruned-Until"] == UNTIL
        assert answer.json() == kept
        assert get("/usage?customerId=acme&window=monthly&to=2020-02-01") == totals
        assert get("/aggregations?to=2020-02-01&limit=10000") == aggregations
        groups = "/usage?customerId=acme&window=monthly&to=2020-02-01&groupBy=metadata.n"
        assert meterd.request("GET", groups).status_code == 410
        void = meterd.request("POST", f"/events/{gone[0]['_id']}/void", json={"reason": "late"})
        assert void.status_code == 410
        assert f"meterd_events_pruned_total {len(gone)}.0" in meterd.request("GET", "/metrics").text
        assert f"; pruned before: {len(gone):,} events" in command(tmp_path, "verify")
    finally:
        meterd.stop()
    before = (tmp_path / "data" / "store" / "data.mdb").stat().st_size
    command(tmp_path, "compact")
    assert (tmp_path / "data" / "store" / "data.mdb").stat().st_size < before
    assert f"; pruned before: {len(gone):,} events" in command(tmp_path, "verify")
