"""Which events are void, told while they are read, and found by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meterd.domain.event_ids import Stamp
from meterd.domain.receipts import receive
from meterd.domain.stored_events import StoredEvent
from meterd.domain.voids import Void
from meterd.embedded import keys, log, records, voids
from meterd.embedded.store import Store
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTS = 16
VOID = Void("as agreed", START_MS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data")
    yield store
    store.close()


def id_of(offset: int, part: int | None = None) -> bytes:
    return Stamp(START_MS, 100, 7).id(offset, keys.part_of("acme", PARTS) if part is None else part)


def stored(offset: int) -> StoredEvent:
    return StoredEvent(id_of(offset), event(value=offset), START_MS)


def take_back(store: Store, *offsets: int) -> None:
    def write(txn: object) -> None:
        for offset in offsets:
            txn.put("voids", id_of(offset), records.encode(VOID))  # type: ignore[attr-defined]

    store.write(write)


@pytest.mark.parametrize("void", [(), (0,), (9,), (4, 5), (0, 9), tuple(range(10)), (11, 12)])
@pytest.mark.parametrize("some", [range(10), range(0, 10, 2), range(5, 8), range(0)])
def test_events_are_marked_and_left_out(store: Store, void: tuple[int, ...], some: range) -> None:
    """Read last first, whichever of them are void, and others between them."""
    take_back(store, *void)
    events = [stored(offset) for offset in reversed(some)]
    with store.read() as txn:
        marked = list(voids.marked(txn, events))
        counting = list(voids.not_void(txn, events))
    assert [int(one.event.value) for one in marked] == list(reversed(some))
    for one in marked:
        assert one.void == (VOID if int(one.event.value) in void else None)
    assert counting == [one for one in marked if one.void is None]


def test_an_event_is_found_by_its_id(store: Store) -> None:
    """In whichever block and record, and by no other id."""
    for start, count in ((100, 150), (250, 1)):
        stamp = Stamp(START_MS, start, 7)
        receipt = receive(stamp, [event(value=start + number) for number in range(count)])
        store.write(lambda txn, receipt=receipt: log.write_receipts(txn, [receipt]))  # type: ignore[misc]
    take_back(store, 64)
    with store.read() as txn:
        for offset in (0, 1, 63, 64, 127, 128, 149, 150):
            found = voids.find_event(txn, PARTS, id_of(offset))
            assert found is not None
            assert (int(found.event.value), found.received_ms) == (100 + offset, START_MS)
            assert found.void == (VOID if offset == 64 else None)
        wrong_part = id_of(3, keys.part_of("acme", PARTS) ^ 1)
        for name in (id_of(-1), id_of(151), wrong_part, bytes(16), b"\xff" * 16):
            assert voids.find_event(txn, PARTS, name) is None
