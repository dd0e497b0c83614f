"""Lines and digests as ``docs/proof.md`` has them, each against text and hashlib alone."""

from __future__ import annotations

import hashlib
from decimal import Decimal

import pytest

from meterd.domain.digests import (
    STALE,
    START,
    UNKNOWN,
    chained,
    digest_of,
    digest_of_parts,
    events_line,
    linked,
    parts_line,
    parts_to_prove,
    stale,
    void_line,
)
from meterd.domain.event_ids import Stamp
from meterd.domain.events import UsageEvent
from meterd.domain.periods import Period, PeriodType, period_at
from meterd.domain.receipts import receive
from tests.ledger_bench import START_MS, at, event

STAMP = Stamp(1_768_384_800_000, 5, 7)
APPEND = STAMP.id().hex()
DAY = period_at(PeriodType.DAILY, at("2026-01-14T00:00"))
TEN, ELEVEN = (period_at(PeriodType.HOURLY, at(f"2026-01-14T{hour}:00")) for hour in (10, 11))


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def test_events_are_a_line_of_json() -> None:
    """Each as customer, type, value as text, metadata in base64, key, and when it says it was."""
    events = [
        UsageEvent("Ærø", "api", Decimal("1.50"), b'{"a": 1}'),
        UsageEvent("Ærø", 'di"sk', Decimal("-1E-400"), b"{}", "k", 1_768_384_799_999),
    ]
    assert events_line(STAMP.id(), [0, 3], events).decode() == (
        f'["events","{APPEND}",[0,3],'
        '[["Ærø","api","1.50","eyJhIjogMX0=","",null],'
        '["Ærø","di\\"sk","-1E-400","e30=","k",1768384799999]]]'
    )


def test_a_void_and_parts_are_lines_too() -> None:
    """What is not known of a part is null."""
    assert void_line(b"\x01" * 16, "as\nagreed", 17).decode() == (
        '["void","01010101010101010101010101010101","as\\nagreed",17]'
    )
    assert parts_line(DAY, [(TEN, b"\xab" * 32), (ELEVEN, UNKNOWN)]).decode() == (
        f'["parts","daily","20260114",[["2026011410","{"ab" * 32}"],["2026011411",null]]]'
    )


def test_each_line_is_digested_behind_all_before() -> None:
    """The bytes of the digest before, then the line; what was never known stays so."""
    one = linked(START, b"one")
    assert one == sha256(bytes(32), b"one")
    assert linked(one, b"two") == sha256(one, b"two")
    assert linked(UNKNOWN, b"two") == UNKNOWN
    assert digest_of(b"one") == sha256(b"one")


@pytest.mark.parametrize("offsets", [[0], [70], [2, 3, 63], [1, 63, 64, 127, 128]])
def test_what_one_append_brought_is_one_line(offsets: list[int]) -> None:
    """Named by its first event, of whomever that is."""
    events = [event(value=number) for number in range(130)]
    receipt = receive(STAMP, events)
    line = events_line(STAMP.id(), offsets, [events[offset] for offset in offsets])
    assert chained(START, receipt, offsets) == sha256(START, line)
    assert chained(UNKNOWN, receipt, offsets) == UNKNOWN


def test_a_year_is_proved_by_its_months_and_they_by_days() -> None:
    """So many digests are read when a period closes; none of hours, which have their chain."""
    periods = [period_at(kind, START_MS) for kind in PeriodType]
    parts = {period.type: list(parts_to_prove(period)) for period in periods}
    assert {kind.value: len(found) for kind, found in parts.items()} == {
        "hourly": 0,
        "daily": 24,
        "weekly": 7,
        "monthly": 31,
        "yearly": 12,
    }
    for period in periods[1:]:
        found = parts[period.type]
        assert (found[0].start_ms, found[-1].end_ms) == (period.start_ms, period.end_ms)


def test_what_is_stale_is_made_again_of_its_parts() -> None:
    """A month whose day has changed since; what has nothing in it is no part."""
    month = period_at(PeriodType.MONTHLY, DAY.start_ms)
    known = {DAY: STALE, TEN: b"\x01" * 32, ELEVEN: b"\x02" * 32}

    def chain_of(period: Period) -> bytes | None:
        return known.get(period)

    day = sha256(parts_line(DAY, [(TEN, b"\x01" * 32), (ELEVEN, b"\x02" * 32)]))
    assert digest_of_parts(month, chain_of) == sha256(parts_line(month, [(DAY, day)]))
    known[DAY] = day
    assert digest_of_parts(month, chain_of) == sha256(parts_line(month, [(DAY, day)]))
    assert (stale(day), stale(UNKNOWN)) == (STALE, UNKNOWN)
