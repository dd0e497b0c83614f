"""When an event of the log counts, and in which hour."""

from __future__ import annotations

import msgspec
import pytest

from meterd.domain.periods import HOUR_MS
from meterd.domain.stored_events import StoredEvent
from tests.ledger_bench import at, event


@pytest.mark.parametrize(
    ("said", "counts_at"),
    [(None, "2026-01-14T11:15"), ("2026-01-14T09:59", "2026-01-14T09:59")],
)
def test_it_counts_when_it_happened(said: str | None, counts_at: str) -> None:
    """If it says when, else when it was received."""
    one = msgspec.structs.replace(event(), timestamp_ms=None if said is None else at(said))
    stored = StoredEvent(bytes(16), one, at("2026-01-14T11:15"))
    assert stored.happened_ms == at(counts_at)
    assert stored.hour.start_ms == at(counts_at) // HOUR_MS * HOUR_MS
