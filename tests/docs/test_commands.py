"""docs/commands.md and docs/proof.md are followed to the letter, beside a meterd that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow.parquet

from tests.docs.at_work import at_work
from tests.docs.reading import DOCS
from tests.docs.shell import pieces

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docs.at_work import AtWork

USAGE = "customerId,value\ncustomer_1,2\ncustomer_2,0.5\n"


def test_every_command_does_what_is_said(tmp_path: Path) -> None:
    """Looking, importing and exporting; a proof; backup and restore; compaction when it stopped."""
    running, stopped = pieces(DOCS / "commands.md", "meterd compact")
    (tmp_path / "usage.csv").write_text(USAGE)
    with at_work(tmp_path) as meterd:
        said = meterd.follow(running)
        assert "2 rows: 2 new" in said
        assert pyarrow.parquet.read_table(tmp_path / "january.parquet").num_rows == 0
        assert proved(meterd, "acme_hourly_2026011410") in said.partition("+ meterd check-proof")[2]
        assert said.count("no differences") == 2
        for folder in ("meterd-backup", "meterd-restored"):
            assert (tmp_path / folder / "store").is_dir()
        meterd.daemon.stop()
        said = meterd.follow(stopped)
    assert "checked: 4 events" in said


def test_a_month_is_proved(tmp_path: Path) -> None:
    """By the digest that its webhook had."""
    [script] = pieces(DOCS / "proof.md")
    with at_work(tmp_path) as meterd:
        said = meterd.follow(script)
        assert said.count(proved(meterd, "acme_monthly_202601")) == 2


def proved(meterd: AtWork, aggregation: str) -> str:
    """The digest that the receiver was sent."""
    bodies = [json.loads(each.body)["data"] for each in meterd.receiver.received]
    [digest] = {data["digest"] for data in bodies if data["id"] == aggregation}
    return str(digest)
