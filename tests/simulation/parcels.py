"""What the books say of deliveries: who may be sent what, and when; alone or in a batch.

Each change is checked the moment it is on disk, each attempt before its receiver answers. Of a
customer only the first is begun, and nothing beside it; what a receiver took is sent to it again
only if the log says that this is not known, or an operator asked for it; what goes together has one
state; an endpoint's sequences have no gap.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from meterd.domain.deliveries import BATCH, Delivery, DeliveryStatus, as_batch, batch_id
from meterd.domain.endpoint_states import EndpointState
from meterd.domain.endpoints import SCHEDULE_MS
from meterd.embedded import keys, records
from tests.simulation.books import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from meterd.domain.periods import Period
    from tests.simulation.disk import Written
    from tests.simulation.trace import Trace

_FAILURES_MAX: Final = len(SCHEDULE_MS) + 1

# An attempt: endpoint, sequence of the delivery or number of the batch, and which of its attempts.
AttemptKey: TypeAlias = tuple[str, int, int]
# Endpoint and customer, and whether it is of thresholds: each has an order of its own.
Line: TypeAlias = tuple[str, str, bool]
# Of each, what is still to arrive.
Lines: TypeAlias = dict[Line, set[tuple["Period", int] | tuple[int]]]


class Asked(msgspec.Struct, frozen=True):
    """What an operator wants sent again: one by its id, or an endpoint's, by when periods ended."""

    name: str = ""
    endpoint_id: str = ""
    from_ms: int = 0
    to_ms: int = 0

    def covers(self, delivery: Delivery) -> bool:
        names = [batch_id(delivery.endpoint_id, one.number) for one in delivery.batches]
        if self.name in (delivery.id, *names):
            return True
        return self.covers_period(delivery.endpoint_id, delivery.period)

    def covers_period(self, endpoint_id: str, period: Period) -> bool:
        return endpoint_id == self.endpoint_id and self.from_ms <= period.end_ms <= self.to_ms


class Parcels:
    """``pending`` are the ids of what is still to arrive."""

    def __init__(self, trace: Trace, is_to_be_sent: Callable[[Delivery], bool]) -> None:
        self.pending: set[str] = set()
        self._pending_of: defaultdict[str, set[str]] = defaultdict(set)
        self.batches: dict[str, Delivery] = {}
        # As they are written; what is in a batch stands as it was before that.
        self._deliveries: dict[str, Delivery] = {}
        self._batch_of: dict[str, str] = {}
        self._named: dict[tuple[str, int], str] = {}
        self._states: dict[str, EndpointState] = {}
        self._asked: list[Asked] = []
        # And what of each line is in the air.
        self._waiting: Lines = defaultdict(set)
        self._in_air: dict[Line, str] = {}
        self._last_begun_ms: dict[str, int] = {}
        self._made: Counter[str] = Counter()
        self._sent: set[AttemptKey] = set()
        self._accepted: set[AttemptKey] = set()
        # With which attempt a receiver last took a delivery, and what the log says of attempts.
        self._taken: dict[str, AttemptKey] = {}
        self._errors: dict[AttemptKey, str | None] = {}
        self._is_to_be_sent = is_to_be_sent
        self._trace = trace

    # What it is asked

    def __iter__(self) -> Iterator[str]:
        return iter(self._deliveries)

    def shown(self, name: str) -> Delivery:
        """The delivery in the state that it has."""
        delivery = self._deliveries[name]
        batch = self.batches.get(self._batch_of.get(name, ""))
        return delivery if batch is None else as_batch(delivery, batch)

    def is_known(self, name: str) -> bool:
        return name in self._deliveries

    def batch_of(self, name: str) -> str | None:
        """The id of the batch that the delivery is in."""
        return self._batch_of.get(name)

    def sequences(self, endpoint_id: str) -> int:
        """How many deliveries the endpoint has."""
        return self._made[endpoint_id]

    def is_disabled(self, endpoint_id: str) -> bool:
        return self._states.get(endpoint_id, EndpointState()).disabled_ms is not None

    def was_asked_for(self, endpoint_id: str, period: Period) -> bool:
        """Whether somebody has that period replayed to the endpoint."""
        return any(asked.covers_period(endpoint_id, period) for asked in self._asked)

    def unsent(self, endpoint_id: str, since_ms: int) -> Delivery | None:
        """What is due to that endpoint since then."""
        for name in sorted(self._pending_of[endpoint_id]):
            delivery = self.shown(name)
            if delivery.next_attempt_ms < since_ms:
                return delivery
        return None

    def neglected(self, endpoint_id: str, since_ms: int) -> Delivery | None:
        """What that endpoint should have been sent since then, and nothing was tried."""
        last_begun_ms = self._last_begun_ms.get(endpoint_id, 0)
        if self.is_disabled(endpoint_id) or last_begun_ms >= since_ms:
            return None
        for name in sorted(self._pending_of[endpoint_id]):
            parcel = self._parcel_of(name)
            is_due = parcel.next_attempt_ms < since_ms
            if is_due and all(self._is_first(one) for one in self._parts(parcel)):
                return parcel
        return None

    def _is_first(self, name: str) -> bool:
        """Nothing that is still to arrive is before it."""
        delivery = self._deliveries[name]
        return _place_in_line(delivery) == min(self._waiting[_line(delivery)])

    # What it is told

    def started(self) -> None:
        """A daemon has: what another one was asked for is over."""
        self._asked = []

    @contextmanager
    def asking(self, asked: Asked) -> Iterator[Callable[[], None]]:
        """Call what it gives when the answer has come; without one it may be done at any time."""
        self._asked.append(asked)

        def is_answered() -> None:
            self._asked = [one for one in self._asked if one is not asked]

        yield is_answered

    def committed(self, written: Written) -> None:
        """A transaction is on disk. Raises BrokenPromiseError."""
        puts: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        for table, key, payload in written.puts:
            puts[table][key] = payload
        for payload in puts["attempts"].values():
            attempt = records.decode_attempt(payload)
            self._errors[attempt.endpoint_id, attempt.sequence, attempt.number] = (
                attempt.outcome.error
            )
        for key, payload in puts["endpoints"].items():
            self._states[key.decode()] = records.decode_endpoint_state(payload)
        parcels = [records.decode_delivery(one) for one in puts["deliveries"].values()]
        for one in parcels:
            self._named[one.endpoint_id, one.sequence] = one.id
        batched = [self._name_in(key) for key in puts["batched"]]
        left = [
            self._name_in(key)
            for table, key in written.deletes
            if table == "batched" and self._name_in(key) in self._batch_of
        ]
        names = {*batched, *left, *(one.id for one in parcels if not one.is_batch)}
        for batch in (one for one in parcels if one.is_batch):
            names.update(
                name
                for name in self._parts(batch)
                if name in batched or self._batch_of.get(name) == batch.id
            )
        before = {name: self.shown(name) for name in names if self.is_known(name)}
        self._note(parcels)
        for key, number in puts["batched"].items():
            name = self._name_in(key)
            endpoint_id = self._deliveries[name].endpoint_id
            self._batch_of[name] = self._named[endpoint_id, keys.sequence_in(number)]
            self._require_fresh(before.get(name, self._deliveries[name]))
        for name in left:
            del self._batch_of[name]
            self._require_left(before[name], self.shown(name))
        # Endpoints count by themselves: what is found first is the same in every process.
        in_order = sorted(names, key=self._place_of)
        changes = [(before.get(name), self.shown(name)) for name in in_order]
        waited = {line: set(waiting) for line, waiting in self._waiting.items()}
        for was, now in changes:
            self._changed(was, now)
        for was, now in changes:
            if now.begun_ms is not None and _attempt_of(was) != _attempt_of(now):
                self._begun(now, waited)

    def attempt(self, name: str, body: bytes) -> AttemptKey:
        """A receiver is sent this now."""
        parcel = self.batches.get(name) or self._deliveries.get(name)
        if parcel is None:
            raise BrokenPromiseError("wrong", f"{name} is sent and was never stored")
        if parcel.begun_ms is None or name in self._batch_of:
            raise BrokenPromiseError("wrong", f"{name} is sent before its attempt is on disk")
        if self.is_disabled(parcel.endpoint_id):
            raise BrokenPromiseError("wrong", f"{name} is sent to who is gone")
        names = self._parts(parcel)
        self._require_body(parcel, [self._deliveries[one].body for one in names], body)
        for one in names:
            taken = self._taken.get(one)
            if taken is not None and self._errors.get(taken) is None:
                raise BrokenPromiseError("twice", f"{one} is sent again, and nobody knows why")
        key = parcel.endpoint_id, parcel.sequence, parcel.attempts
        self._sent.add(key)
        return key

    def took(self, key: AttemptKey) -> None:
        """Its receiver has accepted what was sent with that attempt."""
        self._accepted.add(key)
        for name in self._parts(self._parcel(key[0], key[1])):
            self._taken[name] = key

    # What it checks

    def _note(self, parcels: Iterable[Delivery]) -> None:
        for one in sorted(parcels, key=lambda parcel: parcel.sequence):
            if not one.is_batch:
                self._deliveries[one.id] = one
            elif one.id not in self.batches:
                self._require_batch(one)
            if one.is_batch:
                self.batches[one.id] = one

    def _require_batch(self, batch: Delivery) -> None:
        """A new one: the next of its endpoint, of one period, and of each customer at most one."""
        self._trace.seen["batches"] += 1
        self._made[f"batches {batch.endpoint_id}"] += 1
        number = BATCH + self._made[f"batches {batch.endpoint_id}"]
        parts = [self._deliveries[name] for name in self._parts(batch)]
        periods = {one.period for one in parts}
        customers = {one.customer_id for one in parts}
        is_mixed = len(periods) != 1 or any(one.threshold is not None for one in parts)
        if batch.sequence != number or is_mixed or len(customers) != len(parts):
            raise BrokenPromiseError("wrong", f"a batch is made so: {batch}, of {parts}")

    def _require_fresh(self, before: Delivery) -> None:
        if before.attempts or before.status is not DeliveryStatus.PENDING or before.batches:
            raise BrokenPromiseError("wrong", f"{before} is put into a batch")

    def _require_left(self, before: Delivery, after: Delivery) -> None:
        """Because somebody wants it alone; what was done with the others stays done."""
        if after.attempts < before.attempts or not any(one.covers(after) for one in self._asked):
            raise BrokenPromiseError("wrong", f"{before} leaves its batch as {after}")
        self._trace.seen["batches left"] += 1

    def _changed(self, before: Delivery | None, after: Delivery) -> None:
        if before is None:
            if not self._is_to_be_sent(after):
                raise BrokenPromiseError("wrong", f"{after.id} is of nothing that was closed")
            self._made[after.endpoint_id] += 1
            if after.sequence != self._made[after.endpoint_id]:
                raise BrokenPromiseError("wrong", f"{after.id} has sequence {after.sequence}")
            self._waits(after)
            return
        if after.body != before.body:
            raise BrokenPromiseError("wrong", f"{after.id} changes: {before}, {after}")
        self._require_attempts(before, after)
        if before.begun_ms is not None and _attempt_of(before) != _attempt_of(after):
            del self._in_air[_line(after)]
        if before.status is not after.status:
            self._require_status(before, after)
        is_asked_for = any(asked.covers(after) for asked in self._asked)
        if after.status is DeliveryStatus.PENDING and is_asked_for:
            self._taken.pop(after.id, None)

    def _begun(self, begun: Delivery, waited: Lines) -> None:
        """In the same transaction an earlier one may have been asked for: just behind that."""
        line = _line(begun)
        first = min(self._waiting[line])
        if first != _place_in_line(begun) and first in waited.get(line, ()):
            raise BrokenPromiseError("wrong", f"{begun.id} overtakes {first}")
        if line in self._in_air:
            raise BrokenPromiseError("wrong", f"{begun.id} goes beside {self._in_air[line]}")
        self._in_air[line] = begun.id
        assert begun.begun_ms is not None
        self._last_begun_ms[begun.endpoint_id] = begun.begun_ms

    def _require_attempts(self, before: Delivery, after: Delivery) -> None:
        """None is forgotten, but one that was begun and never sent."""
        if after.attempts >= before.attempts:
            return
        was_in_air = before.begun_ms is not None and after.begun_ms is None
        parcel = self._parcel_of(after.id)
        key = parcel.endpoint_id, parcel.sequence, parcel.attempts + 1
        if not was_in_air or after.attempts != before.attempts - 1 or key in self._sent:
            raise BrokenPromiseError("wrong", f"{after.id} forgets an attempt")
        self._trace.seen["given back"] += 1

    def _require_status(self, before: Delivery, after: Delivery) -> None:
        parcel = self._parcel_of(after.id)
        match before.status, after.status:
            case DeliveryStatus.PENDING, DeliveryStatus.DELIVERED:
                if (parcel.endpoint_id, parcel.sequence, parcel.attempts) not in self._accepted:
                    raise BrokenPromiseError("lost", f"{after.id} counts as sent, and was not")
                self._trace.seen["delivered"] += 1
                self._ended(after)
            case DeliveryStatus.PENDING, DeliveryStatus.PARKED:
                if after.failures < _FAILURES_MAX:
                    raise BrokenPromiseError("lost", f"{after.id} is given up too early")
                self._trace.seen["parked"] += 1
                self._ended(after)
            case _, DeliveryStatus.PENDING:
                if not any(asked.covers(after) for asked in self._asked):
                    raise BrokenPromiseError("twice", f"nobody asked to send {after.id} again")
                self._trace.seen["sent again"] += 1
                self._waits(after)
            case _:
                raise BrokenPromiseError("wrong", f"{after.id} changes: {before}, {after}")

    def _waits(self, delivery: Delivery) -> None:
        self.pending.add(delivery.id)
        self._pending_of[delivery.endpoint_id].add(delivery.id)
        self._waiting[_line(delivery)].add(_place_in_line(delivery))

    def _ended(self, delivery: Delivery) -> None:
        self.pending.remove(delivery.id)
        self._pending_of[delivery.endpoint_id].remove(delivery.id)
        self._waiting[_line(delivery)].remove(_place_in_line(delivery))

    def _require_body(self, parcel: Delivery, bodies: list[bytes], body: bytes) -> None:
        """A batch says of each what it would be told alone."""
        if not parcel.is_batch:
            is_right = [body] == bodies
        else:
            told = json.loads(body)
            is_right = (
                told["type"] == "aggregation.batch"
                and told["period"] == parcel.period_type
                and told["data"]["items"] == [json.loads(one) for one in bodies]
                and all(one in body for one in bodies)
            )
        if not is_right:
            raise BrokenPromiseError("wrong", f"{parcel.id} is sent with another body")

    def _parts(self, parcel: Delivery) -> list[str]:
        """The ids of the deliveries in it, or that were."""
        return [self._named[parcel.endpoint_id, sequence] for sequence in parcel.sequences]

    def _parcel(self, endpoint_id: str, sequence: int) -> Delivery:
        name = self._named[endpoint_id, sequence]
        return self.batches.get(name) or self._deliveries[name]

    def _parcel_of(self, name: str) -> Delivery:
        return self.batches.get(self._batch_of.get(name, "")) or self._deliveries[name]

    def _place_of(self, name: str) -> tuple[str, int]:
        delivery = self._deliveries[name]
        return delivery.endpoint_id, delivery.sequence

    def _name_in(self, key: bytes) -> str:
        """Of the delivery with that key."""
        endpoint_id = key.split(keys.END, 1)[0].decode()
        return self._named[endpoint_id, keys.sequence_in(key)]


def _line(delivery: Delivery) -> Line:
    return delivery.endpoint_id, delivery.customer_id, delivery.threshold is not None


def _place_in_line(delivery: Delivery) -> tuple[Period, int] | tuple[int]:
    """In the order of closing and revising; thresholds as they were reached."""
    if delivery.threshold is not None:
        return (delivery.sequence,)
    return delivery.period, delivery.revision


def _attempt_of(delivery: Delivery | None) -> int | None:
    """Which attempt is in the air."""
    is_in_air = delivery is not None and delivery.begun_ms is not None
    return delivery.attempts if delivery is not None and is_in_air else None
