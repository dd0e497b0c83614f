"""The message that tries an endpoint: signed and sent as a delivery is, and of no aggregation."""

from __future__ import annotations

from meterd.domain import javascript
from meterd.domain.deliveries import Delivery
from meterd.domain.periods import PeriodType

# Random numbers for ids are less.
ID_LIMIT = 1 << 128


def probe(endpoint_id: str, number: int, now_ms: int) -> Delivery:
    """As it stands while its one attempt is made; it has no sequence, and no ledger knows it."""
    body = {
        "type": "webhook.test",
        "endpoint": endpoint_id,
        "data": {"message": "A test of this webhook: nothing was metered, and nothing follows."},
        "created": now_ms // 1000,
    }
    return Delivery(
        f"msg_{number:032x}",
        endpoint_id,
        0,
        "",
        PeriodType.HOURLY,
        now_ms,
        0,
        javascript.encode(body),
        now_ms,
        now_ms,
        attempts=1,
        begun_ms=now_ms,
        last_attempt_ms=now_ms,
    )
