"""What a start will post can be read before, in a transaction that is thrown away."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from meterd.embedded import recovery
from meterd.embedded.store import PARTS
from tests.embedded.test_log import fresh_store
from tests.embedded.test_recovery import (
    CUSTOMERS,
    STEPS,
    check,
    everything,
    live,
    recover,
    stored_customers,
    stored_hours,
    stored_index,
)

if TYPE_CHECKING:
    from meterd.embedded.transaction import Transaction


@given(STEPS, st.sets(st.sampled_from(CUSTOMERS)))
def test_what_is_tried_out_is_what_will_be_posted(steps: list[Any], some: set[str]) -> None:
    """Of these customers; of the others it is what was posted; and who is known at all. Nothing is
    changed.
    """

    def tried(txn: Transaction, customer_ids: set[str]) -> list[Any]:
        recovery.post_theirs(txn, PARTS, customer_ids)
        return [theirs(txn, name) for name in CUSTOMERS]

    def listed(txn: Transaction) -> dict[str, Any]:
        recovery.list_new(txn, PARTS)
        return stored_customers(txn)

    with fresh_store() as store:
        receipts = live(store, steps)
        before = everything(store)
        with store.read() as txn:
            posted = [theirs(txn, name) for name in CUSTOMERS]
        tried_some = store.try_out(partial(tried, customer_ids=some))
        tried_all = store.try_out(partial(tried, customer_ids=set(CUSTOMERS)))
        known = store.try_out(listed)
        assert everything(store) == before
        recover(store)
        check(store, receipts)
        with store.read() as txn:
            assert tried_all == [theirs(txn, name) for name in CUSTOMERS]
            assert known == stored_customers(txn)
        for number, name in enumerate(CUSTOMERS):
            assert tried_some[number] == (tried_all if name in some else posted)[number]


def theirs(txn: Transaction, customer_id: str) -> list[Any]:
    """All that is posted of a customer."""
    return [
        {place: found for place, found in stored_hours(txn).items() if place[0] == customer_id},
        {place: found for place, found in stored_index(txn).items() if place[0] == customer_id},
        stored_customers(txn).get(customer_id),
    ]
