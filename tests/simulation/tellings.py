"""Thresholds that were reached, held against the books: each is told once, and never untold."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import trio

from meterd.domain.periods import PeriodType, period_at
from meterd.domain.thresholds import reached_delivery_id
from meterd.embedded import records
from tests.simulation.bodies import require_told
from tests.simulation.books import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meterd.domain.alerts import Alert
    from meterd.domain.deliveries import Delivery
    from meterd.domain.periods import Period
    from meterd.domain.thresholds import Reached
    from tests.simulation.books import Books, Entry
    from tests.simulation.regime import InForce, Regime
    from tests.simulation.trace import Trace

# Whose, in which period, of which event type, which threshold.
Told: TypeAlias = tuple[str, "Period", str, Decimal]


class Tellings:
    """``told`` is all that was. ``is_watched`` says whether the period after that one is open."""

    def __init__(
        self, books: Books, regime: Regime, trace: Trace, is_watched: Callable[[Period], bool]
    ) -> None:
        self.told: dict[Told, Reached] = {}
        # What is taken back by the transaction that is looked at.
        self.just_void: list[Entry] = []
        self.was_asked_for: Callable[[str, Period], bool] = lambda *_: False
        # What has changed since it was last looked at, and when, by trio's clock.
        self._changed: dict[tuple[str, Period], float] = {}
        self._books = books
        self._regime = regime
        self._trace = trace
        self._is_watched = is_watched

    # What it is told

    def changed(self, customer_id: str, happened_ms: int) -> None:
        """An event came, or was taken back."""
        now_s = trio.current_time()
        for kind in {alert.period for alert in self._regime.newest.config.alerts}:
            self._changed[customer_id, period_at(kind, happened_ms)] = now_s

    def reconfigured(self, now_ms: int) -> None:
        """What runs, and what ran before it, is looked at again."""
        for kind in PeriodType:
            running = period_at(kind, now_ms)
            for period in (period_at(kind, running.start_ms - 1), running):
                for customer_id in self._books.customers:
                    self._changed[customer_id, period] = trio.current_time()

    def reached(self, payload: bytes, deliveries: Mapping[str, Delivery]) -> None:
        """It is written."""
        reached = records.decode_reached(payload)
        told = reached.customer_id, reached.period, reached.event_type, reached.threshold
        before = self.told.get(told)
        self.told[told] = reached
        if before is not None:
            self._told_also(before, reached)
            return
        self._trace.seen["thresholds"] += 1
        if not self._is_reached(reached):
            raise BrokenPromiseError("wrong", f"{reached} is told, and is not so")
        for endpoint_id in reached.endpoints:
            delivery = deliveries.get(reached_delivery_id(reached, endpoint_id))
            if delivery is None:
                raise BrokenPromiseError("lost", f"{reached} is written without its deliveries")
            require_told(delivery.body, reached)

    def is_told(self, delivery: Delivery) -> bool:
        """Whether it is of a threshold that was reached."""
        threshold = delivery.threshold
        if threshold is None:
            return False
        told = delivery.customer_id, delivery.period, threshold.event_type, threshold.value
        return told in self.told

    # What it checks

    def untold(self, for_s: float) -> Told | None:
        """One that has stood for so long, of a configuration that has been in force as long."""
        one, now_s = self._regime.newest, trio.current_time()
        if now_s - one.since_s < for_s:
            return None
        for place, changed_s in list(self._changed.items()):
            if now_s - changed_s < for_s:
                continue
            del self._changed[place]
            if self._is_watched(place[1]):
                for told in self._standing(one, *place):
                    if told not in self.told:
                        return told
        return None

    def _standing(self, one: InForce, customer_id: str, period: Period) -> list[Told]:
        """What that customer's figures have reached now."""
        found = []
        for alert in one.config.alerts:
            if alert.period is period.type and alert.customer in {None, customer_id}:
                operations = {alert.event: one.rules.operations[alert.event]}
                figures = self._books.figures(customer_id, period, operations)
                found += [
                    (customer_id, period, alert.event, threshold)
                    for figure in figures.values()
                    for threshold in alert.thresholds
                    if threshold <= figure.value
                ]
        return found

    def _told_also(self, before: Reached, reached: Reached) -> None:
        """To an endpoint that an operator has it replayed to."""
        more = reached.endpoints[len(before.endpoints) :]
        if reached != msgspec.structs.replace(before, endpoints=(*before.endpoints, *more)):
            raise BrokenPromiseError("twice", f"{before} is told again: {reached}")
        if not more or not all(self.was_asked_for(one, reached.period) for one in more):
            raise BrokenPromiseError("twice", f"{reached} is told to {more}, and nobody asked")

    def _is_reached(self, reached: Reached) -> bool:
        """By what the books said at some time, and an alert that is in force."""
        is_asked = any(
            _asks(alert, reached)
            and one.rules.operations[alert.event] is reached.operation
            and one.rules.endpoints == reached.endpoints
            for one in self._regime.candidates()
            for alert in one.config.alerts
        )
        if not is_asked or reached.value < reached.threshold:
            return False
        if self._stood(reached):
            return True
        with self._books.before_taking_back(self.just_void):
            return self._stood(reached)

    def _stood(self, reached: Reached) -> bool:
        """What was told is some seconds old."""
        operations = {reached.event_type: reached.operation}
        place = reached.customer_id, reached.period
        for until in self._books.moments(*place):
            figure = self._books.figures(*place, operations, until).get(reached.event_type)
            if figure is None:
                return False
            if (figure.value, figure.count) == (reached.value, reached.count):
                return True
        return False


def _asks(alert: Alert, reached: Reached) -> bool:
    return (
        (alert.id, alert.event, alert.period)
        == (reached.alert, reached.event_type, reached.period_type)
        and alert.customer in {None, reached.customer_id}
        and reached.threshold in alert.thresholds
    )
