"""docs/webhooks.md is followed to the letter, and what it shows of a webhook is what is sent."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from meterd.domain.instants import parse_instant
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.thresholds import Reached, reached_body
from tests.daemon_process import KEY
from tests.docs.at_work import at_work
from tests.docs.reading import DOCS, ROOT, blocks_of
from tests.docs.shell import free_address, pieces
from tests.docs.terminal import Terminal, clone

if TYPE_CHECKING:
    from pathlib import Path

PAGE = DOCS / "webhooks.md"
DRY = [PAGE, ROOT / "examples" / "README.md"]


def test_the_threshold_shown_is_one() -> None:
    """Field by field, in their order."""
    [block] = blocks_of(PAGE, "json")
    shown = json.loads(block.text)
    data = shown["data"]
    at_ms = parse_instant(data["timestamp"]) or 0
    reached = Reached(
        shown["customerId"],
        PeriodType(shown["period"]),
        period_at(PeriodType(shown["period"]), at_ms).start_ms,
        data["eventType"],
        Decimal(data["exact"]["threshold"]),
        Operation(data["operation"]),
        Decimal(data["exact"]["value"]),
        data["eventCount"],
        data["alert"],
        at_ms,
        (),
    )
    sent = json.loads(reached_body(reached))
    assert json.dumps({**sent, "sequence": 7}) == json.dumps(shown)


def test_what_was_sent_is_found_and_sent_again(tmp_path: Path) -> None:
    """By each command, in their order: what was parked arrives, and in a replay all once more."""
    commands, _ = pieces(PAGE, "DRY_RUN")
    with at_work(tmp_path) as meterd:
        parked = meterd.parked()
        said = meterd.follow(commands, {"msg_...": parked})
        shown = said.partition("+ meterd deliveries show")[2]
        assert "HTTP 500" in shown
        assert f"-H 'webhook-id: {parked}'" in shown.partition("--curl 1\n")[2]
        assert f"{parked} is under way to " in shown
        assert "billing: 200" in shown
        assert re.search(r"^[4-9] would be sent", shown, re.MULTILINE)
        # Twelve of the start, the parked one again, a test, and four that were replayed.
        received = meterd.receiver.wait_for(12 + 1 + 1 + 4)
        assert [one.headers["webhook-id"] for one in received].count(parked) >= 2


@pytest.mark.parametrize(
    "document", [PAGE, ROOT / "examples" / "README.md"], ids=lambda path: path.name
)
def test_a_dry_run_sends_nothing(document: Path, tmp_path: Path) -> None:
    """What would be sent stands in the log, and counts as delivered."""
    [script] = [each.text for each in blocks_of(document, "bash") if "DRY_RUN" in each.text]
    bind = free_address()
    event = {"customerId": "c", "value": 1, "timestamp": datetime.now(UTC) - timedelta(hours=3)}
    with (
        Terminal(script, clone(tmp_path), {"METERD_BIND": bind, "METERD_API_KEY": KEY}) as terminal,
        httpx.Client(base_url=f"http://{bind}", headers={"x-apikey": KEY}) as client,
    ):
        terminal.wait_for('"serving"')
        client.post("/usage/api.calls", content=msgspec.json.encode(event)).raise_for_status()
        client.post("/aggregations/trigger").raise_for_status()
        terminal.wait_for('"dry_run": true')
    assert "dry run: this would be sent" in terminal.said
