"""What the way in for events does when there is no room for any."""

from __future__ import annotations

from meterd.domain.errors import OverloadedError
from tests.edge.test_ingest import over
from tests.fake_clock import FakeClock
from tests.model_ledger import ModelLedger


class FullLedger(ModelLedger):
    """Has no room, and is never asked for any with events."""

    def __init__(self, trouble: Exception) -> None:
        super().__init__(FakeClock("2026-03-10T09:58:00Z").now_ms)
        self._trouble = trouble

    def require_room(self) -> None:
        raise self._trouble


async def test_who_comes_in_vain_is_not_decoded() -> None:
    """Refusing must cost less than serving, or an overload leaves no time for what is accepted."""
    ingest = over(FullLedger(OverloadedError("too many events")))
    for given in (
        await ingest.event("no.such.type", b"no JSON"),
        await ingest.batch(b"no JSON", lenient=False),
    ):
        assert given.status == 503
        assert "Retry-After" in dict(given.headers)
