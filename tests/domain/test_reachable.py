"""The address guard, class by class: what is refused, what is not, and how it is said."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from meterd.domain.endpoints import Endpoint, Network
from meterd.domain.reachable import NOT_PUBLIC, refusal

PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2000::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001:800::200e",
    "3ffe:ffff::1",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
]

NOT_REACHED = {
    "0.0.0.0": "this host",
    "0.255.255.255": "this host",
    "10.0.0.0": "private use",
    "10.255.255.255": "private use",
    "100.64.0.0": "carrier-grade NAT",
    "100.127.255.255": "carrier-grade NAT",
    "100.100.100.200": "cloud metadata",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "cloud metadata",
    "169.254.0.1": "link-local",
    "169.254.169.254": "cloud metadata",
    "169.254.170.2": "link-local",
    "172.16.0.0": "private use",
    "172.31.255.255": "private use",
    "192.0.0.8": "protocol assignments",
    "192.0.0.170": "protocol assignments",
    "192.0.0.192": "cloud metadata",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4 relay",
    "192.168.0.0": "private use",
    "192.168.255.255": "private use",
    "198.18.0.0": "benchmarking",
    "198.19.255.255": "benchmarking",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.0": "reserved",
    "255.255.255.255": "broadcast",
    "::": "this host",
    "::1": "loopback",
    "::127.0.0.1": "IPv4-compatible",
    "::1.1.1.1": "IPv4-compatible",
    "::ffff:0:1.1.1.1": "reserved",
    "64:ff9b:1::1": "local NAT64",
    "100::1": "discard",
    "100:0:0:1::1": "dummy prefix",
    "2001::1": "Teredo",
    "2001:0:4136:e378:8000:63bf:80ff:fffe": "Teredo",
    "2001:2::1": "benchmarking",
    "2001:20::1": "protocol assignments",
    "2001:1ff:ffff::1": "protocol assignments",
    "2001:db8::1": "documentation",
    "2002:7f00:1::1": "6to4",
    "2002:101:101::1": "6to4",
    "3fff::1": "documentation",
    "5f00::1": "segment routing",
    "fc00::1": "private use",
    "fd00:ec2::254": "cloud metadata",
    "fd20:ce::254": "cloud metadata",
    "fdff:ffff::1": "private use",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "febf::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "200::1": "reserved",
    "1fff:ffff::1": "reserved",
    "4000::1": "reserved",
    "8000::1": "reserved",
    "fbff::1": "reserved",
    "fe00::1": "reserved",
}

LEADING_ELSEWHERE = {
    "::ffff:127.0.0.1": ("loopback", "127.0.0.1"),
    "::ffff:169.254.169.254": ("cloud metadata", "169.254.169.254"),
    "::ffff:0.0.0.0": ("this host", "0.0.0.0"),
    "::ffff:10.1.2.3%eth0": ("private use", "10.1.2.3"),
    "64:ff9b::127.0.0.1": ("loopback", "127.0.0.1"),
    "64:ff9b::168.63.129.16": ("cloud metadata", "168.63.129.16"),
}


def endpoint(*allowed: str) -> Endpoint:
    return Endpoint(
        "billing",
        "https://billing.test/",
        ("secret",),
        allow_private=tuple(ip_network(text) for text in allowed),
    )


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_reached(text: str) -> None:
    """Every address next to a refused range stays reachable, without an exemption."""
    assert refusal(ip_address(text), endpoint()) is None


@pytest.mark.parametrize(("text", "kind"), NOT_REACHED.items())
def test_every_other_class_is_refused_by_its_name(text: str, kind: str) -> None:
    """The refusal names address and class, and the line that allows this address only."""
    address = ip_address(text)
    plain = text.partition("%")[0]
    bits = "32" if address.version == 4 else "128"
    assert refusal(address, endpoint()) == (
        f"address {address} is private ({kind}); to allow it "
        f'add allow_private = ["{ip_address(plain)}/{bits}"] to the webhook "billing"'
    )
    assert refusal(address, endpoint(f"{plain}/{bits}")) is None


@pytest.mark.parametrize(
    ("text", "kind", "reached"), [(k, *v) for k, v in LEADING_ELSEWHERE.items()]
)
def test_an_address_is_judged_by_where_it_leads(text: str, kind: str, reached: str) -> None:
    """IPv4 written as IPv6, or behind NAT64, is what it is as IPv4, in refusal and exemption."""
    address = ip_address(text)
    assert refusal(address, endpoint()) == (
        f"address {address} is private ({kind}, it leads to {reached}); to allow it "
        f'add allow_private = ["{reached}/32"] to the webhook "billing"'
    )
    assert refusal(address, endpoint(f"{reached}/32")) is None


@pytest.mark.parametrize(("network", "kind"), NOT_PUBLIC, ids=str)
def test_both_ends_of_every_range_are_refused(network: Network, kind: str) -> None:
    """No range of the table is shadowed by a public one or has an end that slips through."""
    assert refusal(network[0], endpoint())
    assert refusal(network[-1], endpoint())


def test_the_table_names_every_class_before_the_general_one() -> None:
    """A range below another that already holds it would never be named: there is none."""
    shadowed = [
        f"{later} behind {earlier}"
        for place, (later, _) in enumerate(NOT_PUBLIC)
        for earlier, _ in NOT_PUBLIC[:place]
        if later.version == earlier.version and later[0] in earlier and later[-1] in earlier
    ]
    assert shadowed == []


def test_ipv6_is_global_unicast_or_refused() -> None:
    """Of each sixteenth of IPv6 only the two that make up 2000::/3 are reachable."""
    open_nibbles = [
        nibble
        for nibble in range(16)
        if refusal(ip_address((nibble << 124) + (0x800 << 112) + 1), endpoint()) is None
    ]
    assert open_nibbles == [2, 3]


def test_an_exemption_holds_for_its_range_only() -> None:
    """What is allowed opens nothing beside it, and not the other family's name of the host."""
    allowing = endpoint("10.0.5.0/24", "::1/128")
    assert refusal(ip_address("10.0.5.255"), allowing) is None
    assert refusal(ip_address("::1"), allowing) is None
    for refused in ("10.0.6.0", "127.0.0.1", "::2", "::10.0.5.1", "2002:a00:501::1", "fe80::1"):
        assert refusal(ip_address(refused), allowing)


def test_a_range_of_translated_addresses_may_be_named_itself() -> None:
    """A cluster behind NAT64 names its prefix, as it knows it."""
    address = ip_address("64:ff9b::a00:501")
    assert refusal(address, endpoint())
    assert refusal(address, endpoint("64:ff9b::/96")) is None


def test_the_hint_adds_to_what_is_already_allowed() -> None:
    """TOML refuses an option given twice, so nobody is told to write it twice."""
    assert refusal(ip_address("127.0.0.1"), endpoint("10.0.5.0/24")) == (
        "address 127.0.0.1 is private (loopback); to allow it "
        'add "127.0.0.1/32" to allow_private of the webhook "billing"'
    )


def test_the_hint_names_every_address_that_is_refused() -> None:
    """``localhost`` has two; those that are public or allowed are not asked for, nor one twice."""
    found = [ip_address(text) for text in ("::1", "127.0.0.1", "1.2.3.4", "::ffff:127.0.0.1")]
    assert refusal(found[0], endpoint(), found) == (
        "address ::1 is private (loopback); to allow it "
        'add allow_private = ["::1/128", "127.0.0.1/32"] to the webhook "billing"'
    )
    assert refusal(found[1], endpoint("::1/128"), found) == (
        "address 127.0.0.1 is private (loopback); to allow it "
        'add "127.0.0.1/32" to allow_private of the webhook "billing"'
    )
    assert refusal(found[2], endpoint(), found) is None


def test_a_name_server_does_not_write_the_hint() -> None:
    """However many addresses it gives."""
    found = [ip_address(f"10.0.0.{last}") for last in range(200)]
    said = refusal(found[0], endpoint(), found)
    assert said is not None
    assert said.count("/32") == 4
