"""The one way in for events: bytes in, answer out, for every lane that HTTP comes by.

An answer of 201 or 207 is given only when the events are on disk.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from meterd.domain.counts import EventCounts
from meterd.domain.errors import (
    CorruptRecordError,
    DiskFullError,
    OverloadedError,
    UnavailableError,
)
from meterd.domain.events import (
    Batch,
    Refusal,
    decode_batch,
    decode_event,
    invalid,
    some_invalid,
)
from meterd.domain.idempotency import Recorded, read_header
from meterd.edge import problems
from meterd.edge.problems import Answer, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meterd.domain.admission import Admission
    from meterd.domain.config import Config
    from meterd.domain.events import UsageEvent
    from meterd.edge.readiness import Readiness
    from meterd.ledger import Ledger


class _EventCaptured(msgspec.Struct, rename="camel", gc=False):
    """The body of the answer that is given most; msgspec writes it faster than a dict."""

    message: str
    event_type: str
    customer_id: str


_CONFLICT: Final = "idempotencyKey was used before for other content"
_log: Final = structlog.get_logger("api")
_encode: Final = msgspec.json.Encoder().encode
_CREATED: Final = HTTPStatus.CREATED  # looked up once: an enumeration's members are slow to find


class Ingest:
    """Sections 2 and 3 of the contract, behind the check of the key."""

    def __init__(self, ledger: Ledger, config: Callable[[], Config], readiness: Readiness) -> None:
        self._ledger = ledger
        self._config = config
        self._readiness = readiness
        self.counts = EventCounts()

    async def event(self, event_type: str, body: bytes, header_keys: Sequence[str] = ()) -> Answer:
        """``POST /usage/{eventType}``; the event type is percent-decoded, ``header_keys`` are the
        values of the header ``Idempotency-Key``.
        """
        if refused := self._refusal():
            return refused
        key = read_header(header_keys)
        if isinstance(key, Refusal):
            return problems.refused(key)
        decoded = decode_event(body, event_type, self._config().events, key)
        if isinstance(decoded, Refusal):
            self.counts.refused += 1
            return problems.refused(decoded)
        outcomes = await self._append([decoded])
        if isinstance(outcomes, Answer):
            return outcomes
        match outcomes[0]:
            case Recorded.DUPLICATE:
                self.counts.duplicate += 1
                return answer(HTTPStatus.OK, _repeated(event_type, decoded.customer_id))
            case Recorded.CONFLICT:
                self.counts.conflict += 1
                return problems.CONFLICT
            case Recorded.TOO_OLD | Recorded.TOO_NEW | Recorded.TOO_LATE as why:
                self.counts.refused += 1
                return problems.refused(invalid([str(self._config().admission.fault(why))]))
        self.counts.stored += 1
        return Answer(
            _CREATED, _encode(_EventCaptured("Event captured", event_type, decoded.customer_id))
        )

    async def batch(self, body: bytes, *, lenient: bool, header_keys: Sequence[str] = ()) -> Answer:
        """``POST /usagebatch``; ``lenient`` where the client asked for ``Prefer:
        handling=lenient``.
        """
        if refused := self._refusal():
            return refused
        key = read_header(header_keys)
        if isinstance(key, Refusal):
            return problems.refused(key)
        decoded = decode_batch(body, self._config().events, lenient=lenient, header_key=key)
        if isinstance(decoded, Refusal):
            self.counts.refused += len(decoded.answer.get("validationErrors", ()))
            return problems.refused(decoded)
        outcomes = await self._append(decoded.events, partial=lenient)
        if isinstance(outcomes, Answer):
            return outcomes
        self._count(outcomes)
        self.counts.refused += len(decoded.failures)
        return _captured(decoded, outcomes, lenient, self._config().admission)

    def _count(self, outcomes: Sequence[Recorded]) -> None:
        stored = outcomes.count(Recorded.RECORDED)
        self.counts.stored += stored
        if stored < len(outcomes):
            self.counts.duplicate += outcomes.count(Recorded.DUPLICATE)
            conflicts = outcomes.count(Recorded.CONFLICT)
            self.counts.conflict += conflicts
            self.counts.refused += sum(one.is_refusal for one in outcomes) - conflicts

    def _refusal(self) -> Answer | None:
        """Of whatever event, before its body is decoded: under overload refusing must be cheap."""
        try:
            self._ledger.require_room()
        except OverloadedError as full:
            return problems.overloaded(str(full))
        return self._readiness.refusal_of_events()

    async def _append(
        self, events: Sequence[UsageEvent], *, partial: bool = False
    ) -> list[Recorded] | Answer:
        try:
            admission = self._config().admission
            return await self._ledger.append(events, partial=partial, admission=admission)
        except OverloadedError as full:
            return problems.overloaded(str(full))
        except DiskFullError:
            return problems.DISK_FULL
        except UnavailableError:
            return problems.UNKNOWN_OUTCOME
        except CorruptRecordError as damage:
            # Of an idempotency key: nothing was stored, and it concerns nobody else.
            _log.error(problems.DAMAGE, error=str(damage))
            return problems.DAMAGED


def _repeated(event_type: str, customer_id: str) -> dict[str, Any]:
    return {
        "message": "Event already captured",
        "eventType": event_type,
        "customerId": customer_id,
        "duplicate": True,
    }


def _captured(
    batch: Batch, outcomes: Sequence[Recorded], lenient: bool, admission: Admission
) -> Answer:
    """What was captured by this request or, as ``duplicates`` says of how many, before it."""
    refused = _refused(batch, outcomes, admission)
    failures = [*batch.failures, *refused]
    captured = len(outcomes) - len(refused)
    if failures and not (lenient and captured):
        return problems.refused(some_invalid(captured, failures))
    duplicates = outcomes.count(Recorded.DUPLICATE)
    more: dict[str, Any] = {"duplicates": duplicates} if duplicates else {}
    if not failures:
        return answer(HTTPStatus.CREATED, {"message": "Events captured", "count": captured, **more})
    return answer(
        HTTPStatus.MULTI_STATUS,
        {
            "message": "Events partially captured",
            "successCount": captured,
            "failedCount": len(failures),
            **more,
            "failures": sorted(failures, key=itemgetter("index")),
        },
    )


def _refused(
    batch: Batch, outcomes: Sequence[Recorded], admission: Admission
) -> list[dict[str, Any]]:
    """The items that the ledger does not take, by their index in the request."""
    if not any(outcome.is_refusal for outcome in outcomes):
        return []
    invalid = {failure["index"] for failure in batch.failures}
    places = (index for index in count() if index not in invalid)
    return [
        {"index": index, "errors": [admission.fault(outcome) or _CONFLICT]}
        for index, outcome in zip(places, outcomes, strict=False)
        if outcome.is_refusal
    ]


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
