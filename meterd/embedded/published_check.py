"""Holds aggregations against what the closing of their period has published.

Totals say it by a digest of the figures, so an aggregation cannot go, or be changed, and take its
index and its deliveries with it. Totals without a digest are not judged: nothing was published, or
by a meterd that wrote none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.domain.aggregations import figures_digest
from meterd.embedded import keys, records
from meterd.embedded.differences import NOTHING, Difference, at_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.embedded.transaction import Transaction


def check_published(txn: Transaction) -> Iterator[Difference]:
    """Both tables are in the same order but for time, so neighbours stand on one page."""
    for totals_key, payload in txn.forward("totals", b"", b""):
        published = records.decode_closed(payload).published
        if not published:
            continue
        key = keys.aggregation_key_of(totals_key)
        stored = txn.get("aggregations", key)
        if stored is None:
            should = f"there: figures {published.hex()} were published"
            yield at_key("aggregations", key, "record", NOTHING, should)
            continue
        found = figures_digest(records.decode_aggregation(stored))
        if found != published:
            yield at_key("aggregations", key, "figures", found.hex(), published.hex())
