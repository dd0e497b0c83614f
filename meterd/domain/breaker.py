"""When an endpoint that fails again and again is let alone, and for how long.

Each attempt spends one of its delivery's ten, and a dead receiver would take them all from
thousands of deliveries. So one that takes nothing gets fewer attempts, and what waits meanwhile
spends nothing. The first that arrives ends it.

Only a first attempt speaks for the endpoint: what was refused before will be again, and says no
more than that. An answer that refuses the message (4xx, 500) is that of a receiver that works, and
may take the next customer's: so first attempts go on, and only what it refused before is let alone.
Behind failures of any other kind nothing is sent but one attempt at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from meterd.domain.outcomes import Outcome

OPENS_AFTER: Final = 10
_FIRST_PAUSE_MS: Final = 1000
# First attempts and others take turns, so each kind has one within a minute.
PAUSE_MAX_MS: Final = 30_000


class Breaker(msgspec.Struct, frozen=True):
    """``failures`` in a row, of first attempts, and those of them since it last refused one."""

    failures: int = 0
    unanswered: int = 0

    @property
    def is_open(self) -> bool:
        """Whether what failed before is asked for one at a time, with pauses."""
        return self.failures >= OPENS_AFTER

    @property
    def is_down(self) -> bool:
        """Whether everything is."""
        return self.unanswered >= OPENS_AFTER

    @property
    def pause_ms(self) -> int:
        """How long a pause is behind the last failure."""
        if not self.is_open:
            return 0
        failures = self.unanswered if self.is_down else self.failures
        return min(_FIRST_PAUSE_MS << min(failures - OPENS_AFTER, 16), PAUSE_MAX_MS)

    def after(self, outcome: Outcome, *, is_repeat: bool) -> Breaker:
        """After one more attempt, of what had failed before or not.

        While it is let alone, each failure makes the pause longer.
        """
        if outcome.error is None:
            return Breaker()
        failures = self.failures + (self.is_open or not is_repeat)
        if outcome.refuses:
            return Breaker(failures)
        return Breaker(failures, self.unanswered + (self.is_down or not is_repeat))
