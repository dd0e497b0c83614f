"""Makes the digests of an hour's customers again (``digests``), from the log."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from meterd.domain.digests import START, events_line, linked, void_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.voids import Void
    from meterd.embedded.appended import Placed


class HourChains:
    """Some 150 bytes for each customer of the hour."""

    def __init__(self) -> None:
        self._chains: dict[str, bytes] = {}
        # By customer, what stands behind which digest.
        self._voids: defaultdict[str, dict[bytes, bytes]] = defaultdict(dict)

    def add(self, append_id: bytes, customer_id: str, events: Sequence[Placed]) -> None:
        """All that an append has of the customer's that count in the hour, or did until they were
        void. A customer's appends come in the order of the log.
        """
        offsets, line_events, _ = zip(*events, strict=True)
        line = events_line(append_id, offsets, line_events)
        chains = self._chains
        chain = chains[customer_id] = linked(chains.get(customer_id, START), line)
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
