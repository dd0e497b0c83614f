"""Makes the digests of an hour's customers again (``digests``), from the log."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from meterd.domain.digests import START, events_line, linked, void_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd.domain.events import UsageEvent
    from meterd.domain.voids import Void


class HourChains:
    """Some 150 bytes for each customer of the hour."""

    def __init__(self) -> None:
        self._chains: dict[str, bytes] = {}
        # By customer, what stands behind which digest.
        self._voids: defaultdict[str, dict[bytes, bytes]] = defaultdict(dict)

    def add(self, block_id: bytes, counted: Iterable[tuple[int, UsageEvent]]) -> None:
        """The events of a block that count in the hour, and those that did until they were void,
        each with its offset; a customer's blocks come in the order of the log.
        """
        found: dict[str, tuple[list[int], list[UsageEvent]]] = {}
        for offset, event in counted:
            customer_id = event.customer_id
            group = found.get(customer_id)
            if group is None:
                group = found[customer_id] = [], []
            group[0].append(offset)
            group[1].append(event)
        chains = self._chains
        for customer_id, (offsets, events) in found.items():
            line = events_line(block_id, offsets, events)
            chain = linked(chains.get(customer_id, START), line)
            chains[customer_id] = chain
            if customer_id in self._voids:
                self._take_back(customer_id, chain)

    def expect(self, customer_id: str, event_id: bytes, void: Void) -> None:
        """An event that is void is among those that come next."""
        line = void_line(event_id, void.reason, void.voided_ms)
        self._voids[customer_id][void.behind] = line

    def of(self, customer_id: str) -> bytes:
        """What has come to so far."""
        return self._chains.get(customer_id, START)

    def _take_back(self, customer_id: str, chain: bytes) -> None:
        voids = self._voids[customer_id]
        while (line := voids.pop(chain, None)) is not None:
            chain = linked(chain, line)
        self._chains[customer_id] = chain
