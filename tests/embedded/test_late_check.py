"""What is late in totals is in the queue, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.embedded import keys, records
from tests.embedded.sample_store import copied_sample, differences, first_of, spoil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.embedded.transaction import Transaction


def a_place_is_missing(txn: Transaction) -> None:
    txn.delete("late", first_of(txn, "late"))


def a_place_too_many(txn: Transaction) -> None:
    totals_key = keys.late_totals_key(first_of(txn, "late"))
    txn.put("late", keys.late_start(1) + totals_key, b"")


def late_and_open(txn: Transaction) -> None:
    key = keys.late_totals_key(first_of(txn, "late"))
    stands = records.decode_totals(txn.get("totals", key) or b"")
    txn.put("totals", key, records.encode(msgspec.structs.replace(stands, closed=False)))


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (a_place_is_missing, "should be late since"),
        (a_place_too_many, "no such event came late"),
        (late_and_open, "never, as it is open"),
    ],
)
def test_it_is_found(tmp_path: Path, work: Callable[[Transaction], None], said: str) -> None:
    """Named by customer and period."""
    data = copied_sample(tmp_path)
    assert differences(data) == []
    spoil(data, work)
    assert any(said in found.line() for found in differences(data))
