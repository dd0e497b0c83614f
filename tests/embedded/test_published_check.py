"""What closing has published is there, with those figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.aggregations import completed_body
from meterd.domain.deliveries import delivery_id, numbered
from meterd.domain.periods import period_at
from meterd.embedded import keys, outbox, records
from meterd.embedded.differences import period_name
from meterd.embedded.store import PARTS
from tests.embedded.sample_store import copied_sample, differences, put_totals, spoil, totals_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.domain.aggregations import Aggregation
    from meterd.domain.deliveries import Delivery
    from meterd.embedded.differences import Difference
    from meterd.embedded.transaction import Transaction


def closed(txn: Transaction) -> tuple[bytes, Aggregation]:
    """A closed one of several event types."""
    for key, payload in txn.forward("aggregations", b"", b""):
        found = records.decode_aggregation(payload)
        if found.closed and len(found.figures) > 1:
            return key, found
    raise AssertionError("there is none")


def deliveries_of(txn: Transaction, found: Aggregation) -> list[Delivery]:
    made = [
        outbox.find(txn, delivery_id(each, found.id, found.revision)) for each in found.endpoints
    ]
    return [one for one in made if one is not None]


def it_is_gone_without_a_trace(txn: Transaction) -> Aggregation:
    key, found = closed(txn)
    txn.delete("aggregations", key)
    part = keys.part_of(found.customer_id, PARTS)
    by_customer = keys.customer_periods_prefix(part, found.customer_id, found.period_type)
    txn.delete("customer_periods", by_customer + keys.newest_first(found.start_ms))
    for one in deliveries_of(txn, found):
        txn.delete("outbox", keys.outbox_key(one.endpoint_id, one.next_attempt_ms, one.sequence))
        txn.delete("deliveries", keys.delivery_key(one.endpoint_id, one.sequence))
        txn.delete("delivery_ids", keys.delivery_name(one.id) or b"")
        by_customer = keys.outbox_customer_prefix(one.endpoint_id, one.customer_id)
        txn.delete("outbox_by_customer", by_customer + keys.outbox_place(one.period, one.revision))
    return found


def a_figure_is_gone_everywhere(txn: Transaction) -> Aggregation:
    key, found = closed(txn)
    left = dict(list(found.figures.items())[1:])
    changed = msgspec.structs.replace(found, figures=left)
    txn.put("aggregations", key, records.encode(changed))
    for one in deliveries_of(txn, found):
        key = keys.delivery_key(one.endpoint_id, one.sequence)
        body = numbered(msgspec.structs.replace(one, body=completed_body(changed)), one.sequence)
        txn.put("deliveries", key, records.encode(body))
    return found


def is_left_open(found: Difference) -> bool:
    """Sequences have gaps where deliveries are gone, and digests where an aggregation is."""
    return found.table == "published" or found.what.startswith(("sequence", "previous of"))


@pytest.mark.parametrize(
    ("work", "what"),
    [(it_is_gone_without_a_trace, "record"), (a_figure_is_gone_everywhere, "figures")],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_it_is_found(tmp_path: Path, work: Callable[[Transaction], Aggregation], what: str) -> None:
    """Though nothing else of it differs but what it leaves open."""
    data = copied_sample(tmp_path)
    wrong = spoil(data, work)
    (found,) = [one for one in differences(data) if not is_left_open(one)]
    named = (found.table, found.what, found.customer_id, found.period)
    assert named == ("aggregations", what, wrong.customer_id, period_name(wrong.period))


def test_totals_of_before_are_not_judged(tmp_path: Path) -> None:
    """They say nothing of what was published."""

    def work(txn: Transaction) -> None:
        found = it_is_gone_without_a_trace(txn)
        period = period_at(found.period_type, found.start_ms)
        totals = totals_of(txn, period, found.customer_id)
        assert totals.published
        without = msgspec.structs.replace(totals, published=b"")
        put_totals(txn, period, found.customer_id, without)

    data = copied_sample(tmp_path)
    spoil(data, work)
    assert all(map(is_left_open, differences(data)))
