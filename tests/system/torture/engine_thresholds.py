"""What must hold of thresholds: each that was reached in time is told, and told once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.domain.operations import Operation
from meterd.domain.thresholds import reached_delivery_id
from tests.system.torture.engine_scenario import ENDPOINTS, WATCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from decimal import Decimal

    from meterd.domain.periods import Period
    from tests.system.torture.engine_contents import Contents, Stored
    from tests.system.torture.engine_heard import Heard


def told_faults(found: Contents, heard: Heard) -> Iterator[str]:
    """What was said of thresholds, and what stands there of it; one line each."""
    if heard.told_again:
        yield f"{heard.told_again} were told twice"
    stored = {reached_delivery_id(one, ENDPOINTS[0]) for one in found.reached}
    if missing := heard.told - stored:
        yield f"{missing} were told, and are not there"
    for one in found.reached:
        if one.value < one.threshold or one.endpoints != ENDPOINTS:
            yield f"{one} is not reached, or not for all"


def lacking(
    found: Contents,
    counted: dict[tuple[str, Period, str], list[Stored]],
    void: set[tuple[str, Period, str]],
    figure: Callable[[Operation, list[Stored]], Decimal],
) -> Iterator[str]:
    """Thresholds that somebody must have seen when each period had been looked at behind its close:
    all that counts in it came before its end. A sum that something was taken back from may have
    come to its threshold later.
    """
    told = {(one.customer_id, one.period, one.event_type, one.threshold) for one in found.reached}
    for (customer_id, period, event_type), events in counted.items():
        operation = WATCHED.operations.get(event_type)
        if operation is None or any(one.received_ms >= period.end_ms for one in events):
            continue
        if operation is Operation.SUM and (customer_id, period, event_type) in void:
            continue
        value = figure(operation, events)
        for alert in WATCHED.alerts:
            if (alert.event, alert.period) != (event_type, period.type):
                continue
            if alert.customer not in {None, customer_id}:
                continue
            for threshold in alert.thresholds:
                if threshold <= value:
                    place = (customer_id, period, event_type, threshold)
                    if place not in told:
                        yield f"{place} was reached, and nobody was told"
