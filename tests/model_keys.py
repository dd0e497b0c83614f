"""The part of the model that remembers idempotency keys: of events from some on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from meterd.ledger import StoredEvent


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
