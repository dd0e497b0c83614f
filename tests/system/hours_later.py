"""meterd as it is, but for a clock that is some hours ahead: what ended meanwhile closes.

``python -m tests.system.hours_later HOURS serve ...``

One is too few without a trigger: within the grace behind a full hour, an event that was just sent
would not be in an hour that closes.
"""

from __future__ import annotations

import sys

from meterd.cli import main
from meterd.work.clock import WallClock


def _set_ahead(hours: float) -> None:
    now_ms = WallClock.now_ms
    ahead_ms = int(hours * 3_600_000)
    WallClock.now_ms = lambda self: now_ms(self) + ahead_ms  # type: ignore[method-assign]


if __name__ == "__main__":
    _set_ahead(float(sys.argv.pop(1)))
    main()
