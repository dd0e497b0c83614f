"""What came of an endpoint's attempts since its worker began, counted in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from meterd.domain.outcomes import Outcome


class Statistics(msgspec.Struct, frozen=True):
    """``failing`` are the failures since the last success; a dry run succeeds."""

    attempts: int = 0
    delivered: int = 0
    failed: int = 0
    failing: int = 0
    last_success_ms: int | None = None
    last_failure_ms: int | None = None
    last_error: str | None = None

    def after(self, outcome: Outcome, now_ms: int) -> Statistics:
        """After one more attempt, which ended now."""
        if outcome.error is None:
            return msgspec.structs.replace(
                self,
                attempts=self.attempts + 1,
                delivered=self.delivered + 1,
                failing=0,
                last_success_ms=now_ms,
            )
        return msgspec.structs.replace(
            self,
            attempts=self.attempts + 1,
            failed=self.failed + 1,
            failing=self.failing + 1,
            last_failure_ms=now_ms,
            last_error=outcome.error,
        )
