"""What is void is an event of the log, and counts nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meterd.domain.event_ids import stamp_of
from meterd.domain.voids import Void
from meterd.embedded import keys, log, records
from meterd.embedded.store import PARTS
from tests.embedded.sample_store import copied_sample, differences, first_of, spoil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.embedded.transaction import Transaction

VOID = records.encode(Void("as agreed", 1))


def of_no_event(txn: Transaction) -> None:
    txn.put("voids", bytes(16), VOID)


def of_another_part(txn: Transaction) -> None:
    event_id = first_of(txn, "voids")
    txn.put("voids", event_id[:-1] + bytes((event_id[-1] ^ 1,)), VOID)


def behind_all_events(txn: Transaction) -> None:
    txn.put("voids", b"\xff" * 16, VOID)


def forgotten(txn: Transaction) -> None:
    txn.delete("voids", first_of(txn, "voids"))


def one_that_counts(txn: Transaction) -> None:
    for record_id in txn.keys_forward("events", b"", b""):
        event = log.event_at(txn, stamp_of(record_id))
        assert event is not None
        event_id = stamp_of(record_id).id(0, keys.part_of(event.customer_id, PARTS))
        if txn.put_new("voids", event_id, VOID):
            return


def without_a_reason(txn: Transaction) -> None:
    txn.put("voids", first_of(txn, "voids"), records.encode([1, 2]))


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (of_no_event, "there is no such event"),
        (of_another_part, "there is no such event"),
        (behind_all_events, "there is no such event"),
        (forgotten, "count"),
        (one_that_counts, "count"),
        (without_a_reason, "a reason and an instant"),
    ],
)
def test_it_is_found(tmp_path: Path, work: Callable[[Transaction], None], said: str) -> None:
    """Either as a void of no event, or by the totals that it is, or is not, in."""
    data = copied_sample(tmp_path)
    assert differences(data) == []
    spoil(data, work)
    assert any(said in found.line() for found in differences(data))
