"""What is put into a record comes out of it, to the last digit."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from meterd.domain.account import EventBlock, PlacedEvent
from meterd.domain.aggregations import Aggregation, Figure
from meterd.domain.deliveries import begin_attempt, first_attempt
from meterd.domain.event_ids import COUNTER_LIMIT, NONCE_LIMIT, Stamp
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType
from meterd.domain.totals import PeriodTotals, totals_of
from meterd.embedded import records
from tests.ledger_bench import START_MS, event

VALUES = ["1", "-0", "0.30", "9007199254740993", "1E+308", "-1E-400", "0." + "1" * 64]
AGGREGATION = Aggregation(
    "Ærø",
    PeriodType.WEEKLY,
    START_MS,
    1,
    closed=True,
    created_ms=START_MS + 1,
    computed_ms=START_MS + 2,
    figures={"Größe": Figure(Operation.AVG, Decimal("0.30"), 7)},
    endpoints=("billing", "crm"),
)


def test_a_block_gives_its_events_back() -> None:
    """Ids, values and metadata, in the order sent, from the key's stamp and the record alone."""
    stamp = Stamp(START_MS, COUNTER_LIMIT - 1000, NONCE_LIMIT - 1)
    sent = [event("Ærø", "sum", value, b'{"a": 1}') for value in VALUES]
    placed = tuple(PlacedEvent(offset * 7, one) for offset, one in enumerate(sent))
    payload = records.encode_block(EventBlock(stamp, "sum", placed))
    found = records.decode_block(payload, stamp.id(), 9, "Ærø", "sum")
    assert [one.event for one in found] == sent
    assert [str(one.event.value) for one in found] == VALUES
    assert [one.id for one in found] == [stamp.id(one.offset, 9) for one in placed]
    assert {one.received_ms for one in found} == {START_MS}


@pytest.mark.parametrize("events", [1, 2, 255, 256, 1000, 65_535])
def test_a_block_says_first_how_many_events_it_has(events: int) -> None:
    """The count is read without reading the events."""
    placed = tuple(PlacedEvent(offset, event()) for offset in range(events))
    payload = records.encode_block(EventBlock(Stamp(START_MS, 0, 0), "sum", placed))
    assert records.read_count(payload[:2]) == records.read_count(payload) == events
    assert records.count(events) == payload[:2]


def test_totals_keep_all_digits() -> None:
    """Sum, least, greatest, first and last with their positions."""
    values = [Decimal(value) for value in VALUES]
    totals = totals_of(values, b"\x01" * 24, b"\x02" * 24)
    kept = PeriodTotals(closed=True, by_type={"Größe": totals})
    found = records.decode_totals(records.encode(kept))
    assert found == kept
    assert str(found.by_type["Größe"].sum) == str(totals.sum)


def test_an_aggregation_and_a_delivery_keep_every_field() -> None:
    """Each value is another, so that none can stand for another."""
    delivery = msgspec.structs.replace(
        begin_attempt(first_attempt(AGGREGATION, "crm", b'{"\xc3\xb8":1}', 3), 4),
        delivered_ms=5,
        dry_run=True,
        last_error="HTTP 500",
    )
    assert records.decode_aggregation(records.encode(AGGREGATION)) == AGGREGATION
    assert records.decode_delivery(records.encode(delivery)) == delivery


def test_numbers() -> None:
    """None was ever written: that reads as zero."""
    assert records.read_number(None) == 0
    assert [records.read_number(records.number(n)) for n in (0, 1, 1 << 63)] == [0, 1, 1 << 63]
