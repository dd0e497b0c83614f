"""Holds what was published against what was published before: each closed aggregation of a
customer and type of period names the digest of the one before it, and the store the last one's.

All of them together are looked at first, in no order: what is named as the one before, and as the
last one, is what there is, each once. So nothing is held. Only where that is not so each customer's
are followed, to say where.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from meterd.domain.digests import START
from meterd.domain.periods import RANK, PeriodType
from meterd.embedded import journal, keys, trail
from meterd.embedded.differences import NOTHING, Difference, at_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.aggregations import Aggregation
    from meterd.embedded.transaction import Transaction


class TrailCheck:
    """See above."""

    def __init__(self, txn: Transaction, parts: int) -> None:
        self._txn = txn
        self._parts = parts
        # What is there less what is named: 0 where each is named once.
        self._left = 0

    def note(self, aggregation: Aggregation) -> None:
        """One revision of one that is closed; every one comes, in any order."""
        if aggregation.previous:
            self._left += int.from_bytes(aggregation.digest, "big")
            self._left -= int.from_bytes(aggregation.previous, "big")

    def finish(self) -> Iterator[Difference]:
        """When all were noted."""
        for key, digest in self._txn.forward("published", b"", b""):
            self._left += int.from_bytes(START, "big") - int.from_bytes(digest, "big")
            yield from self._key_faults(key, digest)
        if self._left:
            yield from self._follow()

    def _key_faults(self, key: bytes, digest: bytes) -> Iterator[Difference]:
        customer, _, kind = key[1:].partition(keys.END)
        is_known = len(kind) == 1 and kind[0] < len(RANK)
        if not is_known or key[0] != keys.part_of(customer.decode(), self._parts):
            yield at_key("published", key, "record", "there", "nothing: it is no customer's")
        elif len(digest) != len(START):
            yield at_key("published", key, "digest", digest.hex(), f"{len(START)} bytes")

    def _follow(self) -> Iterator[Difference]:
        for customer in self._txn.keys_forward("customers", b"", b""):
            part, customer_id = customer[0], customer[1:].decode()
            for kind in PeriodType:
                yield from self._follow_one(part, customer_id, kind)

    def _follow_one(self, part: int, customer_id: str, kind: PeriodType) -> Iterator[Difference]:
        behind: defaultdict[bytes, list[Aggregation]] = defaultdict(list)
        for one in trail.read_publications(self._txn, part, customer_id, kind):
            behind[one.previous].append(one)
        chain, last = START, "the first"
        while len(found := behind.pop(chain, [])) == 1:
            last, chain = f"{found[0].id}, revision {found[0].revision}", found[0].digest
        for one in found:
            should = f"behind {last}, alone"
            yield _of(one, f"previous of revision {one.revision}", one.previous.hex(), should)
        for each in behind.values():
            for one in each:
                should = f"a digest that was published before, {chain.hex()} being {last}"
                yield _of(one, f"previous of revision {one.revision}", one.previous.hex(), should)
        stands = journal.read_published(self._txn, part, kind, customer_id)
        if stands != (b"" if chain == START else chain):
            should = f"{chain.hex()} of {last}"
            yield Difference(
                "published", "digest", stands.hex() or NOTHING, should, customer_id, str(kind)
            )


def _of(aggregation: Aggregation, what: str, stands: str, should: str) -> Difference:
    period = f"{aggregation.period_type} {aggregation.period.key}"
    return Difference("aggregations", what, stands, should, aggregation.customer_id, period)
