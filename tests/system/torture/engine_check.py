"""What a store must hold after whatever happened to it: checked by hand, from what clients heard.

Everything is read record by record, so each checksum is looked at, and every total is counted again
from the events, in fractions. The engine's own queries and rules have no say in it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from itertools import chain, starmap
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

import msgspec

from meterd.domain.aggregations import completed_body
from meterd.domain.deliveries import DeliveryStatus, batch_body, delivery_id
from meterd.domain.event_ids import stamp_of
from meterd.domain.operations import Operation
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.embedded import keys, records
from meterd.embedded.transaction import TABLES
from tests.model_ledger import read
from tests.system.torture.engine_life import ENDPOINTS, RULES

if TYPE_CHECKING:
    from decimal import Decimal

    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent
    from meterd.embedded.store import Store
    from tests.system.torture.engine_life import Scenario
    from tests.system.torture.harness import Tally

_BASIC: Final = (Operation.SUM, Operation.MIN, Operation.MAX, Operation.FIRST, Operation.LAST)
_decode_number: Final = msgspec.json.Decoder(dict[str, int]).decode


class Heard(msgspec.Struct):
    """What clients and receivers know."""

    ready: bool = False
    acknowledged: set[int] = msgspec.field(default_factory=set)
    unknown: set[int] = msgspec.field(default_factory=set)
    refused: set[int] = msgspec.field(default_factory=set)
    sent: dict[str, int] = msgspec.field(default_factory=dict)
    arrived: set[str] = msgspec.field(default_factory=set)
    delivered: set[str] = msgspec.field(default_factory=set)
    closed: set[tuple[str, int]] = msgspec.field(default_factory=set)

    def hear(self, said: bytes) -> None:
        """Adds what a child said; half a line was not said."""
        for line in said.decode().split("\n")[:-1]:
            word, *rest = line.split(" ")
            match word:
                case "ready":
                    self.ready = True
                case "acknowledged" | "unknown" | "refused":
                    getattr(self, word).update(map(int, rest))
                case "sent" | "arrived":
                    self.sent[rest[0]] = int(rest[1])
                    if word == "arrived":
                        self.arrived.add(rest[0])
                case "delivered":
                    self.delivered.update(rest)
                case "asked":  # for each of these once more, or for all
                    self.delivered.difference_update(rest or self.delivered.copy())
                case "closed":
                    self.closed.add((rest[0], int(rest[1])))
        self.unknown -= self.acknowledged
        self.refused -= self.acknowledged | self.unknown

    def copy(self) -> Heard:
        return msgspec.convert(msgspec.to_builtins(self), Heard)


class Stored(NamedTuple):
    """An event of the log."""

    number: int
    event: UsageEvent
    event_id: bytes
    received_ms: int


class Contents:
    """All that stands in a store. Raises CorruptRecordError where a record is not what was put."""

    def __init__(self, store: Store) -> None:
        with store.read() as txn:
            tables = {name: dict(txn.forward(name, b"", b"")) for name in TABLES}
        self.tables = tables
        self.log = list(chain.from_iterable(starmap(_record, tables["events"].items())))
        self.aggregations = [*map(_aggregation, tables["aggregations"].values())]
        self.deliveries: dict[str, Delivery] = {}
        self.batches: dict[str, Delivery] = {}
        self.batch_of: dict[str, Delivery] = {}
        for key, payload in tables["deliveries"].items():
            each = _delivery(payload)
            if each.members:
                self.batches[each.id] = each
                continue
            self.deliveries[each.id] = each
            number = tables["batched"].get(key)
            if number is not None:
                self.batch_of[each.id] = _delivery(tables["deliveries"][key[:-8] + number])

    def state_of(self, delivery: Delivery) -> Delivery:
        """Who has it: the delivery, or the batch that it is in."""
        return self.batch_of.get(delivery.id, delivery)


# The same records are looked at after each of a thousand kills.
_remembered: Final = lru_cache(maxsize=1 << 14)


@_remembered
def _record(record_id: bytes, payload: bytes) -> list[Stored]:
    found = []
    for block in records.decode_record(payload):
        stamp = block.stamp(stamp_of(record_id))
        for offset, event in enumerate(block.events):
            number = _decode_number(event.metadata)["n"]
            found.append(Stored(number, event, stamp.id(offset), stamp.received_ms))
    return found


_aggregation: Final = _remembered(records.decode_aggregation)
_delivery: Final = _remembered(records.decode_delivery)


@_remembered
def _numbered(body: bytes, sequence: int) -> bytes:
    return body[:-1] + b',"sequence":%d}' % sequence


def _body(payload: bytes) -> bytes:
    """What is delivered of the aggregation in that record."""
    return completed_body(_aggregation(payload))


Groups = dict[tuple[str, Period, str], list[int]]


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
        found = Contents(store)
        self._check_log(found, heard, sent, where)
        groups = self._groups(found)
        self._check_hours(found, groups, where)
        self._check_indexes(found, where)
        self._check_aggregations(found, groups, heard, where)
        self._check_deliveries(found, heard, where)
        return found

    def check_end(self, store: Store, heard: Heard, sent: set[int], where: str) -> None:
        """As above, when all was repeated and every period is over, closed and delivered."""
        found = self.check(store, heard, sent, where)
        expected = {(customer, period) for customer, period, _ in self._groups(found)}
        closed = {(each.customer_id, each.period) for each in found.aggregations if each.closed}
        self._require(closed == expected, f"{where}: {closed ^ expected} closed or not", wrong=1)
        pending = [
            each.id
            for each in found.deliveries.values()
            if found.state_of(each).status != "delivered"
        ]
        self._require(not pending, f"{where}: {pending} are not delivered", wrong=len(pending))

    def _require(self, holds: bool, what: str, **counts: int) -> None:
        if not holds:
            self._tally.find(what, **counts)

    def _check_log(self, found: Contents, heard: Heard, sent: set[int], where: str) -> None:
        stored = [each.number for each in found.log]
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
        order = [each.event_id for each in found.log]
        self._require(order == sorted(set(order)), f"{where}: ids out of order", wrong=1)
        counted = records.read_number(found.tables["meta"].get(keys.EVENTS))
        self._require(counted == len(stored), f"{where}: {counted} events, it says", wrong=1)

    def _groups(self, found: Contents) -> Groups:
        """The numbers of each customer's events of each period and type."""
        groups: Groups = defaultdict(list)
        for each in found.log:
            for group in self.groups_of(each.number, each.received_ms):
                groups[group].append(each.number)
        return groups

    def _groups_of(self, number: int, received_ms: int) -> list[tuple[str, Period, str]]:
        event = self._events[number]
        periods = (period_at(kind, received_ms) for kind in PeriodType)
        return [(event.customer_id, period, event.event_type) for period in periods]

    def _check_hours(self, found: Contents, groups: Groups, where: str) -> None:
        expected = {
            (customer, period.start_ms, name): (
                len(numbers),
                *(self.count(operation, tuple(numbers)) for operation in _BASIC),
            )
            for (customer, period, name), numbers in groups.items()
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
        """A key for each event that has one, a place for each customer and type."""
        events = [each.event for each in found.log]
        owners = {
            (each.customer_id, each.idempotency_key) for each in events if each.idempotency_key
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
            for customer, name, _ in (
                each[1:].split(keys.END, 2) for each in found.tables["blocks_by_customer"]
            )
        }
        self._require(
            indexed == expected, f"{where}: index {_difference(indexed, expected)}", wrong=1
        )

    def _check_aggregations(
        self, found: Contents, groups: Groups, heard: Heard, where: str
    ) -> None:
        closed = {
            (each.customer_id, each.period): each for each in found.aggregations if each.closed
        }
        expected: dict[tuple[str, Period], dict[str, Any]] = defaultdict(dict)
        for (customer, period, name), numbers in groups.items():
            operation = RULES.operations[name]
            figure = (operation, self.count(operation, tuple(numbers)), len(numbers))
            expected[customer, period][name] = figure
        for place, aggregation in closed.items():
            figures = {
                name: (figure.operation, figure.value, figure.count)
                for name, figure in aggregation.figures.items()
            }
            self._require(
                figures == expected.get(place),
                f"{where}: {aggregation.id} is {figures}, not {expected.get(place)}",
                wrong=1,
            )
        for place in expected:
            if (place[1].type, place[1].start_ms) in heard.closed:
                self._require(place in closed, f"{where}: {place} is open again", wrong=1)

    def _check_deliveries(self, found: Contents, heard: Heard, where: str) -> None:
        expected = {
            delivery_id(endpoint, each.id, each.revision): _body(payload)
            for payload in found.tables["aggregations"].values()
            if (each := _aggregation(payload)).closed
            for endpoint in ENDPOINTS
        }
        stored = found.deliveries
        self._require(
            stored.keys() == expected.keys(),
            f"{where}: deliveries {stored.keys() ^ expected.keys()}",
            wrong=1,
        )
        for name, delivery in stored.items():
            fault = _body_fault(delivery, expected.get(name), heard)
            fault = fault or _state_fault(found.state_of(delivery), heard)
            self._require(fault is None, f"{where}: {name} {fault}", wrong=1)
        for name, batch in found.batches.items():
            fault = _batch_fault(batch, found, heard) or _state_fault(batch, heard)
            self._require(fault is None, f"{where}: batch {name} {fault}", wrong=1)
        self._require(
            found.tables["outbox"].keys() == _queued(found),
            f"{where}: the queue is another",
            wrong=1,
        )


def _queued(found: Contents) -> set[bytes]:
    """By when due, what is first of each of its customers' pending ones; a start left none in the
    air.
    """
    first: dict[tuple[str, str], Delivery] = {}
    waiting: dict[str, list[bool]] = defaultdict(list)
    sent_as: dict[str, Delivery] = {}
    for each in sorted(found.deliveries.values(), key=lambda one: (one.period, one.revision)):
        state = found.state_of(each)
        if state.status is DeliveryStatus.PENDING:
            is_first = first.setdefault((each.endpoint_id, each.customer_id), each) is each
            waiting[state.id].append(is_first)
            sent_as[state.id] = state
    return {
        keys.outbox_key(
            state.endpoint_id, state.next_attempt_ms, state.sequence, is_repeat=state.has_failed
        )
        for state in sent_as.values()
        if all(waiting[state.id])
    }


def _body_fault(delivery: Delivery, body: bytes | None, heard: Heard) -> str | None:
    if body is not None and delivery.body != _numbered(body, delivery.sequence):
        return "has a body that is not its aggregation's"
    if delivery.id in heard.sent and crc32(delivery.body) != heard.sent[delivery.id]:
        return "has another body than was sent"
    return None


def _batch_fault(batch: Delivery, found: Contents, heard: Heard) -> str | None:
    prefix = keys.endpoint_prefix(batch.endpoint_id)
    members = [
        _delivery(found.tables["deliveries"][prefix + number.to_bytes(8, "big")])
        for number in batch.sequences
    ]
    body = batch_body(batch, [each.body for each in members])
    if batch.id in heard.sent and crc32(body) != heard.sent[batch.id]:
        return "has another body than was sent"
    if len({each.period for each in members}) > 1:
        return "is of several periods"
    return None


def _state_fault(state: Delivery, heard: Heard) -> str | None:
    is_delivered = state.status is DeliveryStatus.DELIVERED
    if state.id in heard.delivered and not is_delivered:
        return "was settled as delivered, and is not any more"
    if is_delivered and state.id not in heard.arrived:
        return "counts as delivered, and never arrived"
    return None


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
