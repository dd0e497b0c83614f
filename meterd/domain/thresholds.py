"""When a customer's usage has reached a threshold, and what is told of it.

What is reached is reached once for each customer, period, event type and threshold: which alert
asked is not part of that, so one that is renamed, or taken out and put in again, tells nothing
twice. Nothing that comes later takes it back.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain import javascript
from meterd.domain.aggregations import as_number
from meterd.domain.deliveries import Delivery, Threshold, named_id
from meterd.domain.instants import format_instant
from meterd.domain.operations import Operation
from meterd.domain.periods import Period, PeriodType, period_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from meterd.domain.alerts import Alert
    from meterd.domain.usage import WindowTotals

_KIND: Final = "usage.threshold.reached"


class Reached(msgspec.Struct, frozen=True, array_like=True):
    """That a figure was at a threshold or beyond when it was looked at. ``alert`` is the first that
    asked, ``endpoints`` are the ids of those that are told.
    """

    customer_id: str
    period_type: PeriodType
    start_ms: int
    event_type: str
    threshold: Decimal
    operation: Operation
    value: Decimal
    count: int
    alert: str
    reached_ms: int
    endpoints: tuple[str, ...] = ()

    @property
    def period(self) -> Period:
        return period_at(self.period_type, self.start_ms)


class Watched:
    """All alerts of a configuration, to be asked whom they concern. Equal where these are."""

    def __init__(self, alerts: Sequence[Alert], operations: Mapping[str, Operation]) -> None:
        self.alerts = tuple(alerts)
        self.operations = {alert.event: operations[alert.event] for alert in alerts}
        self.kinds = tuple(kind for kind in PeriodType if any(kind is a.period for a in alerts))
        self._by_event: defaultdict[str, list[Alert]] = defaultdict(list)
        for alert in alerts:
            self._by_event[alert.event].append(alert)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Watched)
            and self.alerts == other.alerts
            and self.operations == other.operations
        )

    def __hash__(self) -> int:
        return hash(self.alerts)

    def periods(self, customer_id: str, event_types: Iterable[str]) -> set[PeriodType]:
        """Of which types of period the customer's figures of these event types are watched."""
        return {
            alert.period
            for event_type in event_types
            for alert in self._by_event.get(event_type, ())
            if alert.customer in {None, customer_id}
        }

    def reached(
        self, customer_id: str, window: WindowTotals, now_ms: int, endpoints: tuple[str, ...]
    ) -> Iterator[Reached]:
        """Every threshold at or below the customer's figures of the window, each once; the least
        first of each alert.
        """
        period, found = window.period, set()
        for alert in self.alerts:
            totals = window.by_type.get(alert.event)
            is_meant = alert.period is period.type and alert.customer in {None, customer_id}
            if totals is None or not is_meant:
                continue
            operation = self.operations[alert.event]
            value = totals.read(operation)
            for threshold in alert.thresholds:
                if threshold > value:
                    break
                if (alert.event, threshold) not in found:
                    found.add((alert.event, threshold))
                    yield Reached(
                        customer_id,
                        period.type,
                        period.start_ms,
                        alert.event,
                        threshold,
                        operation,
                        value,
                        totals.count,
                        alert.id,
                        now_ms,
                        endpoints,
                    )


def is_watched(period: Period, closed_until_ms: Mapping[PeriodType, int]) -> bool:
    """Whether what comes for the period may still reach a threshold: it runs, or is not closed yet,
    or is the last of its type that was.
    """
    return period.end_ms >= closed_until_ms[period.type]


def reached_delivery_id(reached: Reached, endpoint_id: str) -> str:
    """That of its delivery to the endpoint."""
    threshold = Threshold(reached.event_type, reached.threshold)
    return threshold_delivery_id(endpoint_id, reached.customer_id, reached.period, threshold)


def threshold_delivery_id(
    endpoint_id: str, customer_id: str, period: Period, threshold: Threshold
) -> str:
    """The ``webhook-id``: one for each customer, period, event type, threshold and endpoint."""
    return named_id(
        endpoint_id,
        "threshold",
        customer_id,
        str(period.type),
        period.key,
        threshold.event_type,
        javascript.exact_text(threshold.value),
    )


def reached_delivery(
    reached: Reached, endpoint_id: str, now_ms: int, due_ms: int | None = None
) -> Delivery:
    """The delivery of it, made at ``now_ms`` and due then, or before; its sequence is given when it
    is stored.
    """
    return Delivery(
        reached_delivery_id(reached, endpoint_id),
        endpoint_id,
        0,
        reached.customer_id,
        reached.period_type,
        reached.start_ms,
        0,
        reached_body(reached),
        now_ms,
        now_ms if due_ms is None else due_ms,
        threshold=Threshold(reached.event_type, reached.threshold),
    )


def reached_body(reached: Reached) -> bytes:
    """The webhook's body: equal to its own re-serialisation by JavaScript, as all are."""
    period = reached.period
    return javascript.encode(
        {
            "type": _KIND,
            "customerId": reached.customer_id,
            "period": str(reached.period_type),
            "data": {
                "periodStart": format_instant(period.start_ms),
                "periodEnd": format_instant(period.last_ms),
                "periodKey": period.key,
                "timestamp": format_instant(reached.reached_ms),
                "alert": reached.alert,
                "eventType": reached.event_type,
                "operation": str(reached.operation),
                "threshold": as_number(reached.threshold),
                "value": as_number(reached.value),
                "eventCount": reached.count,
                "exact": {
                    "threshold": javascript.exact_text(reached.threshold),
                    "value": javascript.exact_text(reached.value),
                },
            },
            "created": reached.reached_ms // 1000,
        }
    )
