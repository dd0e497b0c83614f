"""Where thresholds that were reached stand, and in which order they are read."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.deliveries import DeliveryStatus
from meterd.domain.periods import PeriodType
from meterd.embedded import keys, outbox, reached, records
from meterd.embedded.store import PARTS, Store
from tests.domain.test_thresholds import MONTH, one

if TYPE_CHECKING:
    from pathlib import Path

PART = keys.part_of("acme", PARTS)


def test_each_is_written_once_with_its_deliveries(tmp_path: Path) -> None:
    """Who comes second changes nothing, not even what the first said."""
    first = one(endpoints=("billing", "crm"))
    second = one(value="99", endpoints=("billing", "third"))
    with closing(Store(tmp_path)) as store:
        assert store.write(lambda txn: reached.write(txn, PARTS, [first, first], 7)) == [first]
        assert store.write(lambda txn: reached.write(txn, PARTS, [second], 8)) == []
        with store.read() as txn:
            stored = txn.get("reached", reached.key_of(first, PARTS))
            assert stored is not None
            assert records.decode_reached(stored) == first
            assert txn.count("deliveries") == 2
            made = outbox.get(txn, "crm", 1)
            assert (made.status, made.next_attempt_ms) == (DeliveryStatus.PENDING, 7)


def test_they_are_read_by_customer_and_by_period(tmp_path: Path) -> None:
    """A customer's of types of period; those of one in the order in which they were reached."""
    later = one("90", reached_ms=2)
    sooner = one("100", reached_ms=1)
    day = one(period_type=PeriodType.DAILY)
    next_month = one(start_ms=MONTH.end_ms)
    others = [one(customer_id="acme2"), one(customer_id="acm")]
    with closing(Store(tmp_path)) as store:
        every = [later, sooner, day, next_month, *others]
        store.write(lambda txn: reached.write(txn, PARTS, every, 0))
        with store.read() as txn:
            assert reached.of_period(txn, PART, "acme", MONTH) == [sooner, later]
            monthly = list(reached.of_customer(txn, PART, "acme", [PeriodType.MONTHLY]))
            assert monthly == [sooner, later, next_month]
            assert list(reached.of_customer(txn, PART, "acme", PeriodType)) == [day, *monthly]


@pytest.mark.parametrize("after_ms", [5, 0, -5])
def test_who_is_told_afterwards_is_named(tmp_path: Path, after_ms: int) -> None:
    """So that its delivery is found, and known by a check; nothing is told before it was reached,
    by a clock that was set back.
    """
    first = one(endpoints=("billing",))
    now_ms = first.reached_ms + after_ms
    with closing(Store(tmp_path)) as store:
        store.write(lambda txn: reached.write(txn, PARTS, [first], 0))
        store.write(lambda txn: reached.tell_also(txn, PARTS, first, "new", now_ms, 6))
        with store.read() as txn:
            (noted,) = reached.of_period(txn, PART, "acme", MONTH)
            assert noted == msgspec.structs.replace(first, endpoints=("billing", "new"))
            assert outbox.get(txn, "new", 1).created_ms == max(now_ms, first.reached_ms)
