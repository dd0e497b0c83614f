"""What is put into a record comes out of it, to the last digit."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from meterd.domain.aggregations import Aggregation, Figure
from meterd.domain.deliveries import begin_attempt, first_attempt
from meterd.domain.event_ids import Stamp
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType
from meterd.domain.totals import PeriodTotals, totals_of
from meterd.embedded import records
from meterd.embedded.records import LoggedBlock
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


def test_a_record_gives_its_blocks_back() -> None:
    """Customers, types, values to the last digit and metadata, in the order sent."""
    names = [("acme", "sum"), ("Ærø", "Größe")]
    blocks = [
        LoggedBlock(counter, -counter, [event(*names[n % 2], value, b'{"a": 1}') for n in range(2)])
        for counter, value in enumerate(VALUES)
    ]
    found = records.decode_record(records.encode(blocks))
    assert found == blocks
    assert [[str(one.value) for one in block.events] for block in found] == [
        [value] * 2 for value in VALUES
    ]


def test_a_block_is_stamped_later_than_its_record() -> None:
    """By milliseconds and by the counter, which goes back where it was used up."""
    record = Stamp(START_MS, 1000, 7)
    assert LoggedBlock(0, 0, []).stamp(record) == record
    assert LoggedBlock(3, 64, []).stamp(record) == Stamp(START_MS + 3, 1064, 7)
    assert LoggedBlock(1, -1000, []).stamp(record) == Stamp(START_MS + 1, 0, 7)


def test_block_ids_stand_one_after_another() -> None:
    """As many as there are."""
    ids = [Stamp(START_MS, counter, 7).id() for counter in range(3)]
    for count in range(4):
        assert records.split_block_ids(b"".join(ids[:count])) == ids[:count]


def test_totals_keep_all_digits() -> None:
    """Sum, least, greatest, first and last with their positions; and through which event."""
    values = [Decimal(value) for value in VALUES]
    totals = totals_of(values, b"\x01" * 24, b"\x02" * 24)
    through = Stamp(START_MS, 9, 7).id()
    kept = PeriodTotals(
        closed=True, by_type={"Größe": totals}, through=through, published=b"\x03" * 8
    )
    found = records.decode_totals(records.encode(kept))
    assert found == kept
    assert str(found.by_type["Größe"].sum) == str(totals.sum)


def test_totals_without_a_digest_can_be_read() -> None:
    """As they were written before there was one; and it is read without the rest."""
    kept = PeriodTotals(closed=True, by_type={}, through=b"\1" * 16, published=b"\3" * 8)
    assert records.decode_closed(records.encode(kept)).published == kept.published
    old = records.encode([True, {}, b"\1" * 16])
    assert records.decode_totals(old) == msgspec.structs.replace(kept, published=b"")
    assert records.decode_closed(old).published == b""


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
