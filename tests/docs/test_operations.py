"""docs/operations.md is followed to the letter, and knows each alert and figure."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import yaml

from tests.docs.reading import DOCS, ROOT
from tests.docs.shell import BASE_URL, free_address, run

if TYPE_CHECKING:
    from pathlib import Path

PAGE = DOCS / "operations.md"


def test_what_is_to_be_done_can_be_done(tmp_path: Path) -> None:
    """Backup, restore, upgrade, compaction, keys: each command, in its order."""
    shutil.copy(ROOT / "systemconfig.toml", tmp_path)
    bind = free_address()
    said = run(PAGE, tmp_path, {BASE_URL: f"http://{bind} METERD_BIND={bind}"})
    assert said.count("no differences in 1 event") == 4
    for folder in ("backup-1", "before-upgrade", "meterd-data.before"):
        assert (tmp_path / folder / "store").is_dir(), folder
    assert "meterd_store_size_bytes " in said
    assert "meterd_build_info" in (tmp_path / "metrics.txt").read_text()
    listed = said.partition("+ meterd keys list\n")[2]
    assert "web shop, from May" in listed
    assert re.search(r"key-\w+ revoked|revoked key-\w+", said)


def test_every_alert_has_its_answer() -> None:
    """Whoever is woken by one finds what to do."""
    rules = yaml.safe_load((ROOT / "packaging" / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert set(re.findall(r"`(Meterd\w+)`", PAGE.read_text())) == alerts


def test_figures_are_those_that_were_measured() -> None:
    """Each number in the table of sizes stands in performance.md."""
    table = PAGE.read_text().partition("## Size")[2].partition("## Monitoring")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    measured = (DOCS / "performance.md").read_text()
    figures = {figure for row in rows for figure in re.findall(r"\d+(?:[.,]\d+)*", row)}
    rounded = {"4.6": "4,614 MB"}
    assert len(figures) >= 15
    assert {one for one in figures if rounded.get(one, one) not in measured} == set()
