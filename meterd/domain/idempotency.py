"""What makes an event the repeat of another: its customer's idempotency key, and the same content.

A client that got no answer sends the same event again under the same key, as often as it must, and
it counts once. A key that comes with other content is a mistake, and is said to be one.

Pure: which keys were used before is asked of ``known``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from meterd.domain.event_fields import DIGITS_MAX, METADATA_MAX_BYTES, idempotency_key_fault
from meterd.domain.events import Refusal, UsageEvent, invalid

if TYPE_CHECKING:
    from collections.abc import Callable

# Tells a mistake, not an attack: other content passes for the same once in 2**64.
FINGERPRINT_BYTES: Final = 8
_CONTEXT: Final = Context(prec=DIGITS_MAX)
# No number in metadata is cut; whole ones beyond the doubles stay as they are, or 1e999999 would
# be written out.
_ALL_DIGITS: Final = Context(prec=METADATA_MAX_BYTES, Emax=MAX_EMAX, Emin=MIN_EMIN)
_WHOLE_DIGITS: Final = 400
# A string of RFC 8941 (3.3.3), which the IETF's draft of the header asks for.
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED: Final = re.compile(r"\\(.)")


class Recorded(Enum):
    """What became of an event."""

    RECORDED = auto()
    # It was recorded before, under the same idempotency key and with the same content.
    DUPLICATE = auto()
    # Its idempotency key was used before for an event with other content; it is not stored.
    CONFLICT = auto()
    # It says that it happened too long ago, too far ahead, or in a closed hour, where that is
    # refused (``admission``); it is not stored.
    TOO_OLD = auto()
    TOO_NEW = auto()
    TOO_LATE = auto()
    # Nothing is wrong with it, but it is not stored, because another of its append is refused.
    WITHHELD = auto()

    @property
    def is_refusal(self) -> bool:
        """Whether the event itself is why it is not stored."""
        return self in _REFUSALS


_REFUSALS: Final = frozenset(
    {Recorded.CONFLICT, Recorded.TOO_OLD, Recorded.TOO_NEW, Recorded.TOO_LATE}
)


class UsedKey(NamedTuple):
    """A key that a new event takes: the event's place among the new, what the engine calls the key,
    the event's fingerprint.
    """

    place: int
    name: bytes
    fingerprint: bytes


class Judged(msgspec.Struct, frozen=True):
    """What is to become of each event of an append, and which are new, in order."""

    outcomes: list[Recorded]
    new: Sequence[UsageEvent]
    used: Sequence[UsedKey] = ()


def judge(
    events: Sequence[UsageEvent],
    name_of: Callable[[UsageEvent], bytes],
    known: Callable[[bytes], bytes | None],
    admit: Callable[[UsageEvent], Recorded],
    *,
    partial: bool,
) -> Judged:
    """``name_of`` names customer and key as one; ``known`` gives the fingerprint of the event that
    has the name already, if any; ``admit`` says whether the time of one that is new is taken.

    Where an event is refused nothing is new, unless ``partial`` says that the others are wanted.
    """
    here: dict[bytes, bytes] = {}
    outcomes: list[Recorded] = []
    new: list[UsageEvent] = []
    used: list[UsedKey] = []
    for event in events:
        outcome = Recorded.RECORDED
        if event.idempotency_key:
            name = name_of(event)
            own = fingerprint(event)
            before = here.get(name) or known(name)
            if before is not None:
                outcome = Recorded.DUPLICATE if before == own else Recorded.CONFLICT
            elif (outcome := admit(event)) is Recorded.RECORDED:
                here[name] = own
                used.append(UsedKey(len(new), name, own))
        elif event.timestamp_ms is not None:
            outcome = admit(event)
        if outcome is Recorded.RECORDED:
            new.append(event)
        outcomes.append(outcome)
    if not partial and any(outcome.is_refusal for outcome in outcomes):
        withheld: list[Recorded] = [
            Recorded.WITHHELD if outcome is Recorded.RECORDED else outcome for outcome in outcomes
        ]
        return Judged(withheld, ())
    return Judged(outcomes, new, used)


def fingerprint(event: UsageEvent) -> bytes:
    """Equal for equal content: type, value as a number, metadata as JSON, in whatever order, and
    with its numbers as numbers, and when it happened, where that was said.
    """
    value = event.value.normalize(_CONTEXT) if event.value else 0  # -0 is 0
    content = f"{event.event_type}\0{value}\0".encode() + _in_order(event.metadata)
    if event.timestamp_ms is not None:
        content += f"\0{event.timestamp_ms}".encode()
    return hashlib.blake2b(content, digest_size=FINGERPRINT_BYTES).digest()


def _in_order(metadata: bytes) -> bytes:
    if metadata == b"{}":
        return metadata
    try:
        return _SORTED.encode(_EXACT.decode(metadata))
    except (msgspec.DecodeError, RecursionError, ArithmeticError):
        # JSON that only JavaScript reads, numbers of thousands of digits: equal when sent alike.
        return metadata


def _as_number(text: str) -> int | Decimal:
    """Of a number with point or exponent, the same whichever way it is written."""
    number = Decimal(text).normalize(_ALL_DIGITS)
    is_whole = number == number.to_integral_value()
    return int(number) if is_whole and number.adjusted() < _WHOLE_DIGITS else number


_EXACT: Final = msgspec.json.Decoder(float_hook=_as_number)
_SORTED: Final = msgspec.json.Encoder(order="sorted", decimal_format="number")


def read_header(values: Sequence[str]) -> str | Refusal:
    """The key that the header ``Idempotency-Key`` names, bare or in quotes; empty without one."""
    if not values:
        return ""
    if len(values) > 1:
        return _refused("must be sent once")
    text = values[0].strip()
    # RFC 9110 (5.5): nobody says what its bytes beyond ASCII mean; read as Latin-1, as they are,
    # they are another key than the same letters in a body.
    if not text.isascii():
        return _refused("must be ASCII: send others in the body, as idempotencyKey")
    quoted = _QUOTED.fullmatch(text)
    key = _ESCAPED.sub(r"\1", quoted[1]) if quoted else text
    fault = idempotency_key_fault(key)
    return key if fault is None else _refused(fault)


def _refused(fault: str) -> Refusal:
    """As in a body, where the same is wrong with ``idempotencyKey``."""
    return invalid([f"Idempotency-Key {fault}"])
