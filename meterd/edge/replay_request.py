"""What a replay asks for: the body of ``POST /deliveries/replay``.

A field that nobody knows is refused: who misspells ``dryRun`` must not send everything again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.instants import EXPECTED, parse_instant
from meterd.domain.sections import quoted
from meterd.edge.parameters import UnfitParameterError, json_object, replay_cursor
from meterd.ledger import AggregationPlace, Replay

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELDS: Final = ("endpoint", "from", "to", "dryRun", "cursor")
_EXAMPLE: Final = '{"endpoint": "crm", "from": "2026-01-01", "dryRun": true}'


class ReplayRequest(msgspec.Struct, frozen=True):
    """``after`` is where the last page of it ended."""

    replay: Replay
    after: AggregationPlace | None
    dry_run: bool


def decode_replay(body: bytes, endpoints: Sequence[str], now_ms: int) -> ReplayRequest:
    """Raises UnfitParameterError, naming what is wrong and what it takes."""
    given = json_object(body, _EXAMPLE)
    for name in given:
        if name not in FIELDS:
            raise UnfitParameterError(
                f"{quoted(name[:60])} is no field; there are {', '.join(FIELDS)}"
            )
    endpoint = given.get("endpoint")
    if not isinstance(endpoint, str) or endpoint not in endpoints:
        names = ", ".join(endpoints) or "none is configured"
        raise UnfitParameterError(f"endpoint must be one of: {names}")
    from_ms = _instant(given, "from")
    if from_ms is None:
        raise UnfitParameterError(f"from is required: {EXPECTED}")
    if from_ms > now_ms:
        raise UnfitParameterError("from must not be in the future")
    to_ms = _instant(given, "to")
    if to_ms is not None and to_ms < from_ms:
        raise UnfitParameterError("to must not be before from")
    dry_run = given.get("dryRun", False)
    if not isinstance(dry_run, bool):
        raise UnfitParameterError("dryRun must be true or false")
    replay = Replay(endpoint, from_ms, now_ms if to_ms is None else to_ms)
    return ReplayRequest(replay, _cursor(given), dry_run)


def _instant(given: dict[str, Any], name: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    instant_ms = parse_instant(value) if isinstance(value, str) else None
    if instant_ms is None:
        raise UnfitParameterError(f"{name} must be {EXPECTED}")
    return instant_ms


def _cursor(given: dict[str, Any]) -> AggregationPlace | None:
    value = given.get("cursor")
    return None if value is None else replay_cursor(value if isinstance(value, str) else "!")
