"""What totals are proved by: chains of SHA-256 digests over a customer's events.

Everything that is digested is a line of JSON. An hour's chain begins with 32 zero bytes, and each
line that comes to it makes the next digest: SHA-256 over the digest before (its 32 bytes) and the
line. A line holds what one append brought of the customer's in that hour, in the order of storing,
or says that an event was taken back; so a chain only grows, also where events come late. A longer
period has one line, which names its parts and their digests.

``docs/proof.md`` is the description for those who check it with tools of their own.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.hierarchy import PROVED_BY
from meterd.domain.periods import Period, period_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from meterd.domain.events import UsageEvent
    from meterd.domain.receipts import Receipt

DIGEST_BYTES: Final = 32
START: Final = bytes(DIGEST_BYTES)
# Of what began before there were digests: nothing can be said of it any more.
UNKNOWN: Final = b""
# Of a closed period whose parts have changed since its digest was made: it is to be made again.
STALE: Final = b"\x00"

_encode: Final = msgspec.json.Encoder().encode
_sha256: Final = hashlib.sha256


def digest_of(line: bytes) -> bytes:
    """Of a line that stands for itself."""
    return _sha256(line).digest()


def linked(chain: bytes, line: bytes) -> bytes:
    """The chain with one more line; what is not known stays so."""
    return _sha256(chain + line).digest() if chain else UNKNOWN


def chained(chain: bytes, receipt: Receipt, offsets: Sequence[int]) -> bytes:
    """The chain of an hour with the receipt's events at these offsets, which go up: one customer's
    in that hour.
    """
    if not chain:
        return UNKNOWN
    events = receipt.events
    line = events_line(receipt.blocks[0], offsets, [events[offset] for offset in offsets])
    return _sha256(chain + line).digest()


def events_line(append_id: bytes, offsets: Sequence[int], events: Sequence[UsageEvent]) -> bytes:
    """Of an append's events at these offsets in it; its id is that of its first event."""
    return _encode(("events", append_id.hex(), offsets, events))


def void_line(event_id: bytes, reason: str, voided_ms: int) -> bytes:
    """An event was taken back."""
    return _encode(("void", event_id.hex(), reason, voided_ms))


def parts_line(period: Period, parts: Iterable[tuple[Period, bytes]]) -> bytes:
    """What a longer period is made of; null is what is not known of a part."""
    named = [(part.key, chain.hex() if chain else None) for part, chain in parts]
    return _encode(("parts", period.type, period.key, named))


def parts_to_prove(period: Period) -> Iterable[Period]:
    """The shorter periods whose digests are that of this one, in their order; an hour has none."""
    kind = PROVED_BY.get(period.type)
    start_ms = period.start_ms
    while kind is not None and start_ms < period.end_ms:
        part = period_at(kind, start_ms)
        yield part
        start_ms = part.end_ms


def digest_of_parts(period: Period, chain_of: Callable[[Period], bytes | None]) -> bytes:
    """Of a longer period, all of whose parts are closed; ``chain_of`` gives that of one, None where
    there is nothing in it. What is stale is made again on the way.
    """
    parts: list[tuple[Period, bytes]] = []
    for part in parts_to_prove(period):
        chain = chain_of(part)
        if chain == STALE:
            chain = digest_of_parts(part, chain_of)
        if chain is not None:
            parts.append((part, chain))
    return digest_of(parts_line(period, parts))


def stale(chain: bytes) -> bytes:
    """The digest of a closed period, one of whose parts has changed."""
    return STALE if chain else UNKNOWN
