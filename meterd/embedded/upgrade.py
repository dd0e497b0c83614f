"""What an earlier format lacks, made of what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.deliveries import Delivery, DeliveryStatus
from meterd.domain.periods import RANK, PeriodType, period_at
from meterd.embedded import journal, keys, lines, outbox

if TYPE_CHECKING:
    from meterd.embedded.transaction import Transaction


class _Delivery4(msgspec.Struct, frozen=True, array_like=True):
    """A delivery of format 4 and before, under its id."""

    id: str
    endpoint_id: str
    customer_id: str
    period_type: PeriodType
    start_ms: int
    revision: int
    body: bytes
    created_ms: int
    next_attempt_ms: int
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    delivered_ms: int | None = None
    dry_run: bool = False
    last_error: str | None = None
    last_attempt_ms: int | None = None


_decode_4: Final = msgspec.msgpack.Decoder(_Delivery4).decode


def number_deliveries(txn: Transaction) -> None:
    """Format 5: deliveries have sequences, in the order of their periods' closing. Bodies stay as
    they are, without it.
    """
    for key in list(txn.keys_forward("outbox", b"", b"")):
        txn.delete("outbox", key)
    found = []
    for key, payload in txn.forward("deliveries", b"", b""):
        old = _decode_4(payload)
        found.append((old.created_ms, RANK[old.period_type], old.customer_id, key))
    for *_, key in sorted(found):
        old = _decode_4(txn.get("deliveries", key) or b"")
        txn.delete("deliveries", key)
        outbox.insert(txn, _upgraded(old, outbox.take_sequences(txn, old.endpoint_id, 1)))


def put_queue_in_order(txn: Transaction) -> None:
    """Format 6: in the queue stands only what may be sent, without its period what was begun.

    Format 5 could have an earlier delivery in it beside a later one of its customer, and while it
    was in the air itself, or not have it there while a batch of later ones was.
    """
    wrong = []
    for key, payload in txn.forward("outbox", b"", b""):
        endpoint_id = key.split(keys.END, 1)[0].decode()
        queued = outbox.get(txn, endpoint_id, keys.sequence_in(key))
        if not _may_be_sent(txn, queued) or lines.record_of(queued) != (key, payload):
            wrong.append((key, queued))
    txn.delete_all("outbox", [key for key, _ in wrong])
    for _, queued in wrong:
        for first in lines.firsts(txn, queued):
            if _may_be_sent(txn, first):
                lines.enqueue(txn, first)


def bring_closing_up(txn: Transaction) -> None:
    """Format 7: what closes before a closed period counts as closed, also where it had no events.

    Format 6 knew of each type by itself until when its periods are closed.
    """
    ends = journal.all_closed_until_ms(txn)
    last = [period_at(kind, until_ms - 1) for kind, until_ms in ends.items() if until_ms]
    if last:
        journal.write_closed(txn, max(last))


def mark_swept(txn: Transaction) -> None:
    """Format 10: says up to where indexes name nothing that was pruned. Before, that was all."""
    pruned = journal.read_pruned(txn)
    if pruned.events:
        swept = {"swept": pruned.through, "swept_events": pruned.events}
        journal.write_pruned(txn, msgspec.structs.replace(pruned, **swept))


def _may_be_sent(txn: Transaction, queued: Delivery) -> bool:
    is_waiting = queued.status is DeliveryStatus.PENDING and queued.begun_ms is None
    return is_waiting and lines.waits_for(txn, queued) is None


def _upgraded(old: _Delivery4, sequence: int) -> Delivery:
    return Delivery(
        id=old.id,
        endpoint_id=old.endpoint_id,
        sequence=sequence,
        customer_id=old.customer_id,
        period_type=old.period_type,
        start_ms=old.start_ms,
        revision=old.revision,
        body=old.body,
        created_ms=old.created_ms,
        next_attempt_ms=old.next_attempt_ms,
        status=old.status,
        attempts=old.attempts,
        failures=old.attempts if old.delivered_ms is None else max(0, old.attempts - 1),
        delivered_ms=old.delivered_ms,
        dry_run=old.dry_run,
        last_error=old.last_error,
        last_attempt_ms=old.last_attempt_ms,
    )
