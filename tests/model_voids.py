"""The part of the model that takes events back: they stay in the log and are passed over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import msgspec
import trio

from meterd.domain.admission import Late
from meterd.domain.errors import PrunedError
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.stored_events import Voided
from meterd.domain.voids import Void, VoidOutcome
from tests.model_pruning import ModelPruning
from tests.model_usage import is_in

if TYPE_CHECKING:
    from meterd.domain.periods import Period
    from meterd.domain.stored_events import StoredEvent


class ModelVoids(ModelPruning, ABC):
    """See ``ledger.Ledger``."""

    @abstractmethod
    def now_ms(self) -> int:
        """The model's time."""

    @abstractmethod
    def closed_around(self, instant_ms: int) -> list[Period]:
        """The closed periods around that moment."""

    @abstractmethod
    def _note_past(self) -> None:
        """There may be something to close, or to revise."""

    async def void(
        self, event_id: bytes, reason: str, *, late: Late = Late.REVISE
    ) -> Voided | None:
        """See ``Ledger.void``."""
        await trio.lowlevel.checkpoint()
        places = [place for place, stored in enumerate(self._log) if stored.id == event_id]
        if not places:
            return None
        (place,) = places
        stored = self._log[place]
        if place < self._pruned:
            raise PrunedError(self._until_ms())
        if stored.void is None:
            self._require_events(period_at(PeriodType.HOURLY, stored.happened_ms))
        else:
            return Voided(VoidOutcome.VOID_BEFORE, stored)
        if late is Late.REJECT and self.closed_around(stored.happened_ms):
            return Voided(VoidOutcome.TOO_LATE, stored)
        now_ms = self.now_ms()
        void = self._log[place] = msgspec.structs.replace(stored, void=Void(reason, now_ms))
        self._note_late(void, now_ms)
        if stored.happened_ms < period_at(PeriodType.HOURLY, now_ms).start_ms:
            self._note_past()
        return Voided(VoidOutcome.VOIDED, void)

    def _note_late(self, stored: StoredEvent, now_ms: int) -> None:
        """What is closed around the event is to be revised."""
        for period in self.closed_around(stored.happened_ms):
            self._late.setdefault((stored.event.customer_id, period), now_ms)

    def _counts_in(self, customer_id: str, period: Period) -> list[StoredEvent]:
        """The customer's events that count in the period."""
        return [
            stored
            for stored in self._log
            if stored.event.customer_id == customer_id
            and stored.void is None
            and is_in(stored, period)
        ]
