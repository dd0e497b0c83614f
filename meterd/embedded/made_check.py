"""Holds a delivery against what it must be made of, whatever that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from meterd.domain.deliveries import numbered
from meterd.domain.instants import format_instant
from meterd.embedded import keys, records
from meterd.embedded.differences import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd.domain.deliveries import Delivery
    from meterd.embedded.differences import Difference
    from meterd.embedded.transaction import Transaction

# What never changes of a delivery; its sequence is whatever it was given, and its body has that.
_FIXED: Final = (
    "id",
    "endpoint_id",
    "customer_id",
    "period_type",
    "start_ms",
    "revision",
    "threshold",
)


class Named(Protocol):
    """A difference, of whose it is."""

    def __call__(self, table: str, what: str, stands: str, should: str, /) -> Difference: ...


class MadeCheck:
    """See above; ``found`` counts what was found of each table."""

    def __init__(self, txn: Transaction) -> None:
        self._txn = txn
        self.found = {"deliveries": 0, "delivery_ids": 0}

    def run(
        self, should: Delivery, bodies: Sequence[bytes], difference: Named
    ) -> Iterator[Difference]:
        """Of the delivery as it is made, before it has a sequence, with one of these bodies."""
        name, endpoint_id = should.id, should.endpoint_id
        which = f"{name} to {endpoint_id}"
        key = self._txn.get("delivery_ids", bytes.fromhex(name[4:]))
        if key is None:
            yield difference("delivery_ids", which, NOTHING, "there")
            return
        self.found["delivery_ids"] += 1
        prefix = keys.endpoint_prefix(endpoint_id)
        if not key.startswith(prefix) or len(key) != len(keys.delivery_key(endpoint_id, 0)):
            yield difference("delivery_ids", which, key.hex(), f"a sequence of {endpoint_id}")
            return
        payload = self._txn.get("deliveries", key)
        if payload is None:
            yield difference("deliveries", which, NOTHING, "there")
            return
        self.found["deliveries"] += 1
        stands = records.decode_delivery(payload)
        for field in _FIXED:
            one, other = getattr(stands, field), getattr(should, field)
            if one != other:
                yield difference("deliveries", f"{field} of {name}", str(one), str(other))
        if stands.created_ms < should.created_ms:  # a replay makes some long after
            made, closed = format_instant(stands.created_ms), format_instant(should.created_ms)
            yield difference("deliveries", f"creation of {name}", made, f"not before {closed}")
        # Before format 5 they were without their sequence.
        its_bodies = [
            numbered(msgspec.structs.replace(should, body=body), stands.sequence).body
            for body in bodies
        ]
        if stands.body not in (*its_bodies, *bodies):
            found, other = str(stands.body), str(its_bodies[-1])
            yield difference("deliveries", f"body of {name}", found, other)
