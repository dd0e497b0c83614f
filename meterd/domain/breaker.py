"""When an endpoint that fails again and again is let alone, and for how long.

Each attempt spends one of its delivery's ten, and a dead receiver would take them all from
thousands of deliveries within an hour. So after some failures in a row the endpoint gets one
attempt at a time, with pauses between them; deliveries that wait meanwhile spend nothing. The first
that arrives ends it.
"""

from __future__ import annotations

from typing import Final

import msgspec

OPENS_AFTER: Final = 10
_FIRST_PAUSE_MS: Final = 1000
# A receiver that is back is noticed within a minute.
PAUSE_MAX_MS: Final = 60_000


class Breaker(msgspec.Struct, frozen=True):
    """``failures`` in a row, of whichever deliveries."""

    failures: int = 0

    @property
    def is_open(self) -> bool:
        return self.failures >= OPENS_AFTER

    @property
    def pause_ms(self) -> int:
        """How long nothing is sent after the last failure."""
        if not self.is_open:
            return 0
        doublings = min(self.failures - OPENS_AFTER, 16)
        return min(_FIRST_PAUSE_MS << doublings, PAUSE_MAX_MS)

    def after(self, *, failed: bool) -> Breaker:
        """After one more attempt."""
        return Breaker(self.failures + 1 if failed else 0)
