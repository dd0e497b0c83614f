"""What a store must hold after whatever happened to it: checked by hand, from what clients heard.

Everything is read record by record, so each checksum is looked at, and every total is counted again
from the events, in fractions. The engine's own queries and rules have no say in it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from meterd.domain.operations import Operation
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded import keys, records
from tests.model_ledger import read
from tests.system.torture.engine_contents import Contents, Stored, decode_aggregation
from tests.system.torture.engine_deliveries import delivery_faults
from tests.system.torture.engine_scenario import RULES
from tests.system.torture.engine_thresholds import lacking, told_faults

if TYPE_CHECKING:
    from decimal import Decimal

    from meterd.embedded.store import Store
    from tests.system.torture.engine_heard import Heard
    from tests.system.torture.engine_scenario import Scenario
    from tests.system.torture.harness import Tally

_BASIC: Final = (Operation.SUM, Operation.MIN, Operation.MAX, Operation.FIRST, Operation.LAST)

Group = tuple[str, Period, str]


class Counted(msgspec.Struct):
    """Of each customer's events of each period and type those that count, in the order in which
    they happened, and where some are void.
    """

    events: dict[Group, list[Stored]]
    void: set[Group]


def _numbers(events: list[Stored]) -> tuple[int, ...]:
    return tuple(each.number for each in events)


class Check:
    """Compares a store with what was sent and heard, and tells the tally what does not fit.

    One for all checks of a scenario: what was counted once is remembered.
    """

    def __init__(self, scenario: Scenario, tally: Tally) -> None:
        self._events = scenario.events
        self._tally = tally
        self.count = lru_cache(maxsize=1 << 16)(self._count)
        self.groups_of = lru_cache(maxsize=1 << 12)(self._groups_of)

    def _count(self, operation: Operation, numbers: tuple[int, ...]) -> Decimal:
        return read([self._events[number].value for number in numbers], operation)

    def check(self, store: Store, heard: Heard, sent: set[int], where: str) -> Contents:
        """``sent`` are the numbers of the events that were sent, heard of or not."""
        found = Contents(store, self._events)
        gone = found.gone(heard)
        self._check_log(found, [each for each, _ in gone], heard, sent, where)
        self._check_pruned(found, [each for each, _ in gone], heard, where)
        self._check_voids(found, {each.number for each, is_void in gone if is_void}, heard, where)
        counted = self._counted(found, gone)
        self._check_hours(found, counted, where)
        self._check_indexes(found, where)
        self._check_aggregations(found, counted, heard, where)
        for fault in (*delivery_faults(found, heard), *told_faults(found, heard)):
            self._require(False, f"{where}: {fault}", wrong=1)
        return found

    def check_end(self, store: Store, heard: Heard, sent: set[int], where: str) -> None:
        """As above, when all was repeated and every period is over, closed and delivered."""
        found = self.check(store, heard, sent, where)
        counted = self._counted(found, found.gone(heard))
        expected = {(customer, period) for customer, period, _ in counted.events}
        closed = {
            (each.customer_id, each.period)
            for each in found.aggregations
            if each.closed and (each.figures or (each.customer_id, each.period) in expected)
        }
        self._require(closed == expected, f"{where}: {closed ^ expected} closed or not", wrong=1)
        self._require(not found.late, f"{where}: {found.late} are not revised", wrong=1)
        for fault in lacking(found, counted.events, counted.void, self._figure):
            self._require(False, f"{where}: {fault}", wrong=1)
        pending = [
            each.id
            for each in found.deliveries.values()
            if found.state_of(each).status != "delivered"
        ]
        self._require(not pending, f"{where}: {pending} are not delivered", wrong=len(pending))

    def _require(self, holds: bool, what: str, **counts: int) -> None:
        if not holds:
            self._tally.find(what, **counts)

    def _check_log(
        self, found: Contents, gone: list[Stored], heard: Heard, sent: set[int], where: str
    ) -> None:
        stored = [each.number for each in (*gone, *found.log)]
        numbers = set(stored)
        lost = heard.acknowledged - numbers
        self._require(not lost, f"{where}: {lost} acknowledged, not stored", lost=len(lost))
        twice = [number for number, times in Counter(stored).items() if times > 1]
        self._require(not twice, f"{where}: {twice} stored twice", twice=len(twice))
        strange = numbers - sent
        self._require(not strange, f"{where}: {strange} stored, never sent", wrong=len(strange))
        broken = heard.refused & numbers
        self._require(not broken, f"{where}: {broken} refused, but stored", wrong=len(broken))
        other = [each.number for each in found.log if each.event != self._events[each.number]]
        self._require(not other, f"{where}: {other} stored as something else", wrong=len(other))
        order = [found.pruned.through, *(each.event_id for each in found.log)]
        self._require(order == sorted(set(order)), f"{where}: ids out of order", wrong=1)
        counted = records.read_number(found.tables["meta"].get(keys.EVENTS))
        self._require(counted == len(stored), f"{where}: {counted} events, it says", wrong=1)

    def _check_pruned(self, found: Contents, gone: list[Stored], heard: Heard, where: str) -> None:
        """As many as it says, and all of each in periods that were closed then."""
        told = found.pruned.events
        self._require(told == len(gone), f"{where}: {told} pruned, {len(gone)} gone", wrong=1)
        closed_ms = {
            kind: records.read_number(found.tables["meta"].get(keys.closed_key(kind)))
            for kind in PeriodType
        }
        early = [
            each.number
            for each in gone
            for instant_ms in (each.received_ms, each.happened_ms)
            for kind in PeriodType
            if period_at(kind, instant_ms).end_ms > min(closed_ms[kind], heard.pruned_at_ms)
        ]
        self._require(not early, f"{where}: {early} pruned too early", wrong=len(early))

    def _check_voids(self, found: Contents, gone: set[int], heard: Heard, where: str) -> None:
        """What was taken back is void, whole, and nothing else is."""
        void = {
            each.number: found.voids[each.event_id]
            for each in found.log
            if each.event_id in found.voids
        }
        lost = heard.voided - void.keys() - gone
        self._require(not lost, f"{where}: {lost} were void, and are not", lost=len(lost))
        strange = (void.keys() | gone) - heard.voiding
        self._require(not strange, f"{where}: {strange} void unasked", wrong=len(strange))
        other = [number for number, each in void.items() if each.reason != f"void {number}"]
        self._require(not other, f"{where}: {other} void for another reason", wrong=1)
        more = len(found.voids) - len(void)
        self._require(more == 0, f"{where}: {more} voids of no event", wrong=1)

    def _counted(self, found: Contents, gone: list[tuple[Stored, bool]]) -> Counted:
        counted = Counted(defaultdict(list), set())
        every = [*gone, *((each, each.event_id in found.voids) for each in found.log)]
        for each, is_void in sorted(every, key=_place):
            for group in self.groups_of(each.number, each.happened_ms):
                if is_void:
                    counted.void.add(group)
                else:
                    counted.events[group].append(each)
        return counted

    def _groups_of(self, number: int, happened_ms: int) -> list[Group]:
        event = self._events[number]
        periods = (period_at(kind, happened_ms) for kind in PeriodType)
        return [(event.customer_id, period, event.event_type) for period in periods]

    def _figure(self, operation: Operation, events: list[Stored]) -> Decimal:
        return self.count(operation, _numbers(events))

    def _check_hours(self, found: Contents, counted: Counted, where: str) -> None:
        expected = {
            (customer, period.start_ms, name): (
                len(events),
                *(self._figure(operation, events) for operation in _BASIC),
            )
            for (customer, period, name), events in counted.events.items()
            if period.type is PeriodType.HOURLY
        }
        stored = {
            (keys.totals_customer(key), keys.totals_period(key).start_ms, name): (
                totals.count,
                *(totals.read(operation) for operation in _BASIC),
            )
            for key, payload in found.tables["totals"].items()
            if keys.totals_period(key).type is PeriodType.HOURLY
            for name, totals in records.decode_totals(payload).by_type.items()
        }
        self._require(
            stored == expected, f"{where}: hours {_difference(stored, expected)}", wrong=1
        )

    def _check_indexes(self, found: Contents, where: str) -> None:
        """A key for each event that has one that is not forgotten, a place for each customer and
        type; what is pruned may have its place until it is swept.
        """
        events = [each.event for each in found.log]
        forgotten = found.tables["meta"].get(keys.FORGOTTEN) or b""
        owners = {
            (each.event.customer_id, each.event.idempotency_key)
            for each in found.log
            if each.event.idempotency_key and each.event_id > forgotten
        }
        claimed = {
            (customer.decode(), key.decode())
            for customer, key in (
                each[1:].split(keys.END, 1) for each in found.tables["idempotency_keys"]
            )
        }
        self._require(owners == claimed, f"{where}: keys {_difference(claimed, owners)}", wrong=1)
        expected = {(each.customer_id, each.event_type) for each in events}
        indexed = {
            (customer.decode(), name.decode())
            for (customer, name, _), payload in (
                (key[1:].split(keys.END, 2), payload)
                for key, payload in found.tables["blocks_by_customer"].items()
            )
            if records.split_block_ids(payload)[-1] > found.pruned.through
        }
        self._require(
            indexed == expected, f"{where}: index {_difference(indexed, expected)}", wrong=1
        )

    def _check_aggregations(
        self, found: Contents, counted: Counted, heard: Heard, where: str
    ) -> None:
        """Each says what counts now, but for what is to be revised; none of its revisions lacks."""
        expected: dict[tuple[str, Period], dict[str, Any]] = defaultdict(dict)
        for (customer, period, name), events in counted.events.items():
            operation = RULES.operations[name]
            figure = (operation, self._figure(operation, events), len(events))
            expected[customer, period][name] = figure
        closed = set()
        for payloads in found.revisions:
            revisions = [*map(decode_aggregation, payloads)]
            newest = revisions[-1]
            place = (newest.customer_id, newest.period)
            closed.add(place)
            numbers = [each.revision for each in revisions]
            in_order = numbers == [*range(1, len(numbers) + 1)]
            self._require(in_order, f"{where}: {newest.id} has the revisions {numbers}", wrong=1)
            figures = {
                name: (figure.operation, figure.value, figure.count)
                for name, figure in newest.figures.items()
            }
            self._require(
                place in found.late or figures == expected.get(place, {}),
                f"{where}: {newest.id} is {figures}, not {expected.get(place)}",
                wrong=1,
            )
        for place in expected.keys() - closed - found.late:
            is_over = (place[1].type, place[1].start_ms) in heard.closed
            self._require(not is_over, f"{where}: {place} is open again", wrong=1)


def _place(one: tuple[Stored, bool]) -> tuple[int, bytes]:
    return one[0].happened_ms, one[0].event_id


def _difference(one: Any, other: Any) -> str:
    """What is in one of them only."""
    if isinstance(one, dict):
        return str(
            {
                key: (one.get(key), other.get(key))
                for key in one.keys() | other.keys()
                if one.get(key) != other.get(key)
            }
        )[:500]
    return str(one ^ other)[:500]
