"""What webhooks must say, in the words of the contract."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.simulation.books import BrokenPromiseError

if TYPE_CHECKING:
    from meterd.domain.aggregations import Aggregation
    from meterd.domain.periods import Period
    from meterd.domain.thresholds import Reached


def require_body(body: bytes, made: Aggregation, earlier: Aggregation | None) -> None:
    """Of an aggregation: its figures, and those of the revision before it."""
    told = json.loads(body)
    data = told["data"]
    kind = "aggregation.completed" if earlier is None else "aggregation.revised"
    is_right = (
        told["type"] == kind
        and _is_of(told, made.customer_id, made.period)
        and data["revision"] == made.revision
        and _says(data, made)
        and (earlier is None) is ("previous" not in data)
    )
    if is_right and earlier is not None:
        previous = data["previous"]
        is_right = previous["revision"] == earlier.revision and _says(previous, earlier)
    if not is_right:
        raise BrokenPromiseError("wrong", f"the webhook of {made.id} says {body!r}")


def require_told(body: bytes, reached: Reached) -> None:
    """Of a threshold: which, and by how much."""
    told = json.loads(body)
    data = told["data"]
    is_right = (
        told["type"] == "usage.threshold.reached"
        and _is_of(told, reached.customer_id, reached.period)
        and (data["alert"], data["eventType"]) == (reached.alert, reached.event_type)
        and Decimal(data["exact"]["threshold"]) == reached.threshold
        and Decimal(data["exact"]["value"]) == reached.value
        and data["eventCount"] == reached.count
    )
    if not is_right:
        raise BrokenPromiseError("wrong", f"the webhook of {reached} says {body!r}")


def _is_of(told: dict[str, Any], customer_id: str, period: Period) -> bool:
    data = told["data"]
    start, end = (dt.datetime.fromisoformat(data[name]) for name in ("periodStart", "periodEnd"))
    span_ms = round((end - start) / dt.timedelta(milliseconds=1)) + 1
    return bool(
        told["customerId"] == customer_id
        and told["period"] == period.type
        and start.timestamp() * 1000 == period.start_ms
        and span_ms == period.end_ms - period.start_ms
    )


def _says(data: dict[str, Any], made: Aggregation) -> bool:
    figures = made.figures
    exact = {name: Decimal(text) for name, text in data["exact"].items()}
    return exact == {name: figure.value for name, figure in figures.items()} and data[
        "eventCounts"
    ] == {name: figure.count for name, figure in figures.items()}
