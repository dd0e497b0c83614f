"""The type of an aggregation as it is described, against aggregations as they are shown."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from meterd.domain.aggregations import Aggregation, Figure
from meterd.domain.deliveries import Delivery, DeliveryStatus
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType
from meterd.edge import openapi_aggregations as described
from meterd.edge.documents import aggregation_document
from meterd.ledger import DeliveredAggregation
from tests.edge.api_bench import serving
from tests.edge.openapi_document import strays

_CLOSED = Aggregation(
    *("c", PeriodType.HOURLY, 0, 1, True, 5, 6),
    {"api.calls": Figure(Operation.SUM, Decimal("0.3"), 2)},
    previous=b"x" * 32,
)
_DELIVERY = Delivery("msg_1", "billing", 1, "c", PeriodType.HOURLY, 0, 1, b"{}", 5, 6)


def test_an_aggregation_has_what_is_described() -> None:
    """Open and closed, delivered and failed."""
    opened = msgspec.structs.replace(_CLOSED, closed=False, previous=b"")
    there = msgspec.structs.replace(
        _DELIVERY, status=DeliveryStatus.DELIVERED, delivered_ms=7, dry_run=True, attempts=1
    )
    failed = msgspec.structs.replace(_DELIVERY, last_error="HTTP 500", last_attempt_ms=7)
    for aggregation, deliveries in ((opened, ()), (_CLOSED, (there,)), (_CLOSED, (failed,))):
        shown = aggregation_document(DeliveredAggregation(aggregation, deliveries))
        assert strays(described.Aggregation, shown) == set()
        status = msgspec.json.decode(shown)["webhookStatus"]
        assert strays(described.WebhookStatus, status) == set()


async def test_a_trigger_answers_what_is_described() -> None:
    """Without events, and with one."""
    async with serving() as api:
        nothing = await api.ask("POST", "/aggregations/trigger")
        assert strays(described.NothingTriggered, nothing.content) == set()
        await api.store("c")
        done = await api.ask("POST", "/aggregations/trigger")
        assert strays(described.Triggered, done.content) == set()
