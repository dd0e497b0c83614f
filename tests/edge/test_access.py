"""Who is let in, by which header, for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import trio

from meterd.domain.credentials import ApiKey, Keyring, Scope, hash_of
from meterd.edge.access import Access
from meterd.edge.limits import Limits
from meterd.edge.peers import WrongKeys
from meterd.edge.problems import NO_KEY, UNKNOWN_KEY, Answer, forbidden, too_many_wrong_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

KEYS = (
    ApiKey("sender", hash_of("send-it"), frozenset((Scope.INGEST,))),
    ApiKey("reader", hash_of("read-it"), frozenset((Scope.READ,))),
)


HONEST: Final = "192.0.2.1"
GUESSER: Final = "198.51.100.7"


def access_of(keyring: Callable[[], Keyring], now_s: Callable[[], float] = lambda: 0.0) -> Access:
    return Access(keyring, WrongKeys(Limits()), now_s)


@pytest.mark.parametrize(
    ("apikey", "authorization", "refusal"),
    [
        ("send-it", "", None),
        (None, "Bearer send-it", None),
        (None, "bearer  send-it ", None),
        ("read-it", "", forbidden(Scope.INGEST)),
        (None, "Bearer read-it", forbidden(Scope.INGEST)),
        ("wrong", "Bearer send-it", UNKNOWN_KEY),  # x-apikey counts first
        ("", "Bearer send-it", NO_KEY),
        (None, "Basic send-it", NO_KEY),
        (None, "send-it", NO_KEY),
        (None, "", NO_KEY),
        ("send-it ", "", UNKNOWN_KEY),
    ],
)
def test_which_key_is_let_in(
    apikey: str | None, authorization: str, refusal: Answer | None
) -> None:
    """A key without the scope is known and refused; everything else is unknown."""
    access = access_of(lambda: Keyring(KEYS))
    assert access.refusal(Scope.INGEST, apikey, authorization, HONEST) == refusal
    assert access.lets_in(Scope.INGEST, apikey, authorization) == (refusal is None)


def test_a_reload_counts_at_once() -> None:
    """A key that was taken back is not let in again."""
    keyrings = [Keyring(KEYS), Keyring(())]
    access = access_of(lambda: keyrings.pop(0))
    assert access.refusal(Scope.INGEST, "send-it", "", HONEST) is None
    assert access.refusal(Scope.INGEST, "send-it", "", HONEST) == UNKNOWN_KEY


def test_a_thousand_wrong_keys() -> None:
    """The first hundred are told so, the others to wait; who has a key notices nothing."""
    access = access_of(lambda: Keyring(KEYS))
    answers = [
        access.refusal(Scope.INGEST, f"guess-{number}", "", GUESSER) for number in range(1000)
    ]
    assert answers == [UNKNOWN_KEY] * 100 + [too_many_wrong_keys(1)] * 900
    assert access.refusal(Scope.INGEST, "send-it", "", GUESSER) is None
    assert access.refusal(Scope.INGEST, "read-it", "", GUESSER) == forbidden(Scope.INGEST)
    assert access.refusal(Scope.INGEST, "send-it", "", HONEST) is None
    assert access.refusal(Scope.INGEST, "mistyped", "", HONEST) == UNKNOWN_KEY


async def test_who_guesses_on_is_kept_waiting(autojump_clock: MockClock) -> None:
    """For a second for each answer, however many it asks for at once; nobody else is."""
    access = Access(lambda: Keyring(KEYS), WrongKeys(Limits()), trio.current_time, 1.0)
    for _ in range(100):
        assert await access.refuse(Scope.INGEST, "wrong", "", GUESSER) == UNKNOWN_KEY
    assert await access.refuse(Scope.INGEST, "send-it", "", GUESSER) is None
    assert await access.refuse(Scope.INGEST, "read-it", "", GUESSER) == forbidden(Scope.INGEST)
    assert await access.refuse(Scope.INGEST, "wrong", "", HONEST) == UNKNOWN_KEY
    began = trio.current_time()
    assert await access.refuse(Scope.INGEST, "wrong", "", GUESSER) == too_many_wrong_keys(1)
    assert trio.current_time() == began + 1


def test_waiting_helps() -> None:
    """Who waits as long as ``Retry-After`` says is told plainly again, once."""
    instants = [0.0] * 101 + [1.0] * 2
    access = access_of(lambda: Keyring(KEYS), lambda: instants.pop(0))
    for _ in range(100):
        access.refusal(Scope.INGEST, "wrong", "", GUESSER)
    refused = access.refusal(Scope.INGEST, "wrong", "", GUESSER)
    assert refused is not None
    assert (refused.status, refused.headers) == (429, (("Retry-After", "1"),))
    assert access.refusal(Scope.INGEST, "wrong", "", GUESSER) == UNKNOWN_KEY
    assert access.refusal(Scope.INGEST, "wrong", "", GUESSER) == refused


def test_asking_whether_a_key_is_let_in_costs_nothing() -> None:
    """The plain lane asks, and the other one answers: a wrong key counts once."""
    access = access_of(lambda: Keyring(KEYS))
    for _ in range(100):
        assert not access.lets_in(Scope.INGEST, "wrong", "")
        assert access.refusal(Scope.INGEST, "wrong", "", GUESSER) == UNKNOWN_KEY
