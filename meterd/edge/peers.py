"""Whom limits count as one peer, and how many wrong keys a peer may show.

Pure: addresses and instants in, decisions out. Instants are seconds on any clock that does not go
back.

A right key is let in however many wrong ones came from its address, since many clients may stand
behind one proxy. So this keeps nobody from guessing on: that a key is 256 random bits does. What it
does is to tell a client that something is wrong with more than one request, and to keep a
dictionary of passwords from being an oracle as fast as the network.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from meterd.edge.limits import Limits

# A site is given 64 bits of an IPv6 address to choose from (RFC 6177, RFC 4291 section 2.5.4): who
# has one address has them all.
_SITE_BYTES: Final = 8


@lru_cache(maxsize=1024)
def peer_of(host: str) -> str:
    """The same for all addresses that one peer has; ``host`` is as a socket names it."""
    if ":" not in host:
        return host
    address = IPv6Address(host)
    if address.ipv4_mapped is not None:  # IPv4 by a socket that listens for both
        return str(address.ipv4_mapped)
    site = address.packed[:_SITE_BYTES] + bytes(16 - _SITE_BYTES)
    return f"{IPv6Address(site)}/64"


class WrongKeys:
    """``wrong_keys_max`` at once for each peer, and one more every ``wrong_key_s``.

    Of a peer one instant is kept: when it will have all of them again. Of too many peers the one
    that was longest silent is forgotten; its wrong keys then count anew.
    """

    def __init__(self, limits: Limits) -> None:
        self._refill_s = limits.wrong_key_s
        self._burst_s = limits.wrong_keys_max * limits.wrong_key_s
        self._peers_max = limits.wrong_key_peers_max
        self._whole_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._whole_at)

    def wait_s(self, peer: str, now_s: float) -> float:
        """Counts a wrong key: 0.0 while the peer has some left, else how long it has none.

        One that came too soon is not counted, so that who waits as long as told has one again.
        """
        whole_at = max(now_s, self._whole_at.pop(peer, now_s)) + self._refill_s
        wait_s = max(0.0, whole_at - now_s - self._burst_s)
        self._whole_at[peer] = whole_at - self._refill_s if wait_s else whole_at
        if len(self._whole_at) > self._peers_max:
            del self._whole_at[next(iter(self._whole_at))]  # dicts keep the order of entering
        return wait_s
