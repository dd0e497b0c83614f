"""An endpoint's attempts, counted."""

from __future__ import annotations

from meterd.domain.outcomes import Outcome
from meterd.domain.statistics import Statistics


def test_attempts_are_counted_by_what_came_of_them() -> None:
    """Each once; the last error stays, failures in a row end with a success."""
    found = Statistics()
    for now_ms, outcome in enumerate(
        [Outcome(), Outcome("HTTP 500"), Outcome("Request timeout"), Outcome(dry_run=True)], 1
    ):
        found = found.after(outcome, now_ms)
        assert found.failing == (0, 1, 2, 0)[now_ms - 1]
    assert found == Statistics(
        attempts=4,
        delivered=2,
        failed=2,
        failing=0,
        last_success_ms=4,
        last_failure_ms=3,
        last_error="Request timeout",
    )
