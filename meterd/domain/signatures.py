"""The headers that prove a webhook's body: both families, signed anew for every attempt.

The old family is the metering system's own: one signature, and the secret's text is the key. The
other is Standard Webhooks 1.0.0: the message's id is signed too, a ``whsec_`` secret stands for the
bytes it spells, and during a rotation every live secret signs. Nothing here knows the time of day.
"""

from __future__ import annotations

import base64
import hmac
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_PREFIX: Final = "whsec_"
# The key sizes of Standard Webhooks 1.0.0, 192 to 512 bits.
_KEY_BYTES: Final = range(24, 64 + 1)
# Visible ASCII, so that a header can carry it, without the full stop: that delimits what is signed,
# so an id holding one could be shifted into the timestamp (Standard Webhooks, "Signature scheme").
_MESSAGE_ID: Final = re.compile(r"[!-\-/-~]+")


def sign(
    body: bytes, *, message_id: str, timestamp_s: int, secrets: Sequence[str]
) -> dict[str, str]:
    """The five headers of one attempt at ``timestamp_s``, Unix seconds.

    Every secret signs in the new family, in their order; only the first in the old, which has room
    for one. ``message_id`` is the same for every attempt.
    """
    assert secrets, "an endpoint has a secret"
    assert _MESSAGE_ID.fullmatch(message_id), "a message id is visible ASCII without a full stop"
    timed = b"%d.%b" % (timestamp_s, body)
    identified = b"%b.%b" % (message_id.encode(), timed)
    return {
        "X-Webhook-Signature": f"v1={_hmac(secrets[0].encode(), timed).hex()}",
        "X-Webhook-Timestamp": str(timestamp_s),
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        # Exactly one space between, and never the old form among them: the library
        # standardwebhooks raises ValueError on an element without a comma, the empty one included.
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(_hmac(signing_key(secret), identified)).decode()}"
            for secret in secrets
        ),
    }


def signing_key(secret: str) -> bytes:
    """The key of the new family: the 24 to 64 bytes after ``whsec_``, else the secret's UTF-8.

    The base64 may come without its padding, as the libraries of the receivers read it.
    """
    spelled = _spelled(secret)
    return secret.encode() if spelled is None else spelled


def is_standard(secret: str) -> bool:
    """Whether the libraries of Standard Webhooks can verify with it: others refuse it, or take
    another key.
    """
    return _spelled(secret) is not None


def _spelled(secret: str) -> bytes | None:
    if not secret.startswith(_PREFIX):
        return None
    spelled = secret.removeprefix(_PREFIX)
    padding = "=" * (-len(spelled) % 4)
    try:
        key = base64.b64decode(spelled + padding, validate=True)
    except ValueError:
        return None
    return key if len(key) in _KEY_BYTES else None


def _hmac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")
