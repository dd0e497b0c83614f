"""An hour's events counted again are those of totals, wherever they are put meanwhile."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.errors import StoreError
from meterd.domain.event_ids import Stamp, position
from meterd.domain.receipts import receive
from meterd.domain.totals import totals_of
from meterd.embedded import keys, recount
from meterd.embedded.appended import Append
from meterd.embedded.log import Block
from meterd.embedded.recount import HourRecount
from meterd.embedded.store import PARTS
from tests.ledger_bench import START_MS, event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.events import UsageEvent
    from meterd.domain.totals import Totals

CUSTOMERS = ("a", "b", "c", "d", "Ærø")
TYPES = ("x", "y")
EVENTS = [
    event(CUSTOMERS[number * number % 5], TYPES[number * number // 3 % 2], number % 7 - 3)
    for number in range(600)
]


def count(
    hour: HourRecount, block: Stamp, events: Sequence[UsageEvent], begins_at: int = 0
) -> None:
    """Counts a block, customer by customer."""
    append = Append(Block(block.id(), block, events, begins_at))
    append.add((begins_at + place, one, block.id()) for place, one in enumerate(events))
    for customer_id, placed in append.by_customer.items():
        hour.count(customer_id, placed, are_dated=True)


def by_hand() -> dict[bytes, dict[str, Totals]]:
    found: dict[bytes, dict[str, Totals]] = {}
    for customer_id in CUSTOMERS:
        for event_type in TYPES:
            places = [
                number
                for number, one in enumerate(EVENTS)
                if (one.customer_id, one.event_type) == (customer_id, event_type)
            ]
            if places:
                ids = [position(START_MS, Stamp(START_MS, 5, 7).id(number)) for number in places]
                customer = keys.customer_key(keys.part_of(customer_id, PARTS), customer_id)
                values = [EVENTS[number].value for number in places]
                totals = totals_of(values, ids[0], ids[-1])
                found.setdefault(customer, {})[event_type] = totals
    return found


@pytest.mark.parametrize(
    ("events_max", "customers_max"), [(10_000, 10_000), (70, 10_000), (70, 1), (1, 1), (1, 3)]
)
def test_it_comes_out_the_same(
    monkeypatch: pytest.MonkeyPatch, events_max: int, customers_max: int
) -> None:
    """In the order of customers' keys, however often it is folded and put aside."""
    monkeypatch.setattr(recount, "_EVENTS_MAX", events_max)
    monkeypatch.setattr(recount, "_CUSTOMERS_MAX", customers_max)
    receipt = receive(Stamp(START_MS, 5, 7), EVENTS)
    hour, blocks = HourRecount(PARTS), []
    for begin in range(0, len(EVENTS), 64):
        count(hour, receipt.stamp.later(begin), EVENTS[begin : begin + 64], begin)
        if hour.is_full:
            blocks += [one for found in hour.fold().values() for one in found]
    blocks += [one for found in hour.fold().values() for one in found]
    counted = list(hour.totals())
    hour.close()
    assert dict(counted) == by_hand()
    assert [customer for customer, _ in counted] == sorted(by_hand())
    assert set(blocks) == set(receipt.blocks)


def test_events_in_any_order_of_their_own_time() -> None:
    """First and last are those by their own time, then by the order of storing."""
    happened = [START_MS + 37 * number % 11 for number in range(len(EVENTS))]
    dated = [
        msgspec.structs.replace(one, timestamp_ms=None if number % 5 == 0 else happened_ms)
        for number, (one, happened_ms) in enumerate(zip(EVENTS, happened, strict=True))
    ]
    receipt = receive(Stamp(START_MS + 5, 5, 7), dated)
    hour = HourRecount(PARTS)
    for begin in range(0, len(dated), 64):
        count(hour, receipt.stamp.later(begin), dated[begin : begin + 64], begin)
    hour.fold()
    for customer, by_type in hour.totals():
        for event_type, found in by_type.items():
            places = sorted(
                (
                    number
                    for number, one in enumerate(dated)
                    if (one.customer_id.encode(), one.event_type) == (customer[1:], event_type)
                ),
                key=receipt.position,
            )
            first_at, last_at = receipt.position(places[0]), receipt.position(places[-1])
            values = [dated[number].value for number in places]
            assert found == totals_of(values, first_at, last_at)


def test_it_is_folded_before_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """By events, and by how many customers and types they are of."""
    monkeypatch.setattr(recount, "_GROUPS_MAX", 3)
    hour = HourRecount(PARTS)
    for customer_id in CUSTOMERS[:4]:
        assert not hour.is_full
        count(hour, Stamp(START_MS, 1, 1), [event(customer_id)])
    assert hour.is_full
    hour.fold()
    assert not hour.is_full


def two_customers(monkeypatch: pytest.MonkeyPatch) -> HourRecount:
    """Of which one is to be put aside."""
    monkeypatch.setattr(recount, "_CUSTOMERS_MAX", 1)
    counting = HourRecount(PARTS)
    count(counting, Stamp(START_MS, 0, 7), [event("a"), event("b")])
    return counting


def test_a_full_disk_of_temporary_files_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And how to name another."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full = Path("/dev/full").open("w+b")  # noqa: SIM115 - closed with what it is part of
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full)
    counting = two_customers(monkeypatch)
    with pytest.raises(StoreError, match=rf"^{tmp_path}: cannot be written: No space .* TMPDIR"):
        counting.fold()
    counting.close()
    assert full.closed


def test_a_machine_without_room_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A container that may write nowhere but to its data, say."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match=r"nowhere.*another folder in TMPDIR"):
        two_customers(monkeypatch).fold()


def test_blocks_of_what_counts_elsewhere_are_given_back_in_order() -> None:
    """With those of what counts here, each once."""
    hour = HourRecount(PARTS)
    first, second = Stamp(START_MS, 0, 7), Stamp(START_MS, 64, 7)
    hour.note(event("a", "x"), second.id())
    hour.note(event("a", "y"), second.id())
    count(hour, first, [event("a", "x"), event("a", "x")])
    count(hour, second, [event("a", "x")], 64)
    assert hour.fold() == {("a", "x"): [first.id(), second.id()], ("a", "y"): [second.id()]}
    assert [(name, set(by_type)) for name, by_type in hour.totals()] == [
        (keys.customer_key(keys.part_of("a", PARTS), "a"), {"x"})
    ]
