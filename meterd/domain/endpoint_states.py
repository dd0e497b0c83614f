"""What is known of an endpoint beside its configuration, kept over restarts.

An answer may pause an endpoint (Retry-After) or disable it (410, which Standard Webhooks 1.0.0 asks
senders to obey). Deliveries wait meanwhile, and spend no attempts. Both are the word of the URL
that answered: an endpoint that has another one by now has said nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from meterd.domain.deliveries import pause_asked

if TYPE_CHECKING:
    from meterd.domain.outcomes import Outcome


class EndpointState(msgspec.Struct, frozen=True, array_like=True):
    """``next_sequence`` and ``next_batch`` count the endpoint's deliveries and their batches.

    ``disabled_digest`` is that of the URL that said it was gone, ``paused_digest`` that of the one
    that asked to wait; what was stored without that holds for any. New fields go to the end.
    """

    next_sequence: int = 1
    paused_until_ms: int = 0
    disabled_ms: int | None = None
    disabled_digest: str = ""
    next_batch: int = 1
    paused_digest: str = ""

    def is_disabled(self, url: str) -> bool:
        """Whether nothing is sent to the endpoint, which has that URL now."""
        return self.disabled_ms is not None and self.disabled_digest == digest_of(url)

    def pause_end_ms(self, url: str) -> int:
        """Until when nothing is sent to the endpoint, which has that URL now; 0 is never."""
        return self.paused_until_ms if self.paused_digest in {"", digest_of(url)} else 0


# What comes of a state.
Change: TypeAlias = Callable[[EndpointState], EndpointState]


def digest_of(url: str) -> str:
    """The URL itself may hold a token, which the store must not."""
    return hashlib.sha256(url.encode()).hexdigest()


def change_by(outcome: Outcome, url: str, now_ms: int) -> Change | None:
    """What the answer of that URL says of the endpoint, if anything."""
    if outcome.gone:
        return partial(disabled, url=url, now_ms=now_ms)
    pause_ms = pause_asked(outcome, now_ms)
    return None if pause_ms is None else partial(paused, url=url, until_ms=now_ms + pause_ms)


def paused(state: EndpointState, url: str, until_ms: int) -> EndpointState:
    """The later of two pauses of one URL holds."""
    return msgspec.structs.replace(
        state,
        paused_until_ms=max(state.pause_end_ms(url), until_ms),
        paused_digest=digest_of(url),
    )


def disabled(state: EndpointState, url: str, now_ms: int) -> EndpointState:
    return msgspec.structs.replace(state, disabled_ms=now_ms, disabled_digest=digest_of(url))


def enabled(state: EndpointState) -> EndpointState:
    """Neither paused nor disabled."""
    return msgspec.structs.replace(
        state, paused_until_ms=0, paused_digest="", disabled_ms=None, disabled_digest=""
    )
