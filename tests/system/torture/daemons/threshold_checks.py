"""What must hold of thresholds that are told: one message for each, and none is lacking."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.periods import Period, PeriodType, period_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meterd.domain.deliveries import Delivery
    from tests.system.torture.daemons.recount import Stored
    from tests.system.torture.daemons.sink import Arrival

# What is configured, by event type; of figures that go up only.
COUNTED: Final = "t.count"
THRESHOLDS: Final = (15,)
ALERT: Final = f"""
[[alerts]]
event = "{COUNTED}"
period = "hourly"
thresholds = [{", ".join(map(str, THRESHOLDS))}]
"""
_MESSAGE: Final = b'{"type":"usage.threshold.reached"'

Place = tuple[str, str, str, Decimal]


def told_twice(arrivals: Iterable[Arrival]) -> Iterator[str]:
    """Each customer, period and threshold has one webhook-id at each endpoint."""
    ids: defaultdict[tuple[str, Place], set[str]] = defaultdict(set)
    for arrival in arrivals:
        if arrival.body.startswith(_MESSAGE):
            place = _place(msgspec.json.decode(arrival.body))
            ids[arrival.endpoint, place].add(arrival.headers["webhook-id"])
    for (endpoint_id, place), names in ids.items():
        if len(names) > 1:
            yield f"{place} was told to {endpoint_id} as {sorted(names)}"


def told_to(endpoint_id: str, arrivals: Iterable[Iterable[Arrival]]) -> set[Place]:
    """What came there."""
    return {
        _place(msgspec.json.decode(arrival.body))
        for came in arrivals
        for arrival in came
        if arrival.endpoint == endpoint_id and arrival.body.startswith(_MESSAGE)
    }


def untold(events: Iterable[Stored], deliveries: Iterable[Delivery]) -> Iterator[str]:
    """When all has closed: what hours came to by events that were received within them."""
    told = {
        _place(msgspec.json.decode(delivery.body))
        for delivery in deliveries
        if delivery.threshold is not None
    }
    for place in reached(events):
        if place not in told:
            yield f"{place} was reached, and is not told"


def reached(events: Iterable[Stored]) -> Iterator[Place]:
    """What somebody must be told of these events."""
    hours: defaultdict[tuple[str, Period], int] = defaultdict(int)
    late = set()
    for event in events:
        hour = period_at(PeriodType.HOURLY, event.happened_ms)
        if event.event_type == COUNTED and not event.is_void:
            hours[event.customer_id, hour] += 1
            if event.received_ms >= hour.end_ms:
                late.add((event.customer_id, hour))
    for (customer_id, hour), number in hours.items():
        if (customer_id, hour) not in late:
            for threshold in THRESHOLDS:
                if number >= threshold:
                    yield customer_id, hour.key, COUNTED, Decimal(threshold)


def _place(message: dict[str, Any]) -> Place:
    data = message["data"]
    threshold = Decimal(data["exact"]["threshold"])
    return message["customerId"], data["periodKey"], data["eventType"], threshold
