"""What was published is behind what was published before, and nothing between was taken or put."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.digests import STALE
from meterd.domain.periods import PeriodType
from meterd.embedded import keys, records
from meterd.embedded.store import PARTS
from tests.embedded.sample_store import copied_sample, differences, first_of, spoil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.totals import PeriodTotals
    from meterd.embedded.transaction import Transaction

CUSTOMER = "acme"
PART = keys.part_of(CUSTOMER, PARTS)


def hours(txn: Transaction) -> list[tuple[bytes, Aggregation]]:
    """The customer's closed ones of its hours, of one revision, the newest first."""
    prefix = keys.period_type_prefix(PART, PeriodType.HOURLY)
    found = (
        (key, records.decode_aggregation(payload))
        for key, payload in txn.forward("aggregations", prefix, prefix)
    )
    return [
        (key, one)
        for key, one in found
        if one.customer_id == CUSTOMER and one.closed and one.revision == 1
    ]


def put(txn: Transaction, key: bytes, one: Aggregation) -> None:
    txn.put("aggregations", key, records.encode(one))


def one_names_another(txn: Transaction) -> None:
    (_, _), (key, one), (_, before), *_ = hours(txn)
    put(txn, key, msgspec.structs.replace(one, previous=before.previous))


def one_names_none(txn: Transaction) -> None:
    key, one = hours(txn)[3]
    put(txn, key, msgspec.structs.replace(one, previous=b""))


def one_was_made_at_another_time(txn: Transaction) -> None:
    key, one = hours(txn)[3]
    put(txn, key, msgspec.structs.replace(one, computed_ms=one.computed_ms + 1))


def the_last_is_not_known(txn: Transaction) -> None:
    txn.delete("published", keys.published_key(PART, CUSTOMER, PeriodType.HOURLY))


def the_last_is_another(txn: Transaction) -> None:
    txn.put("published", keys.published_key(PART, CUSTOMER, PeriodType.HOURLY), b"\x01" * 32)


def the_last_is_none(txn: Transaction) -> None:
    txn.put("published", keys.published_key(PART, CUSTOMER, PeriodType.HOURLY), b"short")


def the_last_of_nobody(txn: Transaction) -> None:
    txn.put("published", keys.published_key(PART, "nobody", PeriodType.HOURLY), b"\x01" * 32)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (one_names_another, "previous of revision 1"),
        (one_names_none, "previous of revision 1"),
        (one_was_made_at_another_time, "previous of revision 1"),
        (the_last_is_not_known, "digest"),
        (the_last_is_another, "digest"),
        (the_last_is_none, "digest"),
        (the_last_of_nobody, "record"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_it_is_said_where_the_chain_breaks(
    tmp_path: Path, work: Callable[[Transaction], None], said: str
) -> None:
    data = copied_sample(tmp_path)
    spoil(data, work)
    found = [one for one in differences(data) if one.table in {"aggregations", "published"}]
    assert said in [one.what for one in found]
    assert {one.customer_id for one in found} <= {CUSTOMER, "nobody"}


# What was digested


def totals(
    change: Callable[[PeriodTotals], PeriodTotals], kind: PeriodType
) -> Callable[[Transaction], None]:
    """The first closed totals of that type, changed."""

    def work(txn: Transaction) -> None:
        prefix = keys.period_type_prefix(PART, kind)
        for key, payload in txn.forward("totals", prefix, prefix):
            found = records.decode_totals(payload)
            if found.closed and found.chain != STALE and not found.late_since_ms:
                txn.put("totals", key, records.encode(change(found)))
                return

    return work


def other_chain(found: PeriodTotals) -> PeriodTotals:
    return msgspec.structs.replace(found, chain=b"\x01" * 32)


def other_metadata(txn: Transaction) -> None:
    """Of an event of the log: no total has it."""
    key = first_of(txn, "events")
    blocks = records.decode_record(txn.get("events", key) or b"")
    blocks[0].events = [
        msgspec.structs.replace(blocks[0].events[0], metadata=b'{"n":"another"}'),
        *blocks[0].events[1:],
    ]
    txn.put("events", key, records.encode(blocks))


def a_void_for_another_reason(txn: Transaction) -> None:
    key = first_of(txn, "voids")
    void = records.decode_void(txn.get("voids", key) or b"")
    txn.put("voids", key, records.encode(msgspec.structs.replace(void, reason="a gift")))


def a_void_at_another_place(txn: Transaction) -> None:
    key = first_of(txn, "voids")
    void = records.decode_void(txn.get("voids", key) or b"")
    txn.put("voids", key, records.encode(msgspec.structs.replace(void, behind=b"\x01" * 32)))


@pytest.mark.parametrize(
    ("work", "table"),
    [
        (totals(other_chain, PeriodType.HOURLY), "totals"),
        (totals(other_chain, PeriodType.DAILY), "totals"),
        (other_metadata, "totals"),
        (a_void_for_another_reason, "totals"),
        (a_void_at_another_place, "totals"),
    ],
    ids=["an hour", "a day", "metadata", "a void's reason", "a void's place"],
)
def test_what_no_total_shows_the_digest_does(
    tmp_path: Path, work: Callable[[Transaction], None], table: str
) -> None:
    data = copied_sample(tmp_path)
    spoil(data, work)
    found = differences(data)
    assert (table, "digest") in {(one.table, one.what) for one in found}
    # Keys know an event by all that it says.
    assert {one.table for one in found} <= {"totals", "aggregations", "idempotency_keys"}
