"""API keys: how one is made, what is kept of it, and whose a presented key is.

Only the SHA-256 of a key's text is ever stored. A slow password hash would protect nothing here: a
key is 256 random bits, which nobody finds by trying, and each of 15,000 requests a second is
checked.

Each scope stands alone, so a dashboard's key can read without being able to write, and ``admin``
does not let in events. A key meant for everything names all four; one for whoever watches meterd
names ``metrics``, which tells nothing of any customer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from meterd.domain.sections import DESCRIPTION, Refused, Section, identifier, one_of, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY_BYTES: Final = 32
# Longer than any key in use; beyond it a header is not worth hashing.
PRESENTED_MAX: Final = 256
ENVIRONMENT_KEY_MIN: Final = 8  # a key that people choose may be shorter than those meterd makes
KEYS_MAX: Final = 1000

# Of the key in the environment; it wins over every other entry for the same key.
ENVIRONMENT_KEY_ID: Final = "METERD_API_KEY"

_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_VISIBLE: Final = re.compile(r"[!-~]+", re.ASCII)


class Scope(StrEnum):
    """What a key may do: send events; read them; change what is stored and retry deliveries; see
    how meterd is doing.
    """

    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"
    METRICS = "metrics"


ALL_SCOPES: Final = frozenset(Scope)


class ApiKey(msgspec.Struct, frozen=True):
    """What is kept of a key. ``hash`` is the lowercase hexadecimal SHA-256 of its text."""

    id: str
    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    scopes: frozenset[Scope]
    description: str = ""
    created_ms: int | None = None


def new_key(
    random: bytes,
    scopes: frozenset[Scope] = ALL_SCOPES,
    *,
    description: str = "",
    created_ms: int | None = None,
) -> tuple[str, ApiKey]:
    """The key's text, ``mk_`` and 43 characters, to be shown once; and what to keep of it."""
    assert len(random) == KEY_BYTES, "a key is 256 random bits"
    text = "mk_" + base64.urlsafe_b64encode(random).rstrip(b"=").decode()
    hashed = hash_of(text)
    # 48 bits of the hash are enough to tell keys apart and say nothing of the key.
    return text, ApiKey(f"key-{hashed[:12]}", hashed, scopes, description, created_ms)


def hash_of(text: str) -> str:
    """The lowercase hexadecimal SHA-256 of the key's UTF-8 bytes."""
    return hashlib.sha256(_bytes(text)).hexdigest()


class Keyring:
    """The keys that are let in. Of two entries for the same key the later one holds."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {bytes.fromhex(key.hash): (bytes.fromhex(key.hash), key) for key in keys}
        self._presented: dict[str | bytes, ApiKey] = {}

    def authenticate(self, presented: str | bytes) -> ApiKey | None:
        """The key this is, or None. One hash and one look-up, however many keys there are.

        A key that was let in is remembered by its text, in memory only, as long as the keyring:
        there are no more of them than keys, a stranger adds none, and a reload that takes a key
        away makes a new keyring. Finding it tells a client by its timing that the key is let in,
        which the answer says too. Short of that, texts are compared only where Python's 64 bits of
        SipHash, under a secret of this process, are equal, so nothing can be guessed piece by
        piece.

        What the look-up's timing could tell is about the hash of what was presented. To use it one
        would have to choose that hash, which is to invert SHA-256, so it says nothing of a key.
        The digests themselves are compared in constant time.
        """
        remembered = self._presented.get(presented)
        if remembered is not None:
            return remembered
        text = presented if isinstance(presented, bytes) else _bytes(presented)
        if not 0 < len(text) <= PRESENTED_MAX:
            return None
        digest = hashlib.sha256(text).digest()
        known, key = self._keys.get(digest, _NOBODY)
        if not hmac.compare_digest(known, digest) or key is None:
            return None
        self._presented[presented] = key
        return key


# A digest of the right length, so that a stranger's key takes the same path as a known one.
_NOBODY: Final[tuple[bytes, None]] = (bytes(hashlib.sha256().digest_size), None)


def _bytes(text: str) -> bytes:
    """Never raises: what a header was decoded to may hold lone surrogates, just a wrong key."""
    return text.encode("utf-8", "surrogatepass")


def configured_keys(root: Section) -> tuple[ApiKey, ...]:
    """The ``[[keys]]`` of the configuration; no two with one id, none twice."""
    found: dict[str, ApiKey] = {}
    for section in root.tables("keys", at_most=KEYS_MAX):
        section.refuse_unknown()
        key = ApiKey(
            section.required("id", identifier, ""),
            section.required("hash", _hash, ""),
            frozenset(section.each("scopes", one_of(Scope), at_most=len(Scope))),
            section.option("description", DESCRIPTION, ""),
        )
        if not section.values.get("scopes"):
            section.fault(f"scopes is missing: some of {', '.join(Scope)}")
        if key.id and key.id in found:
            section.fault(f"{quoted(key.id)} is the id of another key", "id")
        if key.hash and any(key.hash == other.hash for other in found.values()):
            section.fault("is the hash of another key", "hash")
        found[key.id] = key
    return tuple(found.values())


def environment_key(value: Any) -> ApiKey:
    """Reads the text of a key that may do everything; it is never repeated."""
    if len(value) < ENVIRONMENT_KEY_MIN or len(value) > PRESENTED_MAX:
        raise Refused(f"must be {ENVIRONMENT_KEY_MIN} to {PRESENTED_MAX} characters long")
    if not _VISIBLE.fullmatch(value):
        raise Refused("must be visible ASCII without spaces, as a header can carry it")
    return ApiKey(ENVIRONMENT_KEY_ID, hash_of(value), ALL_SCOPES, "from the environment")


def _hash(value: Any) -> str:
    # What was put here by mistake may be the key itself, so it is not repeated.
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise Refused("must be the key's SHA-256 in 64 lowercase hexadecimal digits")
    return value
