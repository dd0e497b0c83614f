"""docs/api.md is followed to the letter, and what curl answers is what it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.docs.at_work import at_work
from tests.docs.reading import API
from tests.docs.shell import pieces

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_asked_is_answered(tmp_path: Path) -> None:
    """Usage, repeats, an hour that is published twice, an event that is taken back."""
    usage, again, late, void = pieces(
        API,
        'curl -X POST "$BASE_URL/usage/api.calls"',
        "export LATE=",
        'curl -X POST "$BASE_URL/events/',
    )
    with at_work(tmp_path) as meterd:
        said = meterd.follow(usage)
        assert said.count('"customerId":"customer_1"') >= 3
        assert ",open,api.calls,sum,3,1," in said  # CSV
        assert "duplicate" not in meterd.follow(again)
        assert '"duplicate":true' in meterd.follow(again)
        hour, deliveries = (
            json.loads(line) for line in meterd.follow(late).splitlines() if line.startswith("[")
        )
        assert [one["revision"] for one in hour] == [2, 1]
        assert [one["events"] for one in hour] == [{"api.calls": 5}, {"api.calls": 2}]
        assert deliveries[1]["payload"]["type"] == "aggregation.revised"
        assert "previous" in deliveries[1]["payload"]["data"]
        assert '"reason":"sent twice: ticket 4711"' in meterd.follow(void)
