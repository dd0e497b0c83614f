"""What closing has published is there, with those figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.aggregations import completed_body
from meterd.domain.deliveries import delivery_id
from meterd.domain.periods import period_at
from meterd.embedded import keys, records
from meterd.embedded.differences import period_name
from meterd.embedded.store import PARTS
from tests.embedded.sample_store import copied_sample, differences, put_totals, spoil, totals_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.domain.aggregations import Aggregation
    from meterd.embedded.store import Transaction


def closed(txn: Transaction) -> tuple[bytes, Aggregation]:
    """A closed one of several event types."""
    for key, payload in txn.forward("aggregations", b"", b""):
        found = records.decode_aggregation(payload)
        if found.closed and len(found.figures) > 1:
            return key, found
    raise AssertionError("there is none")


def delivery_keys(found: Aggregation) -> list[bytes]:
    return [delivery_id(each, found.id, found.revision).encode() for each in found.endpoints]


def it_is_gone_without_a_trace(txn: Transaction) -> Aggregation:
    key, found = closed(txn)
    txn.delete("aggregations", key)
    part = keys.part_of(found.customer_id, PARTS)
    by_customer = keys.customer_periods_prefix(part, found.customer_id, found.period_type)
    txn.delete("customer_periods", by_customer + keys.newest_first(found.start_ms))
    for name in delivery_keys(found):
        delivery = records.decode_delivery(txn.get("deliveries", name) or b"")
        due = keys.outbox_key(delivery.endpoint_id, delivery.next_attempt_ms, delivery.id)
        txn.delete("outbox", due)
        txn.delete("deliveries", name)
    return found


def a_figure_is_gone_everywhere(txn: Transaction) -> Aggregation:
    key, found = closed(txn)
    left = dict(list(found.figures.items())[1:])
    changed = msgspec.structs.replace(found, figures=left)
    txn.put("aggregations", key, records.encode(changed))
    for name in delivery_keys(found):
        delivery = records.decode_delivery(txn.get("deliveries", name) or b"")
        body = msgspec.structs.replace(delivery, body=completed_body(changed))
        txn.put("deliveries", name, records.encode(body))
    return found


@pytest.mark.parametrize(
    ("work", "what"),
    [(it_is_gone_without_a_trace, "record"), (a_figure_is_gone_everywhere, "figures")],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_it_is_found(tmp_path: Path, work: Callable[[Transaction], Aggregation], what: str) -> None:
    """Though nothing else differs."""
    data = copied_sample(tmp_path)
    wrong = spoil(data, work)
    (found,) = differences(data)
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
    assert differences(data) == []
