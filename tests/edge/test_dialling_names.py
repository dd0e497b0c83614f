"""The guard against names that lie: the system's resolver, a name server of ours, a network of
its own in which public and private addresses all answer.
"""

from __future__ import annotations

from typing import Final

import pytest

from meterd.domain.outcomes import ErrorKind
from tests.edge.named_network import PORT, PUBLIC, PUBLIC_V6, Case, Found, hindrance, try_out

GOOD: Final = {
    "a public address": Case("good.test", [[PUBLIC]]),
    "a public address of version 6": Case("six.test", [[PUBLIC_V6]]),
    "an allowed one": Case("ours.test", [["127.0.0.1"]], allow=["127.0.0.1/32"]),
    "an alias": Case("alias.test", [["real.test", PUBLIC]]),
    "a name in capitals": Case("CAPITAL.test", [[PUBLIC]]),
}
# What it leads to, as the refusal names it.
BAD: Final = {
    "loopback": (Case("bad.test", [["127.0.0.1"]]), "127.0.0.1"),
    "loopback of version 6": (Case("bad6.test", [["::1"]]), "::1"),
    "this host": (Case("zero.test", [["0.0.0.0"]]), "0.0.0.0"),
    "this host of version 6": (Case("zero6.test", [["::"]]), "::"),
    "public, then loopback": (Case("mixed.test", [[PUBLIC, "127.0.0.1"]]), "127.0.0.1"),
    "loopback, then public": (Case("mixed2.test", [["127.0.0.1", PUBLIC]]), "127.0.0.1"),
    "public, and loopback of version 6": (Case("mixed3.test", [[PUBLIC, "::1"]]), "::1"),
    "public of version 6, and loopback": (
        Case("mixed4.test", [[PUBLIC_V6, "127.0.0.1"]]),
        "127.0.0.1",
    ),
    "allowed, and not allowed": (
        Case("mixed5.test", [["127.0.0.1", "10.0.0.1"]], allow=["127.0.0.0/8"]),
        "10.0.0.1",
    ),
    "an alias of loopback": (Case("alias2.test", [["real2.test", "127.0.0.1"]]), "127.0.0.1"),
    "version 4, mapped": (Case("mapped.test", [["::ffff:127.0.0.1"]]), "127.0.0.1"),
    "version 4, compatible": (Case("compatible.test", [["::127.0.0.1"]]), "::7f00:1"),
    "NAT64": (Case("nat64.test", [["64:ff9b::7f00:1"]]), "127.0.0.1"),
    "6to4": (Case("6to4.test", [["2002:7f00:1::1"]]), "2002:7f00:1::1"),
    "Teredo": (
        Case("teredo.test", [["2001:0:4136:e378:8000:63bf:80ff:fffe"]]),
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ),
    "cloud metadata": (Case("cloud.test", [["169.254.169.254"]]), "169.254.169.254"),
    "localhost": (Case("localhost"), "::1"),
    "127.1": (Case("127.1"), "127.0.0.1"),
    "a decimal": (Case("2130706433"), "127.0.0.1"),
    "a hexadecimal": (Case("0x7f000001"), "127.0.0.1"),
    "zero": (Case("0"), "0.0.0.0"),
}
FAILED: Final = {
    "no such name": (Case("nobody.test"), "getaddrinfo ENOTFOUND nobody.test"),
    "no addresses": (Case("empty.test", [[]]), "getaddrinfo ENOTFOUND empty.test"),
    "a failing server": (
        Case("broken.test", [["SERVFAIL"]]),
        "getaddrinfo EAI_AGAIN broken.test",
    ),
}
REBOUND: Final = {
    "to loopback": Case("rebound.test", [[PUBLIC], ["127.0.0.1"]], posts=3),
    "and back": Case("flipping.test", [["127.0.0.1"], [PUBLIC], ["127.0.0.1"]], posts=3),
}


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    """All in one network: what takes time is to make it."""
    if (hindered := hindrance()) is not None:
        pytest.skip(hindered)
    refused = {name: case for name, (case, _) in (*BAD.items(), *FAILED.items())}
    return try_out({**GOOD, **refused, **REBOUND})


@pytest.mark.parametrize("name", GOOD)
def test_what_is_public_or_allowed_is_reached(name: str, found: dict[str, Found]) -> None:
    """Without this, refusing everything would pass all of these tests."""
    [outcome] = found[name].outcomes
    assert outcome.error is None
    [reached] = found[name].reached
    expected = f"[{reached}]:{PORT}" if reached == PUBLIC_V6 else f"{reached}:{PORT}"
    assert outcome.address == expected
    assert reached in (PUBLIC, PUBLIC_V6) or GOOD[name].allow


@pytest.mark.parametrize("name", BAD)
def test_what_leads_elsewhere_is_refused(name: str, found: dict[str, Found]) -> None:
    """Whatever name, spelling or wrapping leads there, and whatever good address stands beside;
    nobody is dialled, and the refusal says what to write to allow it.
    """
    case, leads_to = BAD[name]
    [outcome] = found[name].outcomes
    assert outcome.kind is ErrorKind.REFUSED_ADDRESS
    assert outcome.address is None
    assert found[name].reached == []
    bits = 128 if ":" in leads_to else 32
    line = f'"{leads_to}/{bits}"' + (', "127.0.0.1/32"' if name == "localhost" else "")
    hint = f"add {line} to allow_private" if case.allow else f"add allow_private = [{line}] to"
    assert hint in (outcome.error or "")


@pytest.mark.parametrize("name", FAILED)
def test_what_has_no_address_is_said_so(name: str, found: dict[str, Found]) -> None:
    """In Node's words."""
    _, error = FAILED[name]
    [outcome] = found[name].outcomes
    assert (outcome.error, outcome.kind) == (error, ErrorKind.DNS)
    assert outcome.address is None


def test_a_name_is_judged_as_it_is_dialled(found: dict[str, Found]) -> None:
    """One look-up for a connection (A and AAAA): what was judged is dialled, and what a second one
    would have said is judged with the next connection.
    """
    rebound = found["to loopback"]
    assert [outcome.kind for outcome in rebound.outcomes] == [
        None,
        ErrorKind.REFUSED_ADDRESS,
        ErrorKind.REFUSED_ADDRESS,
    ]
    assert rebound.reached == [PUBLIC]
    assert rebound.asked == 2 * 3
    back = found["and back"]
    assert [outcome.kind for outcome in back.outcomes] == [
        ErrorKind.REFUSED_ADDRESS,
        None,
        ErrorKind.REFUSED_ADDRESS,
    ]
    assert back.reached == [PUBLIC]


def test_spellings_of_an_address_ask_nobody(found: dict[str, Found]) -> None:
    """They are names to whoever looks at the URL, and addresses to the system."""
    for name in ("localhost", "127.1", "a decimal", "a hexadecimal", "zero"):
        assert found[name].asked == 0
