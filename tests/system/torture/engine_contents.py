"""All that stands in a store, read record by record, so that each checksum is looked at."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property, lru_cache
from itertools import chain, starmap
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from meterd.domain.event_ids import stamp_of
from meterd.embedded import keys, records
from meterd.embedded.records import Pruned
from meterd.embedded.transaction import TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.deliveries import Delivery
    from meterd.domain.events import UsageEvent
    from meterd.domain.periods import Period
    from meterd.embedded.store import Store
    from tests.system.torture.engine_heard import Heard

_decode_number: Final = msgspec.json.Decoder(dict[str, int]).decode


class Stored(NamedTuple):
    """An event of the log; its id does not name the part of the store."""

    number: int
    event: UsageEvent
    event_id: bytes
    received_ms: int

    @property
    def happened_ms(self) -> int:
        said_ms = self.event.timestamp_ms
        return self.received_ms if said_ms is None else said_ms


class Contents:
    """All that stands in a store; ``doubled`` are ids that two deliveries have. Raises
    CorruptRecordError where a record is not what was put.
    """

    def __init__(self, store: Store, events: Sequence[UsageEvent]) -> None:
        """``events`` are those of the scenario, by number."""
        self._events = events
        with store.read() as txn:
            tables = {name: dict(txn.forward(name, b"", b"")) for name in TABLES}
        self.tables = tables
        self.log = list(chain.from_iterable(starmap(_record, tables["events"].items())))
        self.voids = {
            stamp_of(key).id(): records.decode_void(payload)
            for key, payload in tables["voids"].items()
        }
        mark = tables["meta"].get(keys.PRUNED)
        self.pruned = Pruned() if mark is None else records.decode_pruned(mark)
        self.aggregations = [*map(decode_aggregation, tables["aggregations"].values())]
        self.reached = [*map(_reached, tables["reached"].values())]
        self.deliveries: dict[str, Delivery] = {}
        self.doubled: set[str] = set()
        self.batches: dict[str, Delivery] = {}
        self.batch_of: dict[str, Delivery] = {}
        for key, payload in tables["deliveries"].items():
            each = decode_delivery(payload)
            if each.members:
                self.batches[each.id] = each
                continue
            if each.id in self.deliveries:
                self.doubled.add(each.id)
            self.deliveries[each.id] = each
            number = tables["batched"].get(key)
            if number is not None:
                self.batch_of[each.id] = decode_delivery(tables["deliveries"][key[:-8] + number])

    @cached_property
    def late(self) -> set[tuple[str, Period]]:
        """Of whom which closed period is to be revised."""
        found = map(keys.late_totals_key, self.tables["late"])
        return {(keys.totals_customer(key), keys.totals_period(key)) for key in found}

    @cached_property
    def revisions(self) -> list[list[bytes]]:
        """Of each closed aggregation the records of all that were ever published, the first
        first.
        """
        earlier = defaultdict(list)
        for key, payload in self.tables["superseded"].items():
            earlier[keys.superseded_by(key)].append(payload)
        found = [
            [*earlier.pop(key, []), payload]
            for key, payload in self.tables["aggregations"].items()
            if decode_aggregation(payload).closed
        ]
        assert not earlier, f"superseded by nothing: {earlier}"
        return found

    def gone(self, heard: Heard) -> list[tuple[Stored, bool]]:
        """Events that were listed and are pruned since, and whether they were void."""
        found = []
        for number, listed in heard.listed.items():
            stamp = stamp_of(listed.event_id)
            if stamp.id() <= self.pruned.through:
                stored = Stored(number, self._events[number], stamp.id(), stamp.received_ms)
                found.append((stored, listed.is_void))
        return found

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


decode_aggregation: Final = _remembered(records.decode_aggregation)
decode_delivery: Final = _remembered(records.decode_delivery)
_reached: Final = _remembered(records.decode_reached)
