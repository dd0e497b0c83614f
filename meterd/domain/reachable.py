"""Which addresses an endpoint may be reached at: public ones, and those its configuration names.

A webhook's URL comes from a person and its addresses from a name server; neither may turn meterd
into a way into the network it runs in. The table is explicit, since ``ipaddress.is_global`` takes
multicast, ``fec0::1``, ``64:ff9b::7f00:1`` and 168.63.129.16 for global, and changes its mind
between releases. Nothing here resolves a name: ``127.1`` or ``localhost`` become an address only
for whoever connects, so the connection asks, about the address it is going to dial.

Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries (without the few ranges they call
globally reachable), the IANA IPv6 Address Space registry, and the clouds' documentation.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.domain.endpoints import Endpoint, Network

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# The first range that holds an address names it, so the particular stand before the general.
_NOT_PUBLIC_V4: Final = (
    ("169.254.169.254/32", "cloud metadata"),
    ("168.63.129.16/32", "cloud metadata"),  # Azure's WireServer, in public space
    ("100.100.100.200/32", "cloud metadata"),  # Alibaba
    ("192.0.0.192/32", "cloud metadata"),  # Oracle
    ("0.0.0.0/8", "this host"),  # RFC 791; Linux takes 0.0.0.0 for loopback
    ("10.0.0.0/8", "private use"),  # RFC 1918
    ("100.64.0.0/10", "carrier-grade NAT"),  # RFC 6598
    ("127.0.0.0/8", "loopback"),  # RFC 1122
    ("169.254.0.0/16", "link-local"),  # RFC 3927
    ("172.16.0.0/12", "private use"),  # RFC 1918
    ("192.0.0.0/24", "protocol assignments"),  # RFC 6890
    ("192.0.2.0/24", "documentation"),  # RFC 5737
    ("192.88.99.0/24", "6to4 relay"),  # RFC 7526
    ("192.168.0.0/16", "private use"),  # RFC 1918
    ("198.18.0.0/15", "benchmarking"),  # RFC 2544
    ("198.51.100.0/24", "documentation"),  # RFC 5737
    ("203.0.113.0/24", "documentation"),  # RFC 5737
    ("224.0.0.0/4", "multicast"),  # RFC 5771
    ("255.255.255.255/32", "broadcast"),  # RFC 919
    ("240.0.0.0/4", "reserved"),  # RFC 1112
)
# 6to4, Teredo and IPv4-compatible addresses carry an IPv4 address through a tunnel that is out of
# use: whatever it is, no receiver lives there. Of all IPv6 only 2000::/3 is given out (RFC 4291).
_NOT_PUBLIC_V6: Final = (
    ("fd00:ec2::254/128", "cloud metadata"),  # Amazon
    ("fd20:ce::254/128", "cloud metadata"),  # Google
    ("::/128", "this host"),  # RFC 4291; Linux takes :: for loopback
    ("::1/128", "loopback"),  # RFC 4291
    ("::/96", "IPv4-compatible"),  # RFC 4291
    ("64:ff9b:1::/48", "local NAT64"),  # RFC 8215: where its IPv4 address stands is not fixed
    ("100::/64", "discard"),  # RFC 6666
    ("100:0:0:1::/64", "dummy prefix"),  # RFC 9780
    ("2001::/32", "Teredo"),  # RFC 4380
    ("2001:2::/48", "benchmarking"),  # RFC 5180
    ("2001::/23", "protocol assignments"),  # RFC 2928
    ("2001:db8::/32", "documentation"),  # RFC 3849
    ("2002::/16", "6to4"),  # RFC 3056
    ("3fff::/20", "documentation"),  # RFC 9637
    ("5f00::/16", "segment routing"),  # RFC 9602
    ("fc00::/7", "private use"),  # RFC 4193
    ("fe80::/10", "link-local"),  # RFC 4291
    ("fec0::/10", "site-local"),  # RFC 3879
    ("ff00::/8", "multicast"),  # RFC 4291
    ("::/3", "reserved"),
    ("4000::/2", "reserved"),
    ("8000::/1", "reserved"),
)
NOT_PUBLIC: Final[tuple[tuple[Network, str], ...]] = (
    *((ipaddress.IPv4Network(text), kind) for text, kind in _NOT_PUBLIC_V4),
    *((ipaddress.IPv6Network(text), kind) for text, kind in _NOT_PUBLIC_V6),
)

# A name server could name every address there is.
_HINTED_MAX: Final = 4

_V4_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291: the kernel dials IPv4
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the gateway dials IPv4


def refusal(address: Address, endpoint: Endpoint, beside: Sequence[Address] = ()) -> str | None:
    """None if the endpoint may be reached there; else why not, and what would allow it.

    ``beside`` are all addresses of its name: ``localhost`` has two, and whoever allows one of them
    is not to learn of the other from the next refusal.
    """
    kind = _refused_as(address, endpoint)
    if kind is None:
        return None
    reached = _reached(address)
    through = "" if reached.version == address.version else f", it leads to {reached}"
    refused = [_reached(one) for one in (address, *beside) if _refused_as(one, endpoint)]
    hint = _hint(list(dict.fromkeys(refused))[:_HINTED_MAX], endpoint)
    return f"address {address} is private ({kind}{through}); to allow it {hint}"


def _refused_as(address: Address, endpoint: Endpoint) -> str | None:
    """The name of the range that it is in, if that is neither public nor allowed."""
    reached = _reached(address)
    kind = next((kind for network, kind in NOT_PUBLIC if reached in network), None)
    if any(address in network or reached in network for network in endpoint.allow_private):
        return None
    return kind


def _reached(address: Address) -> Address:
    """Where packets to the address end, without the zone that ``fe80::1%eth0`` carries."""
    if address.version == 4:
        return address
    if address in _V4_MAPPED or address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return ipaddress.IPv6Address(int(address))


def _hint(reached: Sequence[Address], endpoint: Endpoint) -> str:
    named = ", ".join(f'"{one}/{one.max_prefixlen}"' for one in reached)
    if endpoint.allow_private:  # the option a second time would be an error of TOML
        return f'add {named} to allow_private of the webhook "{endpoint.id}"'
    return f'add allow_private = [{named}] to the webhook "{endpoint.id}"'
