"""After a crash: posts what is in the log and was not yet posted, before any event is taken.

Events are counted once, whatever was posted when: every hour's totals say through which event they
count (``PeriodTotals.through``), and the account passes over the rest. Idempotency keys that are
there already are written as they are. Each transaction moves the mark along with what it posts, so
a crash in here costs nothing either, nor does a stop.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec
import structlog
import trio

from meterd.domain.account import Account
from meterd.domain.event_ids import stamp_of
from meterd.domain.hierarchy import belongs_to
from meterd.domain.idempotency import fingerprint
from meterd.domain.receipts import group_by_customer
from meterd.embedded import journal, log, outbox, records
from meterd.embedded.keys import idempotency_key, part_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from meterd.domain.changes import Change
    from meterd.domain.periods import Period, PeriodType
    from meterd.domain.receipts import Receipt
    from meterd.embedded.transaction import Transaction

T = TypeVar("T")

# In one transaction. Only totals, keys and ids of them are held, the events themselves one append
# at a time: 10 MB, also where each block is of other customers, and 30 where each event has a key.
_BLOCKS_AT_ONCE: Final = 2_000
_ATTEMPTS_AT_ONCE: Final = 500
# How often a long one says how far it is.
PROGRESS_SECONDS: Final = 5.0

_log = structlog.get_logger("recovery")


class Posted(msgspec.Struct, frozen=True):
    """How many blocks of events a transaction posted, and the id of the last event in them."""

    blocks: int
    through: bytes


class Execute(Protocol):
    """Runs the work in a transaction and returns when that is on disk."""

    async def __call__(self, work: Callable[[Transaction], T], /) -> T: ...


async def post_rest(execute: Execute, parts: int, last_received_ms: int) -> None:
    """Posts everything behind the mark; cancelled, it ends between two of its transactions.

    ``last_received_ms`` is when the last event came, for saying how much is left.
    """
    began_at = said_at = trio.current_time()
    blocks = 0
    while (posted := await execute(partial(post_some, parts=parts))).blocks:
        blocks += posted.blocks
        if trio.current_time() >= said_at + PROGRESS_SECONDS:
            said_at = trio.current_time()
            left_ms = last_received_ms - stamp_of(posted.through).received_ms
            _log.info("recovering", blocks=blocks, left=f"events of {left_ms / 1000:.1f} s")
    if blocks:
        took_s = trio.current_time() - began_at
        _log.info(
            "recovered: all events are in their totals", blocks=blocks, seconds=round(took_s, 1)
        )


async def put_back_attempts(execute: Execute, now_ms: Callable[[], int]) -> None:
    """What was being delivered when the last process ended is delivered again."""
    found = 0
    while some := await execute(lambda txn: outbox.recover(txn, now_ms(), _ATTEMPTS_AT_ONCE)):
        found += some
    if found:
        _log.warning("deliveries with an unknown outcome are sent again", deliveries=found)


def post_some(txn: Transaction, parts: int) -> Posted:
    """Posts what is next behind the mark, of no block if that was all."""
    accounts: dict[str, Account] = {}
    used: dict[bytes, bytes] = {}
    blocks, through = 0, b""
    closed_until_ms = journal.all_closed_until_ms(txn)
    for receipt in log.appends_from(txn, journal.posted_through(txn)):
        _count(txn, parts, receipt, accounts, closed_until_ms)
        _note_keys(parts, receipt, used)
        blocks, through = blocks + len(receipt.blocks), receipt.last_id
        if blocks >= _BLOCKS_AT_ONCE:
            break
    if blocks:
        journal.write_changes(txn, _changes(accounts), parts)
        for key in sorted(used):
            journal.write_used_key(txn, key, used[key])
        journal.write_posted(txn, through)
    return Posted(blocks, through)


def post_theirs(txn: Transaction, parts: int, customer_ids: Collection[str]) -> None:
    """Posts all of these customers behind the mark; the mark and keys stay as they are.

    For a transaction that is thrown away (``Store.try_out``).
    """
    accounts: dict[str, Account] = {}
    closed_until_ms = journal.all_closed_until_ms(txn)
    for receipt in log.appends_from(txn, journal.posted_through(txn)):
        _count(txn, parts, receipt, accounts, closed_until_ms, customer_ids)
    journal.write_changes(txn, _changes(accounts), parts)


def list_new(txn: Transaction, parts: int) -> None:
    """Of all that is behind the mark, only who was not known before, and since when; for the same.

    A tenth of the work, and none of the memory, that the totals of as many customers would take.
    """
    for receipt in log.appends_from(txn, journal.posted_through(txn)):
        for customer_id in {event.customer_id for event in receipt.events}:
            journal.note_customer(
                txn, part_of(customer_id, parts), customer_id, receipt.received_ms
            )


def _changes(accounts: Mapping[str, Account]) -> list[Change]:
    counted = (account.take_change() for account in accounts.values())
    return [change for change in counted if change is not None]


def _count(
    txn: Transaction,
    parts: int,
    receipt: Receipt,
    accounts: dict[str, Account],
    closed_until_ms: Mapping[PeriodType, int],
    customer_ids: Collection[str] | None = None,
) -> None:
    """Of these customers only, if they are given."""
    for customer_id, offsets in group_by_customer(receipt.events).items():
        if customer_ids is not None and customer_id not in customer_ids:
            continue
        account = accounts.get(customer_id)
        if account is None:
            account = accounts[customer_id] = Account(customer_id)
        part = part_of(customer_id, parts)
        for hour in receipt.by_hour(offsets):
            _take_in_hand(txn, part, account, hour)
            if receipt.is_dated and account.is_closed(hour, closed_until_ms):
                _take_in_hand(txn, part, account, *belongs_to(hour))
        account.append(receipt, offsets, closed_until_ms)


def _take_in_hand(txn: Transaction, part: int, account: Account, *periods: Period) -> None:
    for period in periods:
        if account.lacks(period):
            account.restore(period, journal.read_totals(txn, part, period, account.customer_id))


def _note_keys(parts: int, receipt: Receipt, used: dict[bytes, bytes]) -> None:
    for offset, event in enumerate(receipt.events):
        if event.idempotency_key:
            part = part_of(event.customer_id, parts)
            key = idempotency_key(part, event.customer_id, event.idempotency_key)
            used[key] = records.used_key(receipt.stamp.id(offset, part), fingerprint(event))
