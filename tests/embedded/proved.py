"""Proves whatever a data folder's store can prove."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.domain.proofs import check
from meterd.embedded import journal, keys, records
from meterd.embedded.proving import Proving, find
from meterd.embedded.snapshot import open_snapshot
from meterd.embedded.store import PARTS

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.domain.proofs import Proved
    from meterd.embedded.transaction import Transaction


def prove_all(txn: Transaction) -> dict[str, Proved]:
    """By id, each closed aggregation that no revision is due of; of what is pruned the digests."""
    found, pruned_until_ms = {}, journal.read_pruned(txn).until_ms
    for _, payload in txn.forward("aggregations", b"", b""):
        one = records.decode_aggregation(payload)
        if not one.closed:
            continue
        part = keys.part_of(one.customer_id, PARTS)
        totals = journal.read_totals(txn, part, one.period, one.customer_id)
        assert totals is not None
        if totals.late_since_ms:
            continue
        proved = prove(txn, one.id)
        assert (proved.digest, proved.revision) == (one.digest.hex(), one.revision)
        if proved.pruned:
            assert one.start_ms < pruned_until_ms
        else:
            assert proved.events >= one.event_count
        found[one.id] = proved
    return found


def prove(txn: Transaction, name: str) -> Proved:
    """The aggregation of that id, by what is written of it."""
    one = find(txn, PARTS, name)
    lines = list(Proving(txn, PARTS, one.customer_id).lines(one))
    return check(lambda: lines)


def prove_in(folder: Path) -> dict[str, Proved]:
    """See ``prove_all``, of a folder that nobody has open."""
    with open_snapshot(folder) as snapshot:
        return prove_all(snapshot.transaction())
