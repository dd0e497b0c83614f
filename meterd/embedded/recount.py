"""Counts an hour's events again, from the log alone, in bounded memory.

Events are gathered by customer and event type and folded into totals now and then; totals of more
customers than may be held are put aside in a temporary file, sorted, and merged at the end. So it
does not matter whether an hour has fifty million events, or a million customers.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from decimal import Decimal, localcontext
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import IO, TYPE_CHECKING, Final

import msgspec

from meterd.domain.errors import StoreError
from meterd.domain.event_ids import Stamp, position
from meterd.domain.totals import EXACT, Totals, merge_types
from meterd.domain.totals import merge as merge_totals
from meterd.embedded import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from meterd.domain.events import UsageEvent

# Folded when about so many events, or of so many customers and types, are gathered: 60 MB.
_EVENTS_MAX: Final = 200_000
_GROUPS_MAX: Final = 50_000
# Put aside when totals of so many customers are held: some 100 MB.
_CUSTOMERS_MAX: Final = 50_000
_LENGTH_BYTES: Final = 4
_WANTED: Final = (
    "totals of many customers are counted in a temporary file: make room there, or name another"
    " folder in TMPDIR"
)
_ZERO: Final = Decimal(0)

ByType = dict[str, Totals]
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[bytes, ByType]).decode


class Group:
    """Events of one customer and type that are not folded yet, and the blocks they stand in."""

    __slots__ = (
        "block",
        "blocks",
        "dated",
        "first",
        "first_offset",
        "last",
        "last_offset",
        "values",
    )

    def __init__(self, first: Stamp, offset: int) -> None:
        self.first = self.last = first
        self.first_offset = self.last_offset = offset
        self.block = b""
        self.blocks: list[bytes] = []
        self.values: list[Decimal] = []
        self.dated: _Dated | None = None

    def totals(self) -> Totals | None:
        """Of all that is gathered, if anything. Within a context that does not round."""
        if self.dated is None:
            return self._received() if self.values else None
        dated = self.dated.totals()
        return merge_totals(self._received(), dated) if self.values else dated

    def _received(self) -> Totals:
        """Of those that happened when they were received."""
        values = self.values
        first_at = position(self.first.received_ms, self.first.id(self.first_offset))
        last_at = first_at
        if len(values) > 1:
            last_at = position(self.last.received_ms, self.last.id(self.last_offset))
        return _totals(values, values[0], first_at, values[-1], last_at)


class _Dated:
    """Of a group those that say when they happened, which may be in any order: only of the first
    and last is their position made.
    """

    __slots__ = ("first", "last", "values")

    def __init__(self, happened_ms: int, stamp: Stamp, offset: int, value: Decimal) -> None:
        self.first = self.last = happened_ms, stamp, offset, value
        self.values = [value]

    def add(self, happened_ms: int, stamp: Stamp, offset: int, value: Decimal) -> None:
        """One more, in the order of the log."""
        self.values.append(value)
        if happened_ms < self.first[0]:
            self.first = happened_ms, stamp, offset, value
        if happened_ms >= self.last[0]:
            self.last = happened_ms, stamp, offset, value

    def totals(self) -> Totals:
        (first_ms, stamp, offset, first), last = self.first, self.last
        first_at = position(first_ms, stamp.id(offset))
        last_ms, stamp, offset, value = last
        return _totals(self.values, first, first_at, value, position(last_ms, stamp.id(offset)))


def _totals(
    values: Sequence[Decimal], first: Decimal, first_at: bytes, last: Decimal, last_at: bytes
) -> Totals:
    """Within a context that does not round."""
    if len(values) == 1:
        return Totals(1, first, first, first, first, first_at, last, last_at)
    total = sum(values, _ZERO)
    return Totals(len(values), total, min(values), max(values), first, first_at, last, last_at)


Groups = dict[tuple[str, str], Group]


class HourRecount:
    """One hour's events, counted in the order of the log."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._groups: Groups = {}
        self._events = 0
        self._totals: dict[bytes, ByType] = {}
        self._aside: list[IO[bytes]] = []

    def count(
        self, stamp: Stamp, block_id: bytes, events: Iterable[tuple[int, UsageEvent]]
    ) -> None:
        """Counts these events of a block, each with its offset in it."""
        groups, offset = self._groups, -1
        for offset, event in events:
            key = event.customer_id, event.event_type
            try:
                group = groups[key]
            except KeyError:
                group = groups[key] = Group(stamp, offset)
            if event.timestamp_ms is None:
                if not group.values:
                    group.first, group.first_offset = stamp, offset
                group.values.append(event.value)
                group.last, group.last_offset = stamp, offset
            else:
                happened = event.timestamp_ms, stamp, offset, event.value
                if group.dated is None:
                    group.dated = _Dated(*happened)
                else:
                    group.dated.add(*happened)
            if group.block is not block_id:
                group.block = block_id
                group.blocks.append(block_id)
        self._events += offset + 1

    def note(self, stamp: Stamp, block_id: bytes, event: UsageEvent) -> None:
        """An event of the block is counted, in another hour."""
        key = event.customer_id, event.event_type
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(stamp, 0)
        if group.block is not block_id:
            group.block = block_id
            group.blocks.append(block_id)
        self._events += 1

    @property
    def is_full(self) -> bool:
        """Whether it is time to fold."""
        return self._events > _EVENTS_MAX or len(self._groups) > _GROUPS_MAX

    def fold(self) -> Groups:
        """Takes what is gathered into the totals; gives it back, for whoever wants the blocks."""
        groups, self._groups, self._events = self._groups, {}, 0
        with localcontext(EXACT):
            for (customer_id, event_type), group in groups.items():
                added = group.totals()
                if added is None:
                    continue
                customer = keys.customer_key(keys.part_of(customer_id, self._parts), customer_id)
                by_type = self._totals.get(customer)
                if by_type is None:
                    by_type = self._totals[customer] = {}
                before = by_type.get(event_type)
                by_type[event_type] = added if before is None else merge_totals(before, added)
        if len(self._totals) > _CUSTOMERS_MAX:
            self._put_aside()
        return groups

    def totals(self) -> Iterator[tuple[bytes, ByType]]:
        """Each customer's, by the key of ``customers``, in order. Everything must be folded."""
        held = sorted(self._totals.items(), key=itemgetter(0))
        if not self._aside:
            yield from held
            return
        runs = [*map(_read, self._aside), iter(held)]
        for customer, found in groupby(merge(*runs, key=itemgetter(0)), key=itemgetter(0)):
            by_type: ByType = {}
            for _, part in found:
                by_type = merge_types(by_type, part)
            yield customer, by_type

    def close(self) -> None:
        """Frees what was put aside."""
        for file in self._aside:
            with suppress(OSError):  # what found no room finds none now
                file.close()

    def _put_aside(self) -> None:
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by ``close``
        except OSError as fault:  # names the folders that it has tried, where there are more
            raise StoreError(f"{fault}: {_WANTED}") from fault
        self._aside.append(file)
        try:
            for item in sorted(self._totals.items(), key=itemgetter(0)):
                encoded = _encode(item)
                file.write(len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded)
            file.flush()
        except OSError as fault:
            folder = tempfile.gettempdir()
            raise StoreError(f"{folder}: cannot be written: {fault.strerror}: {_WANTED}") from fault
        self._totals = {}


def _read(file: IO[bytes]) -> Iterator[tuple[bytes, ByType]]:
    file.seek(0)
    while length := file.read(_LENGTH_BYTES):
        yield _decode(file.read(int.from_bytes(length, "big")))
