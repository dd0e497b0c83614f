"""Counts an hour's events again, from the log alone, in bounded memory.

Events are gathered by customer and event type and folded into totals now and then; totals of more
customers than may be held are put aside in a temporary file, sorted, and merged at the end. So it
does not matter whether an hour has fifty million events, or a million customers.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from contextlib import suppress
from decimal import Decimal, localcontext
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import IO, TYPE_CHECKING, Final

import msgspec

from meterd.domain.errors import StoreError
from meterd.domain.event_ids import position, stamp_of
from meterd.domain.receipts import BLOCK_EVENTS
from meterd.domain.totals import EXACT, Totals, merge_types
from meterd.domain.totals import merge as merge_totals
from meterd.embedded import keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd.domain.events import UsageEvent
    from meterd.embedded.appended import Placed

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
# A customer and an event type.
Name = tuple[str, str]
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[bytes, ByType]).decode


class Group:
    """Events of one customer and type that are not folded yet, and the blocks they stand in."""

    __slots__ = ("block", "blocks", "dated", "first", "noted", "offset", "values")

    def __init__(self) -> None:
        # Of those that happened when they were received: the offset in its append and the block of
        # the first, and of the last.
        self.first = 0, b""
        self.offset, self.block = self.first
        self.values: list[Decimal] = []
        self.blocks: list[bytes] = []
        self.dated: _Dated | None = None
        # Blocks of the others, and of what counts elsewhere or no more.
        self.noted: list[bytes] = []

    def all_blocks(self) -> list[bytes]:
        """In the order of the log."""
        return sorted({*self.blocks, *self.noted}) if self.noted else self.blocks

    def totals(self) -> Totals | None:
        """Of all that is gathered, if anything. Within a context that does not round."""
        if self.dated is None:
            return self._received() if self.values else None
        dated = self.dated.totals()
        return merge_totals(self._received(), dated) if self.values else dated

    def _received(self) -> Totals:
        """Of those that happened when they were received."""
        values = self.values
        first_at = _position(*self.first)
        last_at = first_at if len(values) == 1 else _position(self.offset, self.block)
        return _totals(values, values[0], first_at, values[-1], last_at)


class _Dated:
    """Of a group those that say when they happened, which may be in any order: only of the first
    and last is their position made.
    """

    __slots__ = ("first", "last", "values")

    def __init__(self, happened_ms: int, placed: Placed) -> None:
        offset, event, block_id = placed
        self.first = self.last = happened_ms, offset, block_id, event.value
        self.values = [event.value]

    def add(self, happened_ms: int, placed: Placed) -> None:
        """One more, in the order of the log."""
        offset, event, block_id = placed
        self.values.append(event.value)
        if happened_ms < self.first[0]:
            self.first = happened_ms, offset, block_id, event.value
        if happened_ms >= self.last[0]:
            self.last = happened_ms, offset, block_id, event.value

    def totals(self) -> Totals:
        first_ms, offset, block_id, first = self.first
        first_at = position(first_ms, _event_id(offset, block_id))
        last_ms, offset, block_id, last = self.last
        last_at = position(last_ms, _event_id(offset, block_id))
        return _totals(self.values, first, first_at, last, last_at)


def _totals(
    values: Sequence[Decimal], first: Decimal, first_at: bytes, last: Decimal, last_at: bytes
) -> Totals:
    """Within a context that does not round."""
    if len(values) == 1:
        return Totals(1, first, first, first, first, first_at, last, last_at)
    total = sum(values, _ZERO)
    return Totals(len(values), total, min(values), max(values), first, first_at, last, last_at)


def _position(offset: int, block_id: bytes) -> bytes:
    """Of an event that happened when it was received."""
    return position(stamp_of(block_id).received_ms, _event_id(offset, block_id))


def _event_id(offset: int, block_id: bytes) -> bytes:
    """Of the event at that offset in its append."""
    return stamp_of(block_id).id(offset % BLOCK_EVENTS)


ByGroup = dict[str, Group]


class HourRecount:
    """One hour's events, counted in the order of the log."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        # By customer, then by event type; so many.
        self._groups: defaultdict[str, ByGroup] = defaultdict(dict)
        self._count = 0
        self._events = 0
        self._totals: dict[bytes, ByType] = {}
        self._aside: list[IO[bytes]] = []

    def count(self, customer_id: str, events: Sequence[Placed], *, are_dated: bool) -> None:
        """Counts these events of the customer's; ``are_dated`` says that some may tell when they
        happened.
        """
        by_type = self._groups[customer_id]
        self._events += len(events)
        received = self._received(by_type, events) if are_dated else events
        for offset, event, block_id in received:
            try:
                group = by_type[event.event_type]
            except KeyError:
                group = self._begin(by_type, event)
            if not group.values:
                group.first = offset, block_id
            group.values.append(event.value)
            group.offset = offset
            if group.block is not block_id:
                group.block = block_id
                group.blocks.append(block_id)

    def _received(self, by_type: ByGroup, events: Sequence[Placed]) -> Iterator[Placed]:
        """Those that happened when they were received; the others are counted here."""
        for one in events:
            _, event, block_id = one
            if event.timestamp_ms is None:
                yield one
                continue
            group = by_type.get(event.event_type) or self._begin(by_type, event)
            group.noted.append(block_id)
            if group.dated is None:
                group.dated = _Dated(event.timestamp_ms, one)
            else:
                group.dated.add(event.timestamp_ms, one)

    def note(self, event: UsageEvent, block_id: bytes) -> None:
        """An event of the block is counted in another hour, or no more."""
        by_type = self._groups[event.customer_id]
        group = by_type.get(event.event_type) or self._begin(by_type, event)
        group.noted.append(block_id)
        self._events += 1

    def _begin(self, by_type: ByGroup, event: UsageEvent) -> Group:
        self._count += 1
        group = by_type[event.event_type] = Group()
        return group

    @property
    def is_full(self) -> bool:
        """Whether it is time to fold."""
        return self._events > _EVENTS_MAX or self._count > _GROUPS_MAX

    def fold(self) -> dict[Name, list[bytes]]:
        """Takes what is gathered into the totals; gives back the blocks that it stands in, by
        customer and event type.
        """
        groups, self._groups = self._groups, defaultdict(dict)
        self._events = self._count = 0
        blocks = {}
        with localcontext(EXACT):
            for customer_id, by_type in groups.items():
                customer = keys.customer_key(keys.part_of(customer_id, self._parts), customer_id)
                totals = self._totals.get(customer, {})
                for event_type, group in by_type.items():
                    blocks[customer_id, event_type] = group.all_blocks()
                    if (added := group.totals()) is not None:
                        before = totals.get(event_type)
                        totals[event_type] = (
                            added if before is None else merge_totals(before, added)
                        )
                if totals:
                    self._totals[customer] = totals
        if len(self._totals) > _CUSTOMERS_MAX:
            self._put_aside()
        return blocks

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
