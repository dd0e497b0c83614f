"""Events as the log has them: when they came, when they count, and whether they still do."""

from __future__ import annotations

import msgspec

from meterd.domain.events import UsageEvent
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.voids import Void, VoidOutcome


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of the log; ``id`` is a version 7 UUID's bytes, whose order is that of storing.

    ``void`` says that it was taken back: it counts nowhere.
    """

    id: bytes
    event: UsageEvent
    received_ms: int
    void: Void | None = None

    @property
    def happened_ms(self) -> int:
        """When it counts: when it says that it happened, else when it was received."""
        said_ms = self.event.timestamp_ms
        return self.received_ms if said_ms is None else said_ms

    @property
    def hour(self) -> Period:
        """In which it counts."""
        return period_at(PeriodType.HOURLY, self.happened_ms)


class Voided(msgspec.Struct, frozen=True):
    """What became of an event that was to be void, and the event as it is then."""

    outcome: VoidOutcome
    event: StoredEvent
