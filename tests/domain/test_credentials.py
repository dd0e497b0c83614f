"""meterd/domain/credentials.py"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.credentials import (
    ALL_SCOPES,
    ApiKey,
    Keyring,
    Scope,
    environment_key,
    hash_of,
    new_key,
)
from meterd.domain.sections import Refused, identifier

RANDOM = bytes(range(32))
TEXT, KEY = new_key(RANDOM, description="shop", created_ms=5)


def test_a_new_key() -> None:
    """The text holds all 256 bits in URL-safe letters; only its hash is kept."""
    assert TEXT == "mk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    hashed = hashlib.sha256(TEXT.encode()).hexdigest()
    assert ApiKey(f"key-{hashed[:12]}", hashed, ALL_SCOPES, "shop", 5) == KEY
    assert identifier(KEY.id)
    assert TEXT not in repr(KEY)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_is_never_weaker(size: int) -> None:
    """Anything but 256 bits of randomness is our own mistake."""
    with pytest.raises(AssertionError):
        new_key(bytes(size))


def test_a_known_key_is_told_from_others() -> None:
    """As text or bytes; one letter more, less or different is nobody."""
    other_text, other = new_key(bytes(32), frozenset({Scope.READ}))
    keyring = Keyring([KEY, other])
    assert keyring.authenticate(TEXT) is KEY
    assert keyring.authenticate(other_text.encode()) is other
    for wrong in (TEXT[:-1], TEXT + "x", TEXT.upper(), KEY.hash, KEY.id, "", b"", bytes(32)):
        assert keyring.authenticate(wrong) is None


def test_nobody_is_let_in_without_keys() -> None:
    """An empty keyring is no open door."""
    assert Keyring([]).authenticate(TEXT) is None


def test_nothing_presented_is_nobody() -> None:
    """Even where the hash of nothing was configured by mistake."""
    assert Keyring([ApiKey("empty", hash_of(""), ALL_SCOPES)]).authenticate("") is None


@given(st.text() | st.binary())
def test_whatever_is_presented_is_answered(presented: str | bytes) -> None:
    """Lone surrogates and broken UTF-8 are wrong keys, not failures."""
    assert Keyring([KEY]).authenticate(presented) is None


def test_lone_surrogates_are_a_wrong_key() -> None:
    """A header decoded with surrogateescape holds them."""
    assert Keyring([KEY]).authenticate("\udcff" * 43) is None


def test_an_oversized_key_is_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long headers cost nothing."""

    def refuse(*_: Any) -> None:
        raise AssertionError

    keyring = Keyring([KEY])
    monkeypatch.setattr(hashlib, "sha256", refuse)
    assert keyring.authenticate(b"x" * 257) is None


def test_digests_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hmac.compare_digest, for a stranger's key as for a known one."""
    compared = []

    def spy(known: bytes, digest: bytes) -> bool:
        compared.append((known, digest))
        return known == digest

    keyring = Keyring([KEY])
    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert keyring.authenticate(TEXT) is KEY
    assert keyring.authenticate("wrong") is None
    assert [len(known) for known, _ in compared] == [32, 32]


def test_a_key_let_in_is_remembered_and_a_stranger_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """So only keys that exist take memory, and a new keyring without the key refuses it."""
    hashed = []
    sha256 = hashlib.sha256

    def spy(text: bytes) -> Any:
        hashed.append(text)
        return sha256(text)

    keyring, emptied = Keyring([KEY]), Keyring([])
    monkeypatch.setattr(hashlib, "sha256", spy)
    for _ in range(2):
        assert keyring.authenticate(TEXT) is KEY
        assert keyring.authenticate("wrong") is None
        assert emptied.authenticate(TEXT) is None
    assert hashed == [TEXT.encode(), b"wrong", TEXT.encode(), b"wrong", TEXT.encode()]


def test_the_later_entry_for_one_key_holds() -> None:
    """The environment's key comes last and wins over a narrower entry for the same key."""
    narrow = ApiKey("narrow", KEY.hash, frozenset({Scope.READ}))
    assert Keyring([narrow, KEY]).authenticate(TEXT) is KEY


def test_a_key_from_the_environment_may_do_everything() -> None:
    """And is kept by its hash, like any other."""
    key = environment_key("compat-key-1")
    assert key == ApiKey(
        "METERD_API_KEY", hash_of("compat-key-1"), frozenset(Scope), key.description
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hunter2", "must be 8 to 256 characters long"),
        ("x" * 257, "must be 8 to 256 characters long"),
        ("hunter2 hunter2", "must be visible ASCII without spaces, as a header can carry it"),
        ("hunter2\nhunter2", "must be visible ASCII without spaces, as a header can carry it"),
        ("hünter2ü", "must be visible ASCII without spaces, as a header can carry it"),
    ],
)
def test_a_key_no_header_can_carry(value: str, message: str) -> None:
    """The refusal never repeats the key."""
    with pytest.raises(Refused) as raised:
        environment_key(value)
    assert str(raised.value) == message


def test_a_stored_hash_is_checked_when_it_is_read() -> None:
    """A key file with anything else than a SHA-256 is damaged."""
    stored = msgspec.json.encode(KEY)
    assert msgspec.json.decode(stored, type=ApiKey) == KEY
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(stored.replace(KEY.hash.encode(), b"short"), type=ApiKey)
