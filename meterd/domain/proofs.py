"""The proof of an aggregation: lines of text that lead from events to its digest, checked alone.

The first line says what is proved. Then comes what was published of the customer and type of
period, from the first aggregation to this one, each naming the digest of the one before. Then what
its contents were made of: an hour's lines, or the parts of a longer period and behind these each
part's, in their order. Each line but the first is what was digested, to the byte (``digests``);
but that an hour's events are pruned is only said, in the place of its lines.
"""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

import msgspec

from meterd.domain.aggregations import Aggregation, aggregation_id
from meterd.domain.digests import START, digest_of, linked, parts_to_prove
from meterd.domain.errors import ProofError
from meterd.domain.event_ids import COUNTER_LIMIT, ID_BYTES, Stamp, position, stamp_of
from meterd.domain.events import UsageEvent
from meterd.domain.operations import Operation
from meterd.domain.periods import Period, PeriodType, period_of_key
from meterd.domain.totals import Totals, counted, totals_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

VERSION: Final = 1
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ArithmeticError)

_Figures = dict[str, tuple[Operation, Decimal, int]]
_PROOF: Final = msgspec.json.Decoder(tuple[Literal["proof"], int, str, int])
_AGGREGATION: Final = msgspec.json.Decoder(
    # Customer, type, key, revision, when it was made, figures, contents, previous.
    tuple[Literal["aggregation"], str, PeriodType, str, int, int, _Figures, str | None, str]
)
_PARTS: Final = msgspec.json.Decoder(
    tuple[Literal["parts"], PeriodType, str, list[tuple[str, str | None]]]
)
_EVENTS: Final = msgspec.json.Decoder(tuple[Literal["events"], str, list[int], list[UsageEvent]])
_PRUNED: Final = msgspec.json.Decoder(tuple[Literal["pruned"], str])
_VOID: Final = msgspec.json.Decoder(tuple[Literal["void"], str, str, int])

T = TypeVar("T")


class Proved(msgspec.Struct):
    """What a proof shows. ``events`` are those that count, ``void`` those that were taken back.

    ``unknown`` are parts that began before meterd made digests, and ``pruned`` those whose events
    are not there any more: of these nothing is shown but their digests, which the latter have, and
    where there are any the figures are not either.
    """

    id: str
    revision: int
    digest: str
    published: int = 0
    events: int = 0
    void: int = 0
    unknown: list[str] = []
    pruned: list[str] = []


def proof_line(aggregation: Aggregation) -> bytes:
    """The first line."""
    return msgspec.json.encode(("proof", VERSION, aggregation.id, aggregation.revision))


def pruned_line(hour: Period) -> bytes:
    """In the place of an hour's lines."""
    return msgspec.json.encode(("pruned", hour.key))


def check(read: Callable[[], Iterable[bytes]]) -> Proved:
    """What the lines show, which ``read`` gives from their beginning, without line ends, twice.

    Raises ProofError, which names the line, where they do not lead to the digest, or the events not
    to the figures.
    """
    return _Check(_voids(read()), read()).run()


class _Line(NamedTuple):
    number: int
    text: bytes

    def decode(self, decoder: msgspec.json.Decoder[T], what: str) -> T:
        try:
            return decoder.decode(self.text)
        except _UNREADABLE as fault:
            raise self.fault(f"is not {what}: {fault}") from fault

    def fault(self, message: str) -> ProofError:
        return ProofError(f"line {self.number} {message}")


def _lines(texts: Iterable[bytes]) -> Iterator[_Line]:
    number = 0
    for number, text in enumerate(texts, 1):
        yield _Line(number, text)
    raise ProofError(f"it ends behind line {number}, and something is missing")


def _stamp(line: _Line, text: str) -> Stamp:
    """Of an id as it stands in a line."""
    with suppress(ValueError):
        if len(found := bytes.fromhex(text)) == ID_BYTES:
            return stamp_of(found)
    raise line.fault(f"has no id of an event: {text}")


def _voids(texts: Iterable[bytes]) -> set[Stamp]:
    """What is void is known before anything is counted."""
    found = set()
    for number, text in enumerate(texts, 1):
        if text.startswith(b'["void"'):
            line = _Line(number, text)
            _, event_id, _, _ = line.decode(_VOID, "a void")
            found.add(_stamp(line, event_id))
    return found


class _Check:
    """Goes along the lines, which are the same once more."""

    def __init__(self, voids: set[Stamp], texts: Iterable[bytes]) -> None:
        self._voids = voids
        self._lines = _lines(texts)
        self._totals: dict[str, Totals] = {}
        self._customer_id = ""
        self._last = b""
        self._taken_back = 0

    def run(self) -> Proved:
        first = next(self._lines)
        _, version, name, revision = first.decode(_PROOF, "the first line of a proof")
        if version != VERSION:
            raise first.fault(f"is of version {version}, and this meterd knows {VERSION}")
        proved = Proved(name, revision, "")
        period, contents, figures = self._follow(proved)
        if contents is None:
            proved.unknown.append(f"{period.type} {period.key}")
        else:
            self._period(period, contents, proved)
        if self._taken_back != len(self._voids):
            raise ProofError(
                f"{len(self._voids)} events are void, of which {self._taken_back} are there"
            )
        if not (proved.unknown or proved.pruned):
            self._compare(figures)
        for line in self._rest():
            raise line.fault("is one too many")
        return proved

    def _rest(self) -> Iterator[_Line]:
        with suppress(ProofError):  # there is none, as it should be
            yield next(self._lines)

    def _follow(self, proved: Proved) -> tuple[Period, str | None, _Figures]:
        """What was published, up to what is proved."""
        chain, kind, customer_id = START, None, None
        while True:
            line = next(self._lines)
            found = line.decode(_AGGREGATION, "a published aggregation")
            _, customer, type_, key, revision, _, figures, contents, previous = found
            if previous != chain.hex():
                raise line.fault(f"is behind {previous}, and before it was {chain.hex()}")
            if (customer, type_) != (customer_id or customer, kind or type_):
                raise line.fault(f"is of {customer}, {type_}, not of {customer_id}, {kind}")
            period = period_of_key(type_, key)
            if period is None:
                raise line.fault(f"is of no period: {key}")
            customer_id, kind, chain = customer, type_, digest_of(line.text)
            proved.published += 1
            if (aggregation_id(customer, period), revision) == (proved.id, proved.revision):
                proved.digest, self._customer_id = chain.hex(), customer
                return period, contents, figures

    def _period(self, period: Period, should: str, proved: Proved) -> None:
        """Its lines come to that digest."""
        if period.type is PeriodType.HOURLY:
            self._hour(period, should, proved)
            return
        line = next(self._lines)
        _, kind, key, parts = line.decode(_PARTS, "what a period is made of")
        if (kind, key) != (period.type, period.key) or digest_of(line.text).hex() != should:
            raise line.fault(f"is not what {period.type} {period.key} was made of")
        known = {part.key: part for part in parts_to_prove(period)}
        for part_key, chain in parts:
            part = known.pop(part_key, None)
            if part is None:
                raise line.fault(f"names {part_key}, which is no part of it, or twice")
            if chain is None:
                proved.unknown.append(f"{part.type} {part.key}")
            else:
                self._period(part, chain, proved)

    def _hour(self, hour: Period, should: str, proved: Proved) -> None:
        chain, self._last = START, b""
        while chain.hex() != should:
            line = next(self._lines)
            if chain == START and line.text.startswith(b'["pruned"'):
                self._pass_over(line, hour, proved)
                return
            if line.text.startswith(b'["events"'):
                self._count(line, hour, proved)
            elif line.text.startswith(b'["void"'):
                proved.void += 1
            else:
                raise line.fault(
                    f"comes before the events of hourly {hour.key} have come to {should}"
                )
            chain = linked(chain, line.text)

    def _pass_over(self, line: _Line, hour: Period, proved: Proved) -> None:
        _, key = line.decode(_PRUNED, "an hour whose events are pruned")
        if key != hour.key:
            raise line.fault(f"is of {key}, and not of hourly {hour.key}")
        proved.pruned.append(f"{hour.type} {hour.key}")

    def _count(self, line: _Line, hour: Period, proved: Proved) -> None:
        _, append_id, offsets, events = line.decode(_EVENTS, "what an append has")
        append = _stamp(line, append_id)
        if len(offsets) != len(events) or sorted(set(offsets)) != offsets:
            raise line.fault("does not have an offset for each event, going up")
        if not offsets or not 0 <= offsets[0] <= offsets[-1] < COUNTER_LIMIT - append.counter:
            raise line.fault("has an offset that no event has, or none")
        # None twice: an hour's events stand in the order of their ids.
        if append.id(offsets[0]) <= self._last:
            raise line.fault("is not behind the events before it")
        self._last = append.id(offsets[-1])
        for offset, event in zip(offsets, events, strict=True):
            stamp = append.later(offset)
            happened_ms = stamp.received_ms if event.timestamp_ms is None else event.timestamp_ms
            is_in_hour = hour.start_ms <= happened_ms < hour.end_ms
            if event.customer_id != self._customer_id or not is_in_hour:
                raise line.fault(
                    f"has an event that is not of {self._customer_id} in hourly {hour.key}, whose"
                    " lines have not come to its digest yet"
                )
            if stamp in self._voids:
                self._taken_back += 1
                continue
            proved.events += 1
            at, value = position(happened_ms, stamp.id()), event.value
            before = self._totals.get(event.event_type)
            try:
                self._totals[event.event_type] = (
                    totals_of([value], at, at) if before is None else counted(before, value, at)
                )
            except ArithmeticError as fault:
                raise line.fault(f"has a value that no event has: {value}") from fault

    def _compare(self, figures: _Figures) -> None:
        for event_type, (operation, value, count) in figures.items():
            found = self._totals.get(event_type)
            stands = f"{value} of {count}"
            comes_to = "nothing" if found is None else f"{found.read(operation)} of {found.count}"
            if found is None or (found.read(operation), found.count) != (value, count):
                raise ProofError(
                    f"{event_type}: {operation} was published as {stands} events, and the events"
                    f" come to {comes_to}"
                )
