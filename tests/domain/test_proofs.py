"""A proof is believed for what its lines lead to, and for nothing else."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest

from meterd.domain.aggregations import Aggregation, Figure, publication_line
from meterd.domain.digests import START, digest_of, events_line, linked, parts_line, void_line
from meterd.domain.errors import ProofError
from meterd.domain.event_ids import Stamp
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.proofs import Proved, check, proof_line, pruned_line
from tests.ledger_bench import at, event

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = period_at(PeriodType.DAILY, at("2026-01-14T00:00"))
TEN, ELEVEN = (period_at(PeriodType.HOURLY, at(f"2026-01-14T{hour}:00")) for hour in (10, 11))
STAMP, NEXT = Stamp(TEN.start_ms, 0, 7), Stamp(ELEVEN.start_ms + 5, 9, 7)


def chain_of(lines: list[bytes]) -> bytes:
    chain = START
    for line in lines:
        chain = linked(chain, line)
    return chain


def published(kind: PeriodType, revision: int, figures: dict[str, Figure]) -> Aggregation:
    return Aggregation("acme", kind, DAY.start_ms, revision, True, 0, 17, figures)


def proof() -> list[bytes]:
    """Of a day, behind its first revision: 3 + 4 in two hours, and 9 that was taken back."""
    ten = [
        events_line(STAMP.id(), [0, 2], [event(value=3), event(value=9)]),
        void_line(STAMP.id(2, part=14), "twice", 5),
    ]
    eleven = [events_line(NEXT.id(), [1], [event(value=4)])]
    parts = parts_line(DAY, [(TEN, chain_of(ten)), (ELEVEN, chain_of(eleven))])
    first = msgspec.structs.replace(
        published(DAY.type, 1, {"sum": Figure(Operation.SUM, Decimal(12), 2)}),
        contents=b"\x07" * 32,
        previous=START,
    )
    second = msgspec.structs.replace(
        published(DAY.type, 2, {"sum": Figure(Operation.SUM, Decimal(7), 2)}),
        contents=digest_of(parts),
        previous=first.digest,
    )
    of_both = [publication_line(one) for one in (first, second)]
    return [proof_line(second), *of_both, parts, *ten, *eleven]


def test_events_lead_to_the_digest() -> None:
    """And to the figures, without what was taken back."""
    lines = proof()
    digest = digest_of(lines[2]).hex()
    assert check(lambda: lines) == Proved("acme_daily_20260114", 2, digest, 2, 2, 1)


def without(number: int) -> Callable[[list[bytes]], None]:
    def change(lines: list[bytes]) -> None:
        del lines[number]

    return change


def other(number: int, this: bytes, that: bytes) -> Callable[[list[bytes]], None]:
    def change(lines: list[bytes]) -> None:
        assert this in lines[number]
        lines[number] = lines[number].replace(this, that, 1)

    return change


def swapped(one: int, another: int) -> Callable[[list[bytes]], None]:
    def change(lines: list[bytes]) -> None:
        lines[one], lines[another] = lines[another], lines[one]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines.clear(), "ends behind line 0"),
        (without(0), "line 1 is not the first line of a proof"),
        (without(1), "line 2 is behind .*, which is missing"),
        (
            without(2),
            "line 1 names acme_daily_20260114, revision 2, which none .* before line 3 is",
        ),
        (without(3), "line 4 is not what daily 20260114 was made of: .* or that line is missing"),
        (without(4), "line 5 stands where the events of hourly 2026011410 should begin, and takes"),
        (without(5), "^line 5 should come to .* or is missing or too many, or it is line 6, which"),
        (without(6), "ends behind line 6, where the events of hourly 2026011411 should begin"),
        (lambda lines: lines.append(lines[-1]), "line 8 is one too many"),
        (lambda lines: lines.append(b""), "line 8 is one too many"),
        (lambda lines: lines.insert(3, lines[1]), "line 4 was published behind what line 1 names"),
        (lambda lines: lines.insert(6, lines[5]), "line 7 stands .* 2026011411 should begin, and"),
        (swapped(1, 2), "line 2 is behind .*, which is missing"),
        (swapped(4, 6), "line 5 stands .* should begin, and has an event of another hour"),
        (swapped(4, 5), "line 5 stands .* should begin, and takes back an event that does not"),
        (other(0, b",1,", b",2,"), "version 2, and this meterd knows 1"),
        (other(0, b"acme", b"b"), "line 2 is of acme, daily, and line 1 of b, daily"),
        (other(0, b'"acme', b'"'), "line 2 is of acme, daily, and line 1 of , daily"),
        (other(0, b"acme_daily", b"acme"), "line 2 is of acme, daily, and line 1 of , acme"),
        (other(1, b'"12"', b'"13"'), "line 2 was changed, or one is missing behind it"),
        (other(2, b'"acme"', b'"b"'), "line 3 is of b, daily"),
        (other(2, b'"7"', b'"8"'), "line 3 has sum: sum .* 8 of 2 events, .* come to 7 of 2"),
        (other(2, b",2]", b",3]"), "line 3 has .* published as 7 of 3 events"),
        (other(2, b'"sum":', b'"max":'), "line 3 has max: sum .* come to nothing"),
        (other(2, b'"20260114"', b'"20260199"'), "line 3 is of no period: 20260199"),
        (other(3, b"2026011411", b"2026011412"), "line 4 is not what daily 20260114 was made of"),
        (
            other(4, b'"3"', b'"4"'),
            "^lines 5 to 6 should .* or it is line 7, which has an event of",
        ),
        (other(4, b"[0,2]", b"[2,0]"), "line 5 does not have an offset for each event"),
        (other(4, b"[0,2]", b"[0]"), "line 5 does not have an offset for each event"),
        (other(4, b'"events","0', b'"events","x'), "line 5 has no id of an event"),
        (other(5, b"twice", b"once"), "^lines 5 to 6 should come to the digest"),
        (other(5, b'"void","0', b'"void","x'), "line 6 has no id of an event"),
        (other(6, b'"acme"', b'"b"'), "line 7 has an event that is not of acme"),
        (other(6, b'"4"', b'"5"'), "^line 7 should .* missing or too many .held against line 3,"),
        (lambda lines: lines.__setitem__(4, b"\xff"), "line 5"),
    ],
)
def test_whatever_is_changed_is_named(change: Callable[[list[bytes]], None], said: str) -> None:
    """By its line; what is missing by where it ends."""
    lines = proof()
    change(lines)
    with pytest.raises(ProofError, match=said):
        check(lambda: lines)


def named_in(message: str) -> set[int]:
    """The lines that a message says it may be."""
    found = {int(number) for number in re.findall(r"line (\d+)", message)}
    for number in re.findall(r"before line (\d+)", message):
        found |= set(range(1, int(number)))
    for begin, end in re.findall(r"lines (\d+) to (\d+)", message):
        found |= set(range(int(begin), int(end) + 1))
    return found


def outcome(lines: list[bytes]) -> str:
    """The digest, or why there is none."""
    try:
        return check(lambda: lines).digest
    except ProofError as refused:
        return str(refused)


def test_the_line_that_was_changed_is_among_those_that_are_named() -> None:
    """Whatever byte of it it was. What only the line of what is proved says, as when it was made,
    is shown by the digest, which is another then.
    """
    lines = proof()
    target, digest = 3, digest_of(lines[2]).hex()
    for number, line in enumerate(lines, 1):
        for at_byte, byte in enumerate(line):
            for instead in {*b'1x"'} - {byte}:
                changed = [*lines]
                changed[number - 1] = line[:at_byte] + bytes([instead]) + line[at_byte + 1 :]
                named = named_in(outcome(changed))
                assert number in named or (number, digest in outcome(changed)) == (target, False)


def test_of_what_began_before_digests_nothing_is_shown() -> None:
    """Nor do the figures follow; the rest is still held against its digests."""
    ten = [events_line(STAMP.id(), [0], [event(value=3)])]
    parts = parts_line(DAY, [(TEN, chain_of(ten)), (ELEVEN, b"")])
    day = msgspec.structs.replace(
        published(DAY.type, 1, {"sum": Figure(Operation.SUM, Decimal(99), 9)}),
        contents=digest_of(parts),
        previous=START,
    )
    lines = [proof_line(day), publication_line(day), parts, *ten]
    assert check(lambda: lines).unknown == ["hourly 2026011411"]
    lines[3] = lines[3].replace(b'"3"', b'"4"')
    with pytest.raises(ProofError, match=r"^line 4 should come to the digest"):
        check(lambda: lines)


def test_of_what_is_pruned_the_digest_stands() -> None:
    """The trail leads to it, and so does whatever proved it before; the figures do not follow, and
    the rest is still held against its digests.
    """
    whole = proof()
    lines = [*whole[:4], pruned_line(TEN), whole[6]]
    proved = Proved("acme_daily_20260114", 2, digest_of(whole[2]).hex(), 2, 1, 0)
    proved.pruned = ["hourly 2026011410"]
    assert check(lambda: lines) == proved
    for changed, said in (
        ([*whole[:4], pruned_line(ELEVEN), whole[6]], "line 5 is of 2026011411, and not of hourly"),
        ([*whole[:5], pruned_line(TEN), whole[6]], "^line 5 should .* line 6, which is not of"),
        ([*whole[:4], pruned_line(TEN), whole[6].replace(b'"4"', b'"5"')], "^line 6 should"),
        ([*whole[:2], whole[2].replace(b'"7"', b'"8"'), pruned_line(TEN)], "line 4 is not what"),
        ([*whole[:4], pruned_line(TEN)], "ends behind line 5"),
    ):
        with pytest.raises(ProofError, match=said):
            check(lambda changed=changed: changed)  # type: ignore[misc]


def of_hour(*lines: bytes) -> list[bytes]:
    """Made by somebody who can make digests: each is right."""
    hour = Aggregation(
        *("acme", PeriodType.HOURLY, TEN.start_ms, 1, True, 0, 17),
        {"sum": Figure(Operation.SUM, Decimal(3), 1)},
        contents=chain_of(list(lines)),
        previous=START,
    )
    return [proof_line(hour), publication_line(hour), *lines]


ONE = events_line(STAMP.id(), [0], [event(value=3)])
NEXT_ONE = events_line(STAMP.id(1), [0], [event(value=3)])
TWO = events_line(STAMP.id(), [0, 70], [event(value=3)] * 2)
WITHIN_TWO = events_line(STAMP.id(64), [6], [event(value=3)])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([ONE, ONE], "line 4, which is not behind the events before it"),
        ([TWO, WITHIN_TWO], "line 4, which is not behind the events before it"),
        ([events_line(STAMP.id(), [], [])], "has an offset that no event has, or none"),
        ([ONE, void_line(STAMP.id(1), "why", 5)], "line 4, which takes back an event that"),
        ([ONE, void_line(STAMP.id(0), "why", 5)], "sum: .* come to nothing"),
        ([ONE.replace(b'"3"', b'"NaN"')], "come to NaN of 1"),
        ([ONE.replace(b'"3"', b'"NaN"'), NEXT_ONE], "line 4 has a value that no event has"),
        ([ONE.replace(b'"3"', b'"1E+999999"')], "sum: sum was published"),
        ([ONE.replace(b"[0]", b"[1073741824]")], "has an offset that no event has"),
        ([ONE.replace(b"[0]", b"[-1]")], "has an offset that no event has"),
        ([ONE.replace(b"[0]", b"[1e99]")], "is not what an append has"),
        ([ONE, NEXT_ONE.replace(b'"3"', b'"1E+9999"')], "a value that no event has: 1E.9999"),
    ],
)
def test_digests_alone_prove_nothing(lines: list[bytes], said: str) -> None:
    """What they are of must be what meterd writes."""
    assert check(lambda: of_hour(ONE)).events == 1
    with pytest.raises(ProofError, match=said):
        check(lambda: of_hour(*lines))
