"""What is known of an endpoint beside its configuration, kept over restarts.

An answer may pause an endpoint (Retry-After) or disable it (410, which Standard Webhooks 1.0.0 asks
senders to obey). Deliveries wait meanwhile, and spend no attempts.
"""

from __future__ import annotations

import hashlib

import msgspec


class EndpointState(msgspec.Struct, frozen=True, array_like=True):
    """``next_sequence`` and ``next_batch`` count the endpoint's deliveries and their batches.

    ``disabled_digest`` is that of the URL that said it was gone: another one is not.
    """

    next_sequence: int = 1
    paused_until_ms: int = 0
    disabled_ms: int | None = None
    disabled_digest: str = ""
    next_batch: int = 1

    def is_disabled(self, url: str) -> bool:
        """Whether nothing is sent to the endpoint, which has that URL now."""
        return self.disabled_ms is not None and self.disabled_digest == digest_of(url)


def digest_of(url: str) -> str:
    """The URL itself may hold a token, which the store must not."""
    return hashlib.sha256(url.encode()).hexdigest()


def paused(state: EndpointState, until_ms: int) -> EndpointState:
    """The later of two pauses holds."""
    return msgspec.structs.replace(state, paused_until_ms=max(state.paused_until_ms, until_ms))


def disabled(state: EndpointState, url: str, now_ms: int) -> EndpointState:
    return msgspec.structs.replace(state, disabled_ms=now_ms, disabled_digest=digest_of(url))


def enabled(state: EndpointState) -> EndpointState:
    """Neither paused nor disabled."""
    return msgspec.structs.replace(state, paused_until_ms=0, disabled_ms=None, disabled_digest="")
