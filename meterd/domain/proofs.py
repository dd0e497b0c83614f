"""The proof of an aggregation: lines of text that lead from events to its digest, checked alone.

The first line says what is proved. Then comes what was published of the customer and type of
period, from the first aggregation to this one, each naming the digest of the one before. Then what
its contents were made of: an hour's lines, or the parts of a longer period and behind these each
part's, in their order. Each line but the first is what was digested, to the byte (``digests``);
but that an hour's events are pruned is only said, in the place of its lines.

All is held against the line of what is proved, from which digests lead to every other. So where
they do not, that line is taken as it stands, and whoever has its digest from elsewhere knows
whether it is. What a digest is of several lines, as an hour's is, it is not known which of them was
changed: then all of these are named.
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
from meterd.domain.plurals import number_of
from meterd.domain.totals import Totals, counted, totals_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

VERSION: Final = 1
# What stands behind all that was published.
_CONTENTS: Final = {b"parts", b"events", b"void", b"pruned"}
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

    Raises ProofError, which names the line, or the lines one of which it is, where they do not lead
    to the digest, or the events not to the figures.
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

    @property
    def kind(self) -> bytes:
        """By how it begins; what is no line of a proof has some other."""
        return self.text[2:].partition(b'"')[0] if self.text.startswith(b'["') else b""

    @property
    def digest(self) -> str:
        return digest_of(self.text).hex()

    def fault(self, message: str) -> ProofError:
        return ProofError(f"line {self.number} {message}")


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


class _Named(NamedTuple):
    """What the first line says is proved."""

    customer_id: str
    type: str
    revision: int
    id: str

    @classmethod
    def of(cls, line: _Line) -> _Named:
        _, version, name, revision = line.decode(_PROOF, "the first line of a proof")
        if version != VERSION:
            raise line.fault(f"is of version {version}, and this meterd knows {VERSION}")
        customer_id, kind, _ = [*["", "", ""], *name.rsplit("_", 2)][-3:]
        return cls(customer_id, kind, revision, name)


class _Published(NamedTuple):
    """The line of what is proved: all that follows is held against it."""

    line: _Line
    period: Period
    contents: str | None
    figures: _Figures


def _against(line: _Line, fault: ProofError) -> ProofError:
    """A fault that is none, where that line is not what was published."""
    return ProofError(f"{fault} (held against line {line.number}, whose digest is {line.digest})")


def _broken(line: _Line, chain: bytes, previous: str) -> ProofError:
    if chain == START:
        return line.fault(f"is behind {previous}, which is missing")
    before = line.number - 1
    return ProofError(
        f"line {before} comes to {chain.hex()}, and line {line.number} is behind {previous}: line"
        f" {before} was changed, or one is missing behind it"
    )


class _Hour(NamedTuple):
    """An hour whose lines, from the first on, are to come to a digest."""

    period: Period
    digest: str
    first: int

    def fault(self, last: int, line: _Line | None = None, why: str = "") -> ProofError:
        """They have not, up to the last of them: behind it is a line that is none, or the end. The
        digest is of all, so which of them was changed is not known.
        """
        name = f"{self.period.type} {self.period.key}"
        if last < self.first:
            begin = f"where the events of {name} should begin"
            if line is None:
                return ProofError(f"it ends behind line {last}, {begin}")
            return line.fault(
                f"stands {begin}, and {why}: it was changed or moved, or some are missing before it"
            )
        some = f"line {last}" if last == self.first else f"lines {self.first} to {last}"
        return ProofError(
            f"{some} should come to the digest of {name}, {self.digest}: one of these was changed"
            " or moved, or is missing or too many"
            + ("" if line is None else f", or it is line {line.number}, which {why}")
        )


class _Check:
    """Goes along the lines, which are the same once more."""

    def __init__(self, voids: set[Stamp], texts: Iterable[bytes]) -> None:
        self._voids = voids
        self._published: _Published | None = None
        self._seen = 0
        self._lines = self._numbered(texts)
        self._totals: dict[str, Totals] = {}
        self._customer_id = ""
        self._last = b""
        self._to_take_back: set[Stamp] = set()

    def run(self) -> Proved:
        first = self._next()
        named = _Named.of(first)
        proved = Proved(named.id, named.revision, "")
        self._published = found = self._follow(named, proved)
        try:
            self._descend(found, proved)
        except ProofError as fault:
            raise _against(found.line, fault) from None
        return proved

    def _numbered(self, texts: Iterable[bytes]) -> Iterator[_Line]:
        for self._seen, text in enumerate(texts, 1):
            line = _Line(self._seen, text)
            if self._published is not None and line.kind == b"aggregation":
                raise line.fault("was published behind what line 1 names: it or line 1 was changed")
            yield line

    def _next(self) -> _Line:
        for line in self._lines:
            return line
        raise ProofError(f"it ends behind line {self._seen}, and something is missing")

    def _follow(self, named: _Named, proved: Proved) -> _Published:
        """What was published, up to what is proved."""
        chain, broken = START, None
        while True:
            line = self._next()
            if line.kind in _CONTENTS:
                raise ProofError(
                    f"line 1 names {named.id}, revision {named.revision}, which none of the lines"
                    f" before line {line.number} is: one of these was changed, or that one is"
                    " missing"
                )
            found = line.decode(_AGGREGATION, "a published aggregation")
            _, customer, type_, key, revision, _, figures, contents, previous = found
            if (customer, type_) != (named.customer_id, named.type):
                raise line.fault(
                    f"is of {customer}, {type_}, and line 1 of {named.customer_id}, {named.type}"
                )
            period = period_of_key(type_, key)
            if period is None:
                raise line.fault(f"is of no period: {key}")
            if previous != chain.hex():
                # The last that is so is as what is proved has it, and what is before it is not.
                broken = _broken(line, chain, previous)
            chain = digest_of(line.text)
            proved.published += 1
            if (aggregation_id(customer, period), revision) == (named.id, named.revision):
                proved.digest, self._customer_id = chain.hex(), customer
                if broken is not None:
                    raise _against(line, broken)
                return _Published(line, period, contents, figures)

    def _descend(self, found: _Published, proved: Proved) -> None:
        """Down to the events, which come to the figures."""
        if found.contents is None:
            proved.unknown.append(f"{found.period.type} {found.period.key}")
        else:
            self._period(found.period, found.contents, proved)
        if not (proved.unknown or proved.pruned):
            self._compare(found)
        for line in self._lines:
            raise line.fault("is one too many")

    def _period(self, period: Period, should: str, proved: Proved) -> None:
        """Its lines come to that digest."""
        if period.type is PeriodType.HOURLY:
            self._hour(_Hour(period, should, self._seen + 1), proved)
            return
        line = self._next()
        if line.digest != should:
            raise line.fault(
                f"is not what {period.type} {period.key} was made of: it was changed, or that line"
                " is missing"
            )
        _, kind, key, parts = line.decode(_PARTS, "what a period is made of")
        if (kind, key) != (period.type, period.key):
            raise line.fault(f"is not of {period.type} {period.key}")
        known = {part.key: part for part in parts_to_prove(period)}
        for part_key, chain in parts:
            part = known.pop(part_key, None)
            if part is None:
                raise line.fault(f"names {part_key}, which is no part of it, or twice")
            if chain is None:
                proved.unknown.append(f"{part.type} {part.key}")
            else:
                self._period(part, chain, proved)

    def _hour(self, hour: _Hour, proved: Proved) -> None:
        chain, self._last, self._to_take_back = START, b"", set()
        while chain.hex() != hour.digest:
            line = next(self._lines, None)
            if line is None:
                raise hour.fault(self._seen)
            match line.kind:
                case b"pruned" if chain == START:
                    self._pass_over(line, hour.period, proved)
                    return
                case b"events":
                    self._count(line, hour, proved)
                case b"void":
                    self._take_back(line, hour, proved)
                case _:
                    raise hour.fault(self._seen - 1, line, "is not of events")
            chain = linked(chain, line.text)

    def _pass_over(self, line: _Line, hour: Period, proved: Proved) -> None:
        _, key = line.decode(_PRUNED, "an hour whose events are pruned")
        if key != hour.key:
            raise line.fault(f"is of {key}, and not of hourly {hour.key}")
        proved.pruned.append(f"{hour.type} {hour.key}")

    def _take_back(self, line: _Line, hour: _Hour, proved: Proved) -> None:
        _, event_id, _, _ = line.decode(_VOID, "a void")
        stamp = _stamp(line, event_id)
        if stamp not in self._to_take_back:
            raise hour.fault(
                self._seen - 1, line, "takes back an event that does not stand before it"
            )
        self._to_take_back.remove(stamp)
        proved.void += 1

    def _count(self, line: _Line, hour: _Hour, proved: Proved) -> None:
        _, append_id, offsets, events = line.decode(_EVENTS, "what an append has")
        append = _stamp(line, append_id)
        if len(offsets) != len(events) or sorted(set(offsets)) != offsets:
            raise line.fault("does not have an offset for each event, going up")
        if not offsets or not 0 <= offsets[0] <= offsets[-1] < COUNTER_LIMIT - append.counter:
            raise line.fault("has an offset that no event has, or none")
        # None twice: an hour's events stand in the order of their ids.
        if append.id(offsets[0]) <= self._last:
            raise hour.fault(self._seen - 1, line, "is not behind the events before it")
        self._last = append.id(offsets[-1])
        for offset, event in zip(offsets, events, strict=True):
            stamp = append.later(offset)
            happened_ms = stamp.received_ms if event.timestamp_ms is None else event.timestamp_ms
            if event.customer_id != self._customer_id:
                raise line.fault(f"has an event that is not of {self._customer_id}")
            if not hour.period.start_ms <= happened_ms < hour.period.end_ms:
                raise hour.fault(self._seen - 1, line, "has an event of another hour")
            if stamp in self._voids:
                self._to_take_back.add(stamp)
                continue
            proved.events += 1
            self._add(line, event, position(happened_ms, stamp.id()))

    def _add(self, line: _Line, event: UsageEvent, at: bytes) -> None:
        before = self._totals.get(event.event_type)
        try:
            self._totals[event.event_type] = (
                totals_of([event.value], at, at)
                if before is None
                else counted(before, event.value, at)
            )
        except ArithmeticError as fault:
            raise line.fault(f"has a value that no event has: {event.value}") from fault

    def _compare(self, published: _Published) -> None:
        for event_type, (operation, value, count) in published.figures.items():
            found = self._totals.get(event_type)
            stands = f"{value} of {number_of(count, 'event')}"
            comes_to = "nothing" if found is None else f"{found.read(operation)} of {found.count}"
            if found is None or (found.read(operation), found.count) != (value, count):
                raise published.line.fault(
                    f"has {event_type}: {operation} was published as {stands}, and the"
                    f" events come to {comes_to}"
                )
