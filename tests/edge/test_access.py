"""Who is let in, by which header, for what."""

from __future__ import annotations

import pytest

from meterd.domain.credentials import ApiKey, Keyring, Scope, hash_of
from meterd.edge.access import Access
from meterd.edge.problems import FORBIDDEN, UNAUTHORIZED, Answer

KEYS = (
    ApiKey("sender", hash_of("send-it"), frozenset((Scope.INGEST,))),
    ApiKey("reader", hash_of("read-it"), frozenset((Scope.READ,))),
)


@pytest.mark.parametrize(
    ("apikey", "authorization", "refusal"),
    [
        ("send-it", "", None),
        (None, "Bearer send-it", None),
        (None, "bearer  send-it ", None),
        ("read-it", "", FORBIDDEN),
        (None, "Bearer read-it", FORBIDDEN),
        ("wrong", "Bearer send-it", UNAUTHORIZED),  # x-apikey counts first
        ("", "Bearer send-it", UNAUTHORIZED),
        (None, "Basic send-it", UNAUTHORIZED),
        (None, "send-it", UNAUTHORIZED),
        (None, "", UNAUTHORIZED),
        ("send-it ", "", UNAUTHORIZED),
    ],
)
def test_which_key_is_let_in(
    apikey: str | None, authorization: str, refusal: Answer | None
) -> None:
    """A key without the scope is known and refused; everything else is unknown."""
    access = Access(lambda: Keyring(KEYS))
    assert access.refusal(Scope.INGEST, apikey, authorization) == refusal


def test_a_reload_counts_at_once() -> None:
    """A key that was taken back is not let in again."""
    keyrings = [Keyring(KEYS), Keyring(())]
    access = Access(lambda: keyrings.pop(0))
    assert access.refusal(Scope.INGEST, "send-it", "") is None
    assert access.refusal(Scope.INGEST, "send-it", "") == UNAUTHORIZED
