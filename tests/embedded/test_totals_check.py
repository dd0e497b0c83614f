"""Longer periods are what their closed parts hand up; customers are those who have totals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.periods import PeriodType, period_at
from meterd.embedded import keys, records
from meterd.embedded.store import PARTS
from meterd.embedded.totals_check import join
from tests.embedded.sample_store import (
    copied_sample,
    differences,
    first_of,
    put_totals,
    spoil,
    totals_of,
)
from tests.ledger_bench import START_MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.domain.periods import Period
    from meterd.domain.totals import PeriodTotals
    from meterd.embedded.transaction import Transaction

HOUR, DAY, WEEK, MONTH, YEAR = (period_at(kind, START_MS) for kind in PeriodType)
ACME = keys.customer_key(keys.part_of("acme", PARTS), "acme")


def changed(totals: PeriodTotals) -> PeriodTotals:
    name, found = next(iter(totals.by_type.items()))
    other = msgspec.structs.replace(found, max=found.max + 1)
    return msgspec.structs.replace(totals, by_type={**totals.by_type, name: other})


@pytest.mark.parametrize("period", [DAY, WEEK, MONTH, YEAR], ids=lambda period: period.type)
def test_a_longer_period_is_held_against_its_parts(tmp_path: Path, period: Period) -> None:
    """A number that is not what they hand up, with the period, the type and both numbers."""
    data = copied_sample(tmp_path)

    def change(txn: Transaction) -> PeriodTotals:
        totals = totals_of(txn, period, "acme")
        put_totals(txn, period, "acme", changed(totals))
        return totals

    before = spoil(data, change)
    name, totals = next(iter(before.by_type.items()))
    wrong = [found for found in differences(data) if found.table == "totals"]
    assert {(found.customer_id, found.event_type, found.what) for found in wrong} == {
        ("acme", name, "max")
    }
    (found,) = [found for found in wrong if found.period == f"{period.type} {period.key}"]
    assert (found.stands, found.should) == (str(totals.max + 1), str(totals.max))


def a_day_is_missing(txn: Transaction) -> None:
    txn.delete("totals", keys.totals_key(ACME[0], DAY, "acme"))


def a_day_of_nobody(txn: Transaction) -> None:
    put_totals(txn, DAY, "zoe", totals_of(txn, DAY, "acme"))


def a_day_is_counted_like_an_hour(txn: Transaction) -> None:
    totals = totals_of(txn, DAY, "acme")
    put_totals(txn, DAY, "acme", msgspec.structs.replace(totals, through=b"\1" * 16))


def totals_in_another_part(txn: Transaction) -> None:
    record = records.encode(totals_of(txn, HOUR, "acme"))
    txn.put("totals", keys.totals_key((ACME[0] + 1) % PARTS, HOUR, "acme"), record)


def totals_of_no_part(txn: Transaction) -> None:
    record = records.encode(totals_of(txn, HOUR, "acme"))
    txn.put("totals", keys.totals_key(PARTS, HOUR, "acme"), record)


def a_day_that_begins_at_noon(txn: Transaction) -> None:
    key = keys.totals_key(ACME[0], DAY, "acme")
    noon = (DAY.start_ms // 3_600_000 + 12).to_bytes(4, "big")
    txn.put("totals", key[:2] + noon + key[6:], records.encode(totals_of(txn, DAY, "acme")))


@pytest.mark.parametrize(
    "work",
    [
        a_day_is_missing,
        a_day_of_nobody,
        a_day_is_counted_like_an_hour,
        totals_in_another_part,
        totals_of_no_part,
        a_day_that_begins_at_noon,
    ],
)
def test_it_is_found(tmp_path: Path, work: Callable[[Transaction], None]) -> None:
    """Of whichever kind the fault is."""
    data = copied_sample(tmp_path)
    spoil(data, work)
    found = [one for one in differences(data) if one.table == "totals"]
    assert {one.customer_id for one in found} <= {"acme", "zoe"}
    assert found


def a_customer_is_missing(txn: Transaction) -> None:
    txn.delete("customers", ACME)


def a_customer_without_totals(txn: Transaction) -> None:
    txn.put(
        "customers", keys.customer_key(keys.part_of("acme2", PARTS), "acme2"), records.number(1)
    )


def seen_at_another_time(txn: Transaction) -> None:
    txn.put("customers", ACME, records.number(START_MS + 1))


def a_customer_of_no_part(txn: Transaction) -> None:
    txn.put("customers", b"\xf0acme", records.number(START_MS))


@pytest.mark.parametrize(
    "work",
    [
        a_customer_is_missing,
        a_customer_without_totals,
        seen_at_another_time,
        a_customer_of_no_part,
    ],
)
def test_a_wrong_customer_is_found(tmp_path: Path, work: Callable[[Transaction], None]) -> None:
    """With what stands there and what should."""
    data = copied_sample(tmp_path)
    spoil(data, work)
    (found,) = differences(data)
    assert found.table == "customers"
    assert found.customer_id in {"acme", "acme2"}
    assert found.stands != found.should


def test_a_join_misses_nothing() -> None:
    """Keys of one side, of the other, and of both."""
    one = [(b"a", 1), (b"c", 2), (b"d", 3)]
    other = [(b"b", 4), (b"c", 5), (b"e", 6)]
    assert list(join(one, other)) == [
        (b"a", 1, None),
        (b"b", None, 4),
        (b"c", 2, 5),
        (b"d", 3, None),
        (b"e", None, 6),
    ]
    assert list(join([], other)) == [(key, None, value) for key, value in other]


def test_the_sample_has_what_this_is_about(tmp_path: Path) -> None:
    """Customers in several parts, or nothing is said of how they are told apart."""
    data = copied_sample(tmp_path)
    parts = spoil(data, lambda txn: {key[0] for key in txn.keys_forward("customers", b"", b"")})
    assert len(parts) > 3
    assert spoil(data, lambda txn: first_of(txn, "customers")) != ACME
