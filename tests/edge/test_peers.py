"""Who counts as one peer, and how many wrong keys each has: a table of instants."""

from __future__ import annotations

import sys
from typing import Final

import pytest

from meterd.edge.limits import Limits
from meterd.edge.peers import WrongKeys, peer_of

LIMITS: Final = Limits(wrong_keys_max=3, wrong_key_s=10.0, wrong_key_peers_max=4)


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
    ],
)
def test_all_addresses_of_a_peer_are_one(host: str, peer: str) -> None:
    """Nobody is another peer by choosing the lower half of an IPv6 address."""
    assert peer_of(host) == peer


def test_some_at_once_and_then_one_at_a_time() -> None:
    """Three at 0 s, none left until 10 s; what is not counted does not lengthen the wait."""
    wrong_keys = WrongKeys(LIMITS)
    seen = [wrong_keys.wait_s("a", now_s) for now_s in (0, 0, 0, 0, 4, 9, 10, 10)]
    assert seen == [0, 0, 0, 10, 6, 1, 0, 10]


def test_silence_gives_all_of_them_back_and_no_more() -> None:
    """30 s after the last one, three again; a day later, three as well."""
    wrong_keys = WrongKeys(LIMITS)
    for began_s in (0, 30, 100_000):
        assert [wrong_keys.wait_s("a", began_s) for _ in range(4)] == [0, 0, 0, 10]


def test_peers_do_not_count_for_each_other() -> None:
    """One that has none left costs another nothing."""
    wrong_keys = WrongKeys(LIMITS)
    for _ in range(10):
        wrong_keys.wait_s("a", 0)
    assert [wrong_keys.wait_s("b", 0) for _ in range(4)] == [0, 0, 0, 10]


def test_the_longest_silent_peer_is_forgotten() -> None:
    """A fifth peer costs the first its entry; whoever goes on keeps its own."""
    wrong_keys = WrongKeys(LIMITS)
    for peer in ("a", "busy", "b", "c"):
        for _ in range(3):
            wrong_keys.wait_s(peer, 0)
    assert wrong_keys.wait_s("busy", 0) == 10
    assert [wrong_keys.wait_s(peer, 0) for peer in ("d", "e")] == [0, 0]
    assert len(wrong_keys) == 4
    assert wrong_keys.wait_s("busy", 0) == 10
    assert wrong_keys.wait_s("a", 0) == 0


def test_memory_is_bounded_however_many_addresses() -> None:
    """A million addresses, of which ten thousand are remembered: under 3 MB."""
    wrong_keys = WrongKeys(Limits())
    for number in range(1_000_000):
        wrong_keys.wait_s(f"peer {number}", number / 1000)
    assert len(wrong_keys) == Limits().wrong_key_peers_max
    entries = wrong_keys._whole_at
    held = sum(sys.getsizeof(peer) + sys.getsizeof(at) for peer, at in entries.items())
    assert sys.getsizeof(entries) + held < 3_000_000
