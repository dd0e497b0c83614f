"""Alerts: which figures are watched, and at which values somebody is told.

Only figures that do not depend on when they are looked at: a sum, a count, a maximum go up as
events come (a sum, while its values are positive), so what was passed between two looks still
stands at the second.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.event_fields import CUSTOMER_ID_MAX_BYTES, bounded_value
from meterd.domain.javascript import exact_text
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType
from meterd.domain.sections import (
    Reader,
    Refused,
    Section,
    identifier,
    one_of,
    quoted,
    shown,
    string,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

ALERTS_MAX: Final = 100
THRESHOLDS_MAX: Final = 20  # each is a message for each customer and period
# An average, a minimum, the first and the last value may pass a threshold and be back before
# anybody looks: whether that is told would be an accident.
WATCHABLE: Final = (Operation.SUM, Operation.COUNT, Operation.MAX)
ALERT_OPTIONS: Final = ("id", "event", "period", "thresholds", "customer")
_NUMBER_TEXT_MAX: Final = 600  # characters: 64 digits anywhere that an event's value may have them


class Alert(msgspec.Struct, frozen=True):
    """Tells when a customer's figure of the event type in a period of that type is one of the
    thresholds or more, which ascend. ``customer`` is whose; None is everybody's.
    """

    id: str
    event: str
    period: PeriodType
    thresholds: tuple[Decimal, ...]
    customer: str | None = None


def configured_alerts(root: Section, operations: Mapping[str, Operation]) -> tuple[Alert, ...]:
    """The ``[[alerts]]`` of the configuration, in their order; no two with one id.

    ``operations`` are those of the event types configured.
    """
    found: dict[str, Alert] = {}
    for section in root.tables("alerts", at_most=ALERTS_MAX):
        section.refuse_unknown()
        event = section.required("event", _watchable(operations), "")
        period = section.required("period", one_of(PeriodType), PeriodType.MONTHLY)
        customer = section.option("customer", _customer, None)
        alert_id = section.option("id", identifier, "") or derived_id(event, period, customer)
        if alert_id in found:
            what = quoted(alert_id)
            hint = "" if "id" in section.values else ": put their thresholds together, or give ids"
            section.fault(f"{what} is the id of another alert{hint}", "id")
        found[alert_id] = Alert(alert_id, event, period, _thresholds(section), customer)
    return tuple(found.values())


def derived_id(event: str, period: PeriodType, customer: str | None) -> str:
    """``monthly-1f2e3d4c``: the period and 32 bits of the SHA-256 of what is watched.

    Thresholds are not in it, so it stays when they are changed.
    """
    named = msgspec.json.encode((event, period, customer))
    return f"{period}-{hashlib.sha256(named).hexdigest()[:8]}"


def _watchable(operations: Mapping[str, Operation]) -> Reader[str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in operations:
            raise Refused(f"must be an event type under [events], not {shown(value)}")
        if operations[value] not in WATCHABLE:
            names = ", ".join(WATCHABLE[:-1]) + f" or {WATCHABLE[-1]}"
            raise Refused(
                f"must be an event type with op {names}: {quoted(value)} has {operations[value]},"
                " which may pass a threshold and be back unseen"
            )
        return value

    return read


def _customer(value: Any) -> str | None:
    return string(at_most=CUSTOMER_ID_MAX_BYTES)(value)


def _thresholds(section: Section) -> tuple[Decimal, ...]:
    if "thresholds" not in section.values:
        section.fault("thresholds is missing")
    elif section.values["thresholds"] == []:
        section.fault(f"must hold 1 to {THRESHOLDS_MAX} numbers", "thresholds")
    found = section.each("thresholds", threshold, at_most=THRESHOLDS_MAX)
    for number in sorted(set(found)):
        if found.count(number) > 1:
            section.fault(f"must not hold {exact_text(number)} twice", "thresholds")
    return tuple(sorted(set(found)))


def threshold(value: Any) -> Decimal:
    """Reads a number, or the text of one: with every digit, as values of events are."""
    number = value
    if isinstance(value, str) and len(value) <= _NUMBER_TEXT_MAX:
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = None
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        raise Refused(f'must be a number above 0, such as 1000 or "0.5", not {shown(value)}')
    if isinstance(number, Decimal) and not number.is_finite():
        raise Refused(f"must be a finite number, not {shown(value)}")
    bounded = bounded_value(number)
    if isinstance(bounded, str):
        raise Refused(bounded.removeprefix("value "))
    if bounded <= 0:
        raise Refused(f"must be above 0, not {shown(value)}")
    return bounded


def public_alert(alert: Alert) -> dict[str, Any]:
    """An alert as ``GET /config`` shows it."""
    document: dict[str, Any] = {
        "id": alert.id,
        "event": alert.event,
        "period": alert.period.value,
        "thresholds": [exact_text(number) for number in alert.thresholds],
    }
    return document if alert.customer is None else {**document, "customer": alert.customer}
