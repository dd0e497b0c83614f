"""Writes what proves an aggregation: the lines that its digest was made of (``proofs``)."""

from __future__ import annotations

from heapq import merge
from itertools import groupby, takewhile
from operator import attrgetter
from typing import TYPE_CHECKING

from meterd.domain.aggregations import aggregation_id, publication_line
from meterd.domain.digests import (
    STALE,
    START,
    digest_of_parts,
    events_line,
    linked,
    parts_line,
    parts_to_prove,
    void_line,
)
from meterd.domain.errors import StoreError
from meterd.domain.event_fields import CUSTOMER_ID_MAX_BYTES
from meterd.domain.events import UsageEvent
from meterd.domain.periods import Period, PeriodType, period_of_key
from meterd.domain.proofs import proof_line, pruned_line
from meterd.embedded import journal, keys, log, queries, trail, voids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.domain.aggregations import Aggregation
    from meterd.embedded.log import Block
    from meterd.embedded.transaction import Transaction


class Proving:
    """Of one customer, in one transaction."""

    def __init__(self, txn: Transaction, parts: int, customer_id: str) -> None:
        self._txn = txn
        self._part = keys.part_of(customer_id, parts)
        self._customer_id = customer_id
        self._pruned_until_ms = journal.read_pruned(txn).until_ms

    def lines(self, proved: Aggregation) -> Iterator[bytes]:
        """See ``proofs``; an hour at a time is read. Raises StoreError where it cannot be proved,
        or what is stored does not lead to its digest. Of an hour some of whose events are pruned
        nothing is shown but that.
        """
        totals = journal.read_totals(self._txn, self._part, proved.period, self._customer_id)
        if not proved.closed:
            raise StoreError(f"{proved.id} is not closed: there is nothing to prove yet")
        if not proved.previous or totals is None:
            raise StoreError(f"{proved.id} was published by a meterd that made no digests")
        if totals.chain != proved.contents:
            raise StoreError(
                f"events came for {proved.id} since revision {proved.revision} was published:"
                " prove the next one, which comes within revise_after"
            )
        yield proof_line(proved)
        for one in trail.in_order(self._txn, self._part, self._customer_id, proved.period_type):
            yield publication_line(one)
            if (one.id, one.revision) == (proved.id, proved.revision):
                break
        yield from self._of_period(proved.period, proved.contents)

    def _of_period(self, period: Period, chain: bytes) -> Iterator[bytes]:
        if period.type is PeriodType.HOURLY:
            if period.start_ms < self._pruned_until_ms:
                yield from self._of_old_hour(period, chain)
            else:
                yield from self._of_hour(period, chain)
            return
        found = ((part, self._chain(part)) for part in parts_to_prove(period))
        parts = [(part, its_chain) for part, its_chain in found if its_chain is not None]
        yield parts_line(period, parts)
        for part, its_chain in parts:
            if its_chain:
                yield from self._of_period(part, its_chain)

    def _chain(self, period: Period) -> bytes | None:
        chain = journal.read_chain(self._txn, self._part, period, self._customer_id)
        return digest_of_parts(period, self._chain) if chain == STALE else chain

    def _of_old_hour(self, hour: Period, should: bytes) -> Iterator[bytes]:
        """All of it, or none: what is left leads nowhere."""
        try:
            yield from list(self._of_hour(hour, should))
        except StoreError:
            yield pruned_line(hour)

    def _of_hour(self, hour: Period, should: bytes) -> Iterator[bytes]:
        chain, taken_back = START, dict[bytes, bytes]()
        totals = journal.read_totals(self._txn, self._part, hour, self._customer_id)
        through = b"" if totals is None else totals.through
        blocks = log.blocks(self._txn, self._blocks(hour))
        for append_id, its_blocks in groupby(blocks, key=attrgetter("append_id")):
            offsets, events = list[int](), list[UsageEvent]()
            for block in its_blocks:
                for offset, event in self._counted(block, hour, through):
                    offsets.append(block.begins_at + offset)
                    events.append(event)
                    event_id = block.stamp.id(offset, self._part)
                    void = voids.read_void(self._txn, event_id)
                    if void is not None:
                        line = void_line(event_id, void.reason, void.voided_ms)
                        taken_back[void.behind] = line
            next_line = events_line(append_id, offsets, events) if events else None
            while next_line is not None:
                yield next_line
                chain = linked(chain, next_line)
                next_line = taken_back.pop(chain, None)
        if chain != should:
            name = aggregation_id(self._customer_id, hour)
            raise StoreError(
                f"the events of {name} come to {chain.hex()}, not to their digest {should.hex()}:"
                " meterd verify says what differs"
            )

    def _counted(
        self, block: Block, hour: Period, through: bytes
    ) -> Iterator[tuple[int, UsageEvent]]:
        """The customer's events of a block that are counted in the hour, with their offsets."""
        stamp = block.stamp
        for offset, event in enumerate(block.events):
            happened_ms = event.timestamp_ms or stamp.received_ms
            is_of_hour = hour.start_ms <= happened_ms < hour.end_ms
            if (
                is_of_hour
                and event.customer_id == self._customer_id
                and stamp.id(offset) <= through
            ):
                yield offset, event

    def _blocks(self, hour: Period) -> list[bytes]:
        """The ids of blocks that may have events of the hour, in order."""
        txn, part, customer_id = self._txn, self._part, self._customer_id
        begin, end = queries.id_at(hour.start_ms), queries.id_at(hour.end_ms)
        received = keys.customer_prefix(part, customer_id)
        ranges: list[Iterator[bytes]] = [
            takewhile(
                begin.__le__,
                queries.blocks_backward(
                    txn,
                    "blocks_by_customer",
                    keys.blocks_prefix(part, customer_id, event_type),
                    end,
                ),
            )
            for event_type in queries.types_behind(txn, "blocks_by_customer", received, None)
        ]
        dated = keys.hour(hour.start_ms) + received
        for event_type in queries.types_behind(txn, "blocks_by_hour", dated, None):
            prefix = keys.dated_blocks_prefix(hour, part, customer_id, event_type)
            ranges.append(queries.blocks_backward(txn, "blocks_by_hour", prefix, queries.LATEST_ID))
        found = [block_id for block_id, _ in groupby(merge(*ranges, reverse=True))]
        found.reverse()
        return found


def find(txn: Transaction, parts: int, name: str) -> Aggregation:
    """The aggregation of that id, its newest revision. Raises StoreError where there is none."""
    rest, _, key = name.rpartition("_")
    customer_id, _, kind = rest.rpartition("_")
    period = period_of_key(PeriodType(kind), key) if kind in set(PeriodType) else None
    found = None
    if period is not None and keys.may_be_stored(customer_id, CUSTOMER_ID_MAX_BYTES):
        part = keys.part_of(customer_id, parts)
        found = journal.read_aggregation(txn, part, period, customer_id)
    if found is None:
        raise StoreError(
            f"there is no aggregation {name}: an id is like acme_monthly_202601,"
            " as in GET /aggregations"
        )
    return found
