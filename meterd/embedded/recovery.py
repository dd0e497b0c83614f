"""After a crash: posts what is in the log and was not yet posted, before anything is served.

Events are counted once, whatever was posted when: every hour's totals say through which event they
count (``PeriodTotals.through``), and the account passes over the rest. Idempotency keys that are
there already are written as they are. Each transaction moves the mark along with what it posts, so
a crash in here costs nothing either.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from meterd.domain.account import Account
from meterd.domain.idempotency import fingerprint
from meterd.domain.receipts import group_by_customer
from meterd.embedded import journal, log, records
from meterd.embedded.keys import idempotency_key, part_of

if TYPE_CHECKING:
    from meterd.domain.receipts import Receipt
    from meterd.embedded.store import Store, Transaction

# In one transaction. Only totals, keys and ids of them are held, the events themselves one record
# at a time: 10 MB, also where each block is of other customers, and 30 where each event has a key.
_BLOCKS_AT_ONCE: Final = 2_000


def post_rest(store: Store) -> int:
    """Posts everything behind the mark; how many blocks of events were read."""
    read = 0
    while blocks := store.write(lambda txn: _post_some(txn, store.parts)):
        read += blocks
    return read


def _post_some(txn: Transaction, parts: int) -> int:
    accounts: dict[str, Account] = {}
    used: dict[bytes, bytes] = {}
    blocks, through = 0, b""
    for receipt in islice(log.read_from(txn, journal.posted_through(txn)), _BLOCKS_AT_ONCE):
        _count(txn, parts, receipt, accounts)
        _note_keys(parts, receipt, used)
        blocks, through = blocks + 1, receipt.last_id
    if blocks:
        counted = (account.take_change() for account in accounts.values())
        changes = [change for change in counted if change is not None]
        journal.write_changes(txn, changes, parts)
        for key in sorted(used):
            journal.write_used_key(txn, key, used[key])
        journal.write_posted(txn, through)
    return blocks


def _count(txn: Transaction, parts: int, receipt: Receipt, accounts: dict[str, Account]) -> None:
    for customer_id, offsets in group_by_customer(receipt.events).items():
        account = accounts.get(customer_id)
        if account is None:
            account = accounts[customer_id] = Account(customer_id)
        if account.lacks(receipt.hour):
            part = part_of(customer_id, parts)
            stored = journal.read_totals(txn, part, receipt.hour, customer_id)
            account.restore(receipt.hour, stored)
        account.append(receipt, offsets)


def _note_keys(parts: int, receipt: Receipt, used: dict[bytes, bytes]) -> None:
    for offset, event in enumerate(receipt.events):
        if event.idempotency_key:
            part = part_of(event.customer_id, parts)
            key = idempotency_key(part, event.customer_id, event.idempotency_key)
            used[key] = records.used_key(receipt.stamp.id(offset, part), fingerprint(event))
