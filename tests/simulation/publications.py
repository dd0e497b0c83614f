"""What is published of periods, held against the books: snapshots, what closes, and revisions.

A closed period that events come to, or are taken back from, is late until what is published of it
says so. Nobody is told when the daemon counts an event: so what it publishes may lack the last of
the log, and stays late then.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from meterd.domain.aggregations import FIRST_REVISION
from meterd.domain.deliveries import delivery_id
from meterd.domain.periods import PeriodType, period_at
from tests.simulation.bodies import require_body
from tests.simulation.books import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.deliveries import Delivery
    from meterd.domain.operations import Operation
    from meterd.domain.periods import Period
    from tests.simulation.books import Books, Entry
    from tests.simulation.clock import VirtualClock
    from tests.simulation.regime import InForce, Regime
    from tests.simulation.trace import Trace

Place: TypeAlias = tuple[str, "Period"]


class Late(msgspec.Struct):
    """Since when something came that is not published, and when the last of it came."""

    first_ms: int
    last_ms: int


class Publications:
    """``closed`` has the newest revision of each. ``is_closed`` says whose totals are."""

    def __init__(
        self,
        books: Books,
        regime: Regime,
        clock: VirtualClock,
        trace: Trace,
        is_closed: Callable[[str, Period], bool],
    ) -> None:
        self.closed: dict[Place, Aggregation] = {}
        self.revisions: defaultdict[Place, list[Aggregation]] = defaultdict(list)
        # What is taken back by the transaction that is looked at.
        self.just_void: list[Entry] = []
        # Replayed to an endpoint that never had it: whether somebody asked for that.
        self.was_asked_for: Callable[[str, Period], bool] = lambda *_: False
        self._late: dict[Place, Late] = {}
        self._operations: defaultdict[Place, dict[str, Operation]] = defaultdict(dict)
        # And how many events were in the log then. Of an hour before that, others may come when a
        # crash was amid the closing: it is not closed.
        self._last_closed = period_at(PeriodType.HOURLY, 0), 0
        self._books = books
        self._regime = regime
        self._clock = clock
        self._trace = trace
        self._is_closed = is_closed

    # What it is told

    def changed(self, customer_id: str, happened_ms: int, since_ms: int) -> None:
        """An event came, or was taken back: what is closed around it is late since then."""
        for kind in PeriodType:
            period = period_at(kind, happened_ms)
            if self._is_closed(customer_id, period):
                self.note_late((customer_id, period), since_ms)

    def note_late(self, place: Place, since_ms: int) -> None:
        late = self._late.setdefault(place, Late(since_ms, since_ms))
        late.last_ms = max(late.last_ms, since_ms)

    def published(
        self,
        made: Aggregation,
        deliveries: Mapping[str, Delivery],
        superseded: Sequence[Aggregation],
    ) -> None:
        place = made.customer_id, made.period
        newest = self.closed.get(place)
        if newest is not None and newest.revision == made.revision:
            self._replayed(newest, made)
        elif newest is not None:
            self._revised(newest, made, superseded)
            self._note(made, newest, deliveries)
        elif made.closed:
            self._closes(made)
            self._note(made, None, deliveries)
        else:
            self._trace.seen["snapshots"] += 1
            self._matched(made, self._regime.asked_for_at)

    def settled(self, customer_id: str, period: Period) -> None:
        """It is not late any more, says the daemon; what it lacks it has not counted yet."""
        place = customer_id, period
        newest = self.closed.get(place)
        if newest is not None:
            self._settle(newest, self._matched(newest, 0))
        elif any(not self._figures(place, one) for one in self._regime.candidates()):
            self._late.pop(place, None)

    def withdrawn(self, customer_id: str, period: Period) -> None:
        if (customer_id, period) in self.closed:
            raise BrokenPromiseError("lost", f"a closed aggregation is deleted: {period.key}")

    # What it checks

    def overdue(self, by_ms: int) -> Place | None:
        """One that is late for so much longer than it may be, and must say something else."""
        wait_ms = by_ms + max(one.config.revise_after_ms for one in self._regime.candidates())
        for place, late in self._late.items():
            if late.last_ms + wait_ms > self._clock.now_ms():
                continue
            newest = self.closed.get(place)
            figures = {} if newest is None else newest.figures
            if all(self._figures(place, one) != figures for one in self._regime.candidates()):
                return place
        return None

    def _figures(self, place: Place, one: InForce, until: int | None = None) -> object:
        """What is to be published by that configuration; nothing where the period is not."""
        if place not in self.closed and place[1].type not in one.rules.published:
            return {}
        operations = one.rules.operations | self._operations[place]
        return self._books.figures(*place, operations, until)

    def _closes(self, made: Aggregation) -> None:
        """All that was in the log when the closing began is in it; or it is late from its start."""
        customer_id, period = place = made.customer_id, made.period
        regime, floor_at = self._regime, self._regime.floor_at
        is_late = self._is_closed(customer_id, period) or not any(
            self._figures(place, one, floor_at) for one in regime.candidates()
        )
        if made.revision != FIRST_REVISION:
            raise BrokenPromiseError("wrong", f"{made.id} begins with revision {made.revision}")
        self._settle(made, self._matched(made, 0 if is_late else floor_at))
        self._trace.seen["aggregations closed late" if is_late else "aggregations closed"] += 1
        if is_late:
            return
        if made.period.end_ms + regime.grace_least_ms > self._clock.latest_ms:
            raise BrokenPromiseError("wrong", f"{made.id} closed too early")
        last, last_floor_at = self._last_closed
        if period < last and any(
            self._figures(place, one, last_floor_at) for one in regime.candidates()
        ):
            raise BrokenPromiseError("wrong", f"{made.id} closed after {last.key}")
        if period >= last:
            self._last_closed = period, floor_at

    def _revised(
        self, earlier: Aggregation, made: Aggregation, superseded: Sequence[Aggregation]
    ) -> None:
        """The next one, because it says something else, and not at once. Or it says the same of
        something else: one event was taken back and another came, or the same came and went. Of
        that the books may not know when it was counted, so then nothing is late.
        """
        self._trace.seen["revisions"] += 1
        late = self._late.get((made.customer_id, made.period))
        if made.revision != earlier.revision + 1 or not made.closed or earlier not in superseded:
            raise BrokenPromiseError("lost", f"{made} takes the place of {earlier}")
        is_other = made.figures != earlier.figures
        if made.contents == earlier.contents or (late is None and is_other):
            raise BrokenPromiseError("wrong", f"{made.id} is revised, and is as it was")
        if late is not None and late.first_ms + self._regime.revise_least_ms > made.computed_ms:
            raise BrokenPromiseError("wrong", f"{made.id} is revised too early: {late}")
        self._settle(made, self._matched(made, 0))

    def _note(
        self, made: Aggregation, earlier: Aggregation | None, deliveries: Mapping[str, Delivery]
    ) -> None:
        place = made.customer_id, made.period
        self.closed[place] = made
        self.revisions[place].append(made)
        self._operations[place] |= {name: figure.operation for name, figure in made.figures.items()}
        for endpoint_id in made.endpoints:
            delivery = deliveries.get(delivery_id(endpoint_id, made.id, made.revision))
            if delivery is None:
                raise BrokenPromiseError("lost", f"{made.id} closed without its deliveries")
            require_body(delivery.body, made, earlier)

    def _replayed(self, newest: Aggregation, made: Aggregation) -> None:
        """It is written again for one more endpoint, which an operator wants to have it."""
        more = made.endpoints[len(newest.endpoints) :]
        if made != msgspec.structs.replace(newest, endpoints=(*newest.endpoints, *more)):
            raise BrokenPromiseError("twice", f"{made.id} is written after it was closed")
        if not all(self.was_asked_for(one, made.period) for one in more):
            raise BrokenPromiseError("wrong", f"{made.id} is to go to {more}")
        self.closed[made.customer_id, made.period] = made
        self.revisions[made.customer_id, made.period][-1] = made

    def _settle(self, made: Aggregation, lacks_since_ms: int | None) -> None:
        """It says all that there is, or all but what came since then."""
        place = made.customer_id, made.period
        self._late.pop(place, None)
        if lacks_since_ms is not None:
            self.note_late(place, lacks_since_ms)

    def _matched(self, made: Aggregation, since: int) -> int | None:
        """Since when something came that it lacks; None where it lacks nothing. It must be what the
        books said when the log had so many events, or more.
        """
        until = self._match(made, since)
        if until is None and self.just_void:
            with self._books.before_taking_back(self.just_void):
                until = self._match(made, since)
            if until is not None:
                return min(self._books.voids[entry.id].voided_ms for entry in self.just_void)
        if until is None:
            place = made.customer_id, made.period
            expected = [self._figures(place, one) for one in self._regime.candidates()]
            raise BrokenPromiseError("wrong", f"{made} is not of {expected}")
        return self._books.log[until].received_ms if until < len(self._books.log) else None

    def _match(self, made: Aggregation, since: int) -> int | None:
        place = made.customer_id, made.period
        newest = self.closed.get(place)
        for until in self._books.moments(*place, since):
            for one in self._regime.candidates():
                endpoints = one.rules.endpoints if made.closed else ()
                if made is not newest and made.endpoints != endpoints:
                    continue
                if self._figures(place, one, until) == made.figures:
                    return until
        return None
