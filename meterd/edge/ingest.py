"""The one way in for events: bytes in, answer out, for every lane that HTTP comes by.

An answer of 201 or 207 is given only when the events are on disk.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from meterd.domain.errors import DiskFullError, OverloadedError, UnavailableError
from meterd.domain.events import Batch, Refusal, decode_batch, decode_event
from meterd.edge import problems
from meterd.edge.problems import Answer, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meterd.domain.config import Config
    from meterd.domain.events import UsageEvent
    from meterd.ledger import Ledger


class _EventCaptured(msgspec.Struct, rename="camel", gc=False):
    """The body of the answer that is given most; msgspec writes it faster than a dict."""

    message: str
    event_type: str
    customer_id: str


_encode: Final = msgspec.json.Encoder().encode
_CREATED: Final = HTTPStatus.CREATED  # looked up once: an enumeration's members are slow to find


class Ingest:
    """Sections 2 and 3 of the contract, behind the check of the key."""

    def __init__(self, ledger: Ledger, config: Callable[[], Config]) -> None:
        self._ledger = ledger
        self._config = config

    async def event(self, event_type: str, body: bytes) -> Answer:
        """``POST /usage/{eventType}``; the event type is percent-decoded."""
        decoded = decode_event(body, event_type, self._config().events)
        if isinstance(decoded, Refusal):
            return problems.refused(decoded)
        failed = await self._append([decoded])
        if failed is not None:
            return failed
        return Answer(
            _CREATED, _encode(_EventCaptured("Event captured", event_type, decoded.customer_id))
        )

    async def batch(self, body: bytes, *, lenient: bool) -> Answer:
        """``POST /usagebatch``; ``lenient`` where the client asked for ``Prefer:
        handling=lenient``.
        """
        decoded = decode_batch(body, self._config().events, lenient=lenient)
        if isinstance(decoded, Refusal):
            return problems.refused(decoded)
        failed = await self._append(decoded.events)
        return failed or _captured(decoded)

    async def _append(self, events: Sequence[UsageEvent]) -> Answer | None:
        try:
            await self._ledger.append(events)
        except OverloadedError as full:
            return problems.overloaded(str(full))
        except DiskFullError:
            return problems.DISK_FULL
        except UnavailableError:
            return problems.UNKNOWN_OUTCOME
        return None


def _captured(batch: Batch) -> Answer:
    count = len(batch.events)
    if not batch.failures:
        return answer(HTTPStatus.CREATED, {"message": "Events captured", "count": count})
    return answer(
        HTTPStatus.MULTI_STATUS,
        {
            "message": "Events partially captured",
            "successCount": count,
            "failedCount": len(batch.failures),
            "failures": batch.failures,
        },
    )


# One element of the list: commas within quoted strings (RFC 9110, 5.6.4) do not end it.
_PREFERENCE: Final = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')


def is_lenient(prefer: str) -> bool:
    """Whether a Prefer header (RFC 7240) says ``handling=lenient``; the first one counts."""
    preferences: list[str] = _PREFERENCE.findall(prefer.lower())
    for preference in preferences:
        token, _, value = preference.split(";")[0].partition("=")
        if token.strip() == "handling":
            return value.strip().strip('"') == "lenient"
    return False
