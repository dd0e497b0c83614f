"""How an engine is doing: what waits in it, what it has done, and how much room it has.

Read in one short snapshot, for whoever watches meterd; nothing decides by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meterd.domain.counts import CommitCounts
from meterd.domain.periods import Period
from meterd.embedded import journal
from meterd.embedded.delivery_queries import read_endpoints
from meterd.embedded.store import LMDB_VERSION, Space
from meterd.ledger import EndpointSummary

if TYPE_CHECKING:
    from meterd.embedded.store import Store
    from meterd.embedded.transaction import Transaction


class Backlog(msgspec.Struct, frozen=True):
    """Events that wait for the disk, events that are not in totals on disk and keys that are not in
    the index, and how many customers are awake.
    """

    in_flight: int
    unposted: int
    unposted_keys: int
    awake: int


class VitalSigns(msgspec.Struct, frozen=True):
    """``next_to_close`` is the first period with totals on disk that is not closed.

    ``pending`` and ``parked`` are of all endpoints, and exact; ``endpoints`` are counted up to
    COUNTED_MAX each.
    """

    backlog: Backlog
    commits: CommitCounts
    space: Space
    next_to_close: Period | None
    pending: int
    parked: int
    endpoints: list[EndpointSummary]
    lmdb_version: str
    pruned_events: int = 0


def read_vital_signs(
    txn: Transaction, store: Store, backlog: Backlog, commits: CommitCounts
) -> VitalSigns:
    """All of it as of that snapshot but what is counted in memory."""
    return VitalSigns(
        backlog,
        commits,
        store.space(txn),
        journal.next_to_close(txn, store.parts),
        txn.count("outbox_by_customer"),
        txn.count("parked"),
        read_endpoints(txn),
        LMDB_VERSION,
        journal.read_pruned(txn).events,
    )
