"""The part of the model that remembers idempotency keys: of events from some on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio

from meterd.domain.idempotency import Recorded

if TYPE_CHECKING:
    from meterd.domain.events import UsageEvent
    from meterd.domain.stored_events import StoredEvent


class ModelKeys:
    """See ``ledger.Ledger``."""

    _log: list[StoredEvent]
    _forgotten = 0

    def _with_keys(self) -> list[StoredEvent]:
        """The events whose keys are remembered."""
        return self._log[self._forgotten :]

    async def forget_keys(self, *, before_ms: int) -> int:
        """See ``Ledger.forget_keys``."""
        await trio.lowlevel.checkpoint()
        before = [stored for stored in self._with_keys() if stored.received_ms < before_ms]
        self._forgotten += len(before)
        return len(before)


def outcome_by_key(event: UsageEvent, log: list[StoredEvent]) -> Recorded:
    """What becomes of an event where these have their keys."""
    for stored in log:
        other = stored.event
        same_key = other.idempotency_key and other.idempotency_key == event.idempotency_key
        if same_key and other.customer_id == event.customer_id:
            is_same = _content(other) == _content(event)
            return Recorded.DUPLICATE if is_same else Recorded.CONFLICT
    return Recorded.RECORDED


def _content(event: UsageEvent) -> tuple[object, ...]:
    return event.event_type, event.value, json.loads(event.metadata), event.timestamp_ms
