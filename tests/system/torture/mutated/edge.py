"""Mutants of what decodes bytes from outside."""

from __future__ import annotations

import hmac
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tests.system.torture.mutants import mutant, patch

if TYPE_CHECKING:
    from meterd.domain.credentials import ApiKey
    from meterd.edge.limits import Limits


@mutant
def no_utf8_check() -> None:
    """What msgspec passes over may be no UTF-8."""
    from meterd.domain import events

    patch(events, "_is_utf8", lambda _: True)


@mutant
def coding_beside_length() -> None:
    """A request may say twice where it ends."""
    from meterd.edge import framing

    patch(framing, "_coding_refusal", lambda *_: None)


@mutant
def no_framing_check() -> None:
    """h11 alone says what a head is."""
    from meterd.edge import framing

    def taken(raw: bytes, limits: Limits) -> framing.Head:
        length = re.search(rb"(?i)\r\ncontent-length: *(\d{1,8})", raw)
        chunked = re.search(rb"(?i)\r\ntransfer-encoding:", raw) is not None
        return framing.Head(raw + b"\r\n\r\n", None if chunked else int(length[1]) if length else 0)

    patch(framing, "parse_head", taken)
    patch(framing.RequestFramer, "_refuse_early", lambda *_: None)


@mutant
def key_with_a_tail() -> None:
    """A key is let in whatever stands behind it."""
    from meterd.domain.credentials import Keyring

    authenticate = Keyring.authenticate

    def begun(self: Keyring, presented: str | bytes) -> ApiKey | None:
        return authenticate(self, presented[:46])

    patch(Keyring, "authenticate", begun)


@mutant
def cursor_of_any_length() -> None:
    """Whatever base64 spells is a place."""
    from meterd.edge.parameters import Parameters

    patch(Parameters, "event_cursor", Parameters._cursor)


@mutant
def signature_begun() -> None:
    """A receiver compares the first eight letters of a signature."""
    from examples import webhook_receiver

    def alike(expected: bytes, given: bytes) -> bool:
        return expected[:8] == given[:8]

    begun = SimpleNamespace(digest=hmac.digest, compare_digest=alike)
    patch(webhook_receiver, "hmac", begun)
