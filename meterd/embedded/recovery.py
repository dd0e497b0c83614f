"""After a crash: posts what is in the log and was not yet posted, before anything is served.

Events are counted once, whatever was posted when: every hour's totals say through which event they
count (``PeriodTotals.through``), and the account passes over the rest. Each transaction moves the
mark along with what it posts, so a crash in here costs nothing either.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from meterd.domain.account import Account
from meterd.domain.receipts import group_by_customer
from meterd.embedded import journal, log
from meterd.embedded.keys import part_of

if TYPE_CHECKING:
    from meterd.domain.account import Change
    from meterd.domain.receipts import Receipt
    from meterd.embedded.store import Store, Transaction

# In one transaction: a few megabytes of memory.
_BLOCKS_AT_ONCE: Final = 2_000


def post_rest(store: Store) -> int:
    """Posts everything behind the mark; how many blocks of events were read."""
    read = 0
    while blocks := store.write(lambda txn: _post_some(txn, store.parts)):
        read += blocks
    return read


def _post_some(txn: Transaction, parts: int) -> int:
    receipts = list(islice(log.read_from(txn, journal.posted_through(txn)), _BLOCKS_AT_ONCE))
    if receipts:
        changes = _counted(txn, parts, receipts)
        journal.write_changes(txn, changes, parts)
        journal.write_posted(txn, receipts[-1].last_id)
    return len(receipts)


def _counted(txn: Transaction, parts: int, receipts: list[Receipt]) -> list[Change]:
    """What these events change in their customers' accounts."""
    accounts: dict[str, Account] = {}
    for receipt in receipts:
        for customer_id, offsets in group_by_customer(receipt.events).items():
            account = accounts.get(customer_id)
            if account is None:
                account = accounts[customer_id] = Account(customer_id)
            if account.lacks(receipt.hour):
                part = part_of(customer_id, parts)
                stored = journal.read_totals(txn, part, receipt.hour, customer_id)
                account.restore(receipt.hour, stored)
            account.append(receipt, offsets)
    return [
        change for account in accounts.values() if (change := account.take_change()) is not None
    ]
