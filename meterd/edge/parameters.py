"""Query parameters of the reads: filters, limit and cursor; what is wrong with one, named.

An empty parameter is no filter on the routes of old (contract, section 4), and refused on all
others. Cursors are opaque to clients: where a page ended, as URL-safe text.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from meterd.domain.deliveries import BATCH, DeliveryStatus
from meterd.domain.event_fields import customer_id_fault
from meterd.domain.event_ids import ID_BYTES
from meterd.domain.instants import EXPECTED, parse_instant
from meterd.domain.malformed import fault_in
from meterd.domain.periods import PeriodType
from meterd.domain.sections import quoted
from meterd.ledger import (
    AggregationPlace,
    AggregationQuery,
    DeliveryPlace,
    DeliveryQuery,
    EventQuery,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

P = TypeVar("P", AggregationPlace, DeliveryPlace)

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 100_000
_INSTANT_LIMIT_MS: Final = 253_370_764_800_000  # the year 9999: calendars end with it
_SEQUENCE_DIGITS_MAX: Final = 18
_SKIP_DIGITS_MAX: Final = 6
_WINDOW_BYTES: Final = 8


class UnfitParameterError(Exception):
    """A query parameter is not what it takes; the message names both."""


class Parameters:
    """The parameters of one request."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def text(self, name: str) -> str | None:
        return self._given.get(name) or None

    def refuse_others(self, names: Sequence[str]) -> None:
        """A filter that is misspelled, or left empty, would find everything."""
        for name, value in self._given.items():
            refuse_other(name, value, names)

    def limit(self, limit_max: int = LIMIT_MAX) -> int:
        return self.limit_given(limit_max) or LIMIT_DEFAULT

    def limit_given(self, limit_max: int) -> int | None:
        """For an answer that is whole if it is not told otherwise."""
        text = self.text("limit")
        if text is None:
            return None
        if text.isascii() and text.isdigit() and len(text) <= len(str(limit_max)):
            limit = int(text)
            if 1 <= limit <= limit_max:
                return limit
        raise UnfitParameterError(f"limit must be a whole number from 1 to {limit_max}")

    def instant_ms(self, name: str) -> int | None:
        text = self.text(name)
        if text is None:
            return None
        # In a query string a plus sign means a space: an offset +02:00 often comes as " 02:00".
        instant_ms = parse_instant(text.replace(" ", "+") if "T" in text.upper() else text)
        if instant_ms is None:
            raise UnfitParameterError(f"{name} must be {EXPECTED}")
        return instant_ms

    def period_type(self, name: str = "period") -> PeriodType | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            return PeriodType(text)
        except ValueError:
            raise UnfitParameterError(f"{name} must be one of: {', '.join(PeriodType)}") from None

    def status(self) -> DeliveryStatus | None:
        text = self.text("status")
        if text is None:
            return None
        try:
            return DeliveryStatus(text)
        except ValueError:
            names = ", ".join(DeliveryStatus)
            raise UnfitParameterError(f"status must be one of: {names}") from None

    def skip(self) -> int:
        text = self.text("skip")
        if text is None:
            return 0
        if not (text.isascii() and text.isdigit() and len(text) <= _SKIP_DIGITS_MAX):
            raise UnfitParameterError(
                "skip must be a whole number: how many of the last attempts to leave out"
            )
        return int(text)

    def after_sequence(self) -> int | None:
        text = self.text("afterSequence")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= _SEQUENCE_DIGITS_MAX):
            raise UnfitParameterError(
                "afterSequence must be a whole number: the last sequence received, 0 for none"
            )
        if self.text("endpoint") is None:
            raise UnfitParameterError("afterSequence needs endpoint: each has its own sequences")
        return int(text)

    def event_cursor(self) -> bytes | None:
        place = self._cursor()
        if place is not None and len(place) != ID_BYTES:
            raise _unfit_cursor()
        return place

    def aggregation_cursor(self) -> AggregationPlace | None:
        place = self._cursor()
        return None if place is None else _aggregation_place(place)

    def delivery_cursor(self) -> DeliveryPlace | None:
        place = self._cursor()
        if place is None:
            return None
        found = _decoded(place, DeliveryPlace)
        if not (0 <= found.created_ms < _INSTANT_LIMIT_MS and 0 <= found.sequence < BATCH):
            raise _unfit_cursor()
        return found

    def customer_cursor(self) -> str | None:
        place = self._cursor()
        if place is None:
            return None
        try:
            customer_id = place.decode()
        except UnicodeDecodeError:
            raise _unfit_cursor() from None
        if customer_id_fault(customer_id) is not None:
            raise _unfit_cursor()
        return customer_id

    def revisions(self) -> bool:
        """Whether every revision is asked for; the newest are, where that is not said."""
        asked = self.text("revisions")
        if asked not in {None, "newest", "all"}:
            raise UnfitParameterError("revisions must be newest or all")
        return asked == "all"

    def oldest_first(self) -> bool:
        asked = self.text("order")
        if asked not in {None, "newest", "oldest"}:
            raise UnfitParameterError("order must be newest or oldest: which events come first")
        return asked == "oldest"

    def window_cursor(self) -> int | None:
        place = self._cursor()
        if place is None:
            return None
        start_ms = int.from_bytes(place, "big")
        if len(place) != _WINDOW_BYTES or start_ms >= _INSTANT_LIMIT_MS:
            raise _unfit_cursor()
        return start_ms

    def _cursor(self) -> bytes | None:
        text = self.text("cursor")
        return None if text is None else _as_bytes(text)


def replay_cursor(text: str) -> AggregationPlace:
    """What an earlier answer to a replay gave."""
    try:
        return _aggregation_place(_as_bytes(text))
    except UnfitParameterError:
        raise UnfitParameterError("cursor must be that of an earlier answer") from None


def _aggregation_place(place: bytes) -> AggregationPlace:
    found = _decoded(place, AggregationPlace)
    if not 0 <= found.start_ms < _INSTANT_LIMIT_MS:
        raise _unfit_cursor()
    return found


def _decoded(place: bytes, kind: type[P]) -> P:
    try:
        return msgspec.msgpack.decode(place, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _unfit_cursor() from None


def _as_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _unfit_cursor() from None


def _unfit_cursor() -> UnfitParameterError:
    return UnfitParameterError("cursor must be taken from the Link header of an earlier answer")


def refuse_other(name: str, value: str, names: Sequence[str]) -> None:
    """Raises UnfitParameterError unless the parameter is one of these, and has a value."""
    if name not in names:
        raise UnfitParameterError(f"{quoted(name)} is no parameter; there are {', '.join(names)}")
    refuse_empty(name, value)


def refuse_empty(name: str, value: str) -> None:
    """Most often a variable that was not set: what was meant is not known."""
    if not value:
        raise UnfitParameterError(f"{name} must not be empty: give it a value, or leave it out")


def events_asked(asked: Parameters) -> EventQuery:
    return EventQuery(
        asked.text("customerId"),
        asked.text("eventType"),
        asked.instant_ms("from"),
        asked.instant_ms("to"),
        asked.oldest_first(),
    )


def aggregations_asked(asked: Parameters) -> AggregationQuery:
    return AggregationQuery(
        asked.text("customerId"),
        asked.period_type(),
        asked.instant_ms("from"),
        asked.instant_ms("to"),
        asked.revisions(),
    )


_OF_DELIVERIES: Final = (
    *("endpoint", "customerId", "period", "status", "afterSequence", "limit", "cursor"),
)


def deliveries_asked(asked: Parameters) -> DeliveryQuery:
    """Unlike the routes of old, which pass over what they do not know, this one refuses it."""
    asked.refuse_others(_OF_DELIVERIES)
    return DeliveryQuery(
        asked.text("endpoint"),
        asked.text("customerId"),
        asked.period_type(),
        asked.status(),
        asked.after_sequence(),
    )


def json_object(body: bytes, example: str) -> dict[str, Any]:
    """What a body asks for. Raises UnfitParameterError where it is no JSON object, with what is
    wrong, and the ``example``.
    """
    if not body.strip():
        raise UnfitParameterError(f"Request body is required: {example}")
    try:
        body.decode()
        given = msgspec.json.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        said = f"Malformed JSON: {fault_in(body)}; as it should be: {example}"
        raise UnfitParameterError(said) from None
    if not isinstance(given, dict):
        raise UnfitParameterError(f"Request body must be a JSON object: {example}")
    return given


def event_cursor(end: bytes | None) -> str | None:
    """The cursor of the page that goes on there."""
    return None if end is None else _as_text(end)


def aggregation_cursor(end: AggregationPlace | None) -> str | None:
    """The cursor of the page that goes on there."""
    return None if end is None else _as_text(msgspec.msgpack.encode(end))


def delivery_cursor(end: DeliveryPlace | None) -> str | None:
    """The cursor of the page that goes on there."""
    return None if end is None else _as_text(msgspec.msgpack.encode(end))


def customer_cursor(end: str | None) -> str | None:
    """The cursor of the page that goes on there."""
    return None if end is None else _as_text(end.encode())


def window_cursor(end_ms: int | None) -> str | None:
    """The cursor of the page that goes on behind the window that begins then."""
    return None if end_ms is None else _as_text(end_ms.to_bytes(_WINDOW_BYTES, "big"))


def _as_text(place: bytes) -> str:
    return base64.urlsafe_b64encode(place).decode().rstrip("=")
