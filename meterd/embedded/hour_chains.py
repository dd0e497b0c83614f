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
    """Some 150 bytes for each customer of the hour, and one append's events."""

    def __init__(self) -> None:
        self._chains: dict[str, bytes] = {}
        # By customer, what stands behind which digest.
        self._voids: defaultdict[str, dict[bytes, bytes]] = defaultdict(dict)
        # Of the append that is being added, its events and their offsets, by customer.
        self._append_id = b""
        self._added: dict[str, tuple[list[int], list[UsageEvent]]] = {}

    def add(
        self, append_id: bytes, begins_at: int, counted: Iterable[tuple[int, UsageEvent]]
    ) -> None:
        """Events of an append that count in the hour, and those that did until they were void, each
        with its offset behind ``begins_at``.

        What an append has of a customer's comes together, and a customer's in the order of the log.
        """
        if append_id != self._append_id:
            self._link()
            self._append_id = append_id
        added = self._added
        for offset, event in counted:
            customer_id = event.customer_id
            group = added.get(customer_id)
            if group is None:
                group = added[customer_id] = [], []
            group[0].append(begins_at + offset)
            group[1].append(event)

    def expect(self, customer_id: str, event_id: bytes, void: Void) -> None:
        """An event that is void is among those that come next."""
        line = void_line(event_id, void.reason, void.voided_ms)
        self._voids[customer_id][void.behind] = line

    def of(self, customer_id: str) -> bytes:
        """What has come to so far."""
        self._link()
        return self._chains.get(customer_id, START)

    def _link(self) -> None:
        """What was added of an append is one line for each customer."""
        added, self._added = self._added, {}
        chains = self._chains
        for customer_id, (offsets, events) in added.items():
            line = events_line(self._append_id, offsets, events)
            chain = chains[customer_id] = linked(chains.get(customer_id, START), line)
            if customer_id in self._voids:
                self._take_back(customer_id, chain)

    def _take_back(self, customer_id: str, chain: bytes) -> None:
        voids = self._voids[customer_id]
        while (line := voids.pop(chain, None)) is not None:
            chain = linked(chain, line)
        self._chains[customer_id] = chain
