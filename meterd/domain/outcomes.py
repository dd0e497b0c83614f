"""What came of one attempt to deliver."""

from __future__ import annotations

import msgspec


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """``error`` is None for a 2xx (or a dry run), else what to tell people.

    ``retry_after_ms``: the receiver asked to come back after so long, and for nothing before.
    """

    error: str | None = None
    retry_after_ms: int | None = None
    status: int | None = None
    dry_run: bool = False
