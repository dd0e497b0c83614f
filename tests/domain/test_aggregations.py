"""Published totals by tables: what an aggregation says, its id, its webhook to the byte."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal

import msgspec
import pytest

from meterd.domain.aggregations import (
    Aggregation,
    ClosingRules,
    Figure,
    aggregate,
    as_number,
    completed_body,
    exact_figures,
    figures_digest,
    publication_line,
)
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.totals import PeriodTotals, totals_of

# 2026-01-14T00:00:00Z, and ten minutes after that day's end
DAY = 1_768_348_800_000
NOW = 1_768_435_800_123

RULES = ClosingRules(
    operations={"disk": Operation.MAX, "api": Operation.SUM, "mail": Operation.COUNT},
    published=frozenset({PeriodType.DAILY, PeriodType.WEEKLY}),
    endpoints=("billing", "crm"),
)


def totals(**values: str) -> PeriodTotals:
    by_type = {}
    for event_type, text in values.items():
        numbers = [Decimal(value) for value in text.split()]
        by_type[event_type] = totals_of(numbers, bytes([0]), bytes([len(numbers) - 1]))
    return PeriodTotals(closed=False, by_type=by_type)


def day_of_acme(
    found: PeriodTotals,
    rules: ClosingRules = RULES,
    *,
    kind: PeriodType = PeriodType.DAILY,
    closed: bool = True,
    earlier: Aggregation | None = None,
) -> Aggregation | None:
    period = period_at(kind, DAY)
    return aggregate("acme", period, found, rules, closed=closed, now_ms=NOW, earlier=earlier)


def test_a_closed_aggregation_says_who_when_and_what() -> None:
    """Event types in the order of the configuration, whatever order their events came in."""
    made = day_of_acme(totals(api="1 2.5", mail="7 7 7", disk="5 9 6"))
    assert made == Aggregation(
        customer_id="acme",
        period_type=PeriodType.DAILY,
        start_ms=DAY,
        revision=1,
        closed=True,
        created_ms=NOW,
        computed_ms=NOW,
        figures={
            "disk": Figure(Operation.MAX, Decimal(9), 3),
            "api": Figure(Operation.SUM, Decimal("3.5"), 2),
            "mail": Figure(Operation.COUNT, Decimal(3), 3),
        },
        endpoints=("billing", "crm"),
    )
    assert list(made.figures) == ["disk", "api", "mail"]
    assert made.event_count == 8


def test_a_type_without_events_is_left_out_of_count_too() -> None:
    """Contract, section 5: not even a 0, which made every customer get empty aggregations."""
    made = day_of_acme(totals(api="1"))
    assert made is not None
    assert list(made.figures) == ["api"]


def test_a_type_no_longer_configured_is_left_out() -> None:
    """Its events are kept in the totals, and counted again should it come back."""
    made = day_of_acme(totals(api="1", retired="5"))
    assert made is not None
    assert (list(made.figures), made.event_count) == (["api"], 1)


def test_there_is_no_aggregation_of_nothing() -> None:
    """No events, none of a configured type, or a period nobody asked for."""
    assert day_of_acme(totals()) is None
    assert day_of_acme(totals(retired="5")) is None
    assert day_of_acme(totals(api="5"), kind=PeriodType.HOURLY) is None
    unpublished = msgspec.structs.replace(RULES, published=frozenset())
    assert day_of_acme(totals(api="5"), unpublished) is None


def test_figures_are_known_again_by_their_digest() -> None:
    """By these bytes in every version; who gets it, and when it was made, is no matter."""
    made = day_of_acme(totals(api="1 2.50", disk="5"))
    assert made is not None
    digest = figures_digest(made)
    assert digest.hex() == "616cd1ba1b6511bb"
    for changes in ({"endpoints": ()}, {"created_ms": 1}, {"computed_ms": 1}):
        assert figures_digest(msgspec.structs.replace(made, **changes)) == digest
    figure = made.figures["api"]
    disk = {"disk": made.figures["disk"]}
    for figures in (
        disk,
        {"api": figure, **disk},
        {**disk, "apj": figure},
        {**disk, "api": Figure(Operation.AVG, figure.value, figure.count)},
        {**disk, "api": Figure(figure.operation, figure.value, 3)},
        {**disk, "api": Figure(figure.operation, figure.value + 1, figure.count)},
    ):
        assert figures_digest(msgspec.structs.replace(made, figures=figures)) != digest


def test_a_snapshot_is_delivered_to_nobody_and_hands_on_its_creation() -> None:
    """The aggregation that closes came to be when its first snapshot was taken."""
    earlier = Aggregation("acme", PeriodType.DAILY, DAY, 1, False, NOW - 9000, NOW - 5000, {})
    snapshot = day_of_acme(totals(api="1"), closed=False, earlier=earlier)
    closed = day_of_acme(totals(api="1 2"), earlier=snapshot)
    assert snapshot is not None
    assert closed is not None
    assert (snapshot.closed, snapshot.endpoints) == (False, ())
    assert (snapshot.created_ms, snapshot.computed_ms) == (NOW - 9000, NOW)
    assert (closed.closed, closed.endpoints) == (True, ("billing", "crm"))
    assert (closed.created_ms, closed.computed_ms) == (NOW - 9000, NOW)
    assert closed.figures == {"api": Figure(Operation.SUM, Decimal(3), 2)}


@pytest.mark.parametrize(
    ("kind", "aggregation_id"),
    [
        (PeriodType.HOURLY, "acme_hourly_2026011400"),
        (PeriodType.DAILY, "acme_daily_20260114"),
        (PeriodType.WEEKLY, "acme_weekly_202603"),
        (PeriodType.MONTHLY, "acme_monthly_202601"),
        (PeriodType.YEARLY, "acme_yearly_2026"),
    ],
)
def test_the_id_is_made_of_customer_period_and_key(kind: PeriodType, aggregation_id: str) -> None:
    """Contract, section 4: ``<customerId>_<period>_<periodKey>``, on every machine the same."""
    period = period_at(kind, DAY)
    made = Aggregation("acme", kind, period.start_ms, 1, True, NOW, NOW, {})
    assert made.id == aggregation_id
    assert made.period == period


BODIES = [
    (
        "acme",
        {"api.calls": Figure(Operation.SUM, Decimal(542), 542)},
        (
            b'{"type":"aggregation.completed","customerId":"acme","period":"daily","data":{'
            b'"periodStart":"2026-01-14T00:00:00.000Z","periodEnd":"2026-01-14T23:59:59.999Z",'
            b'"periodKey":"20260114","timestamp":"2026-01-15T00:10:00.123Z",'
            b'"events":{"api.calls":542},"eventCounts":{"api.calls":542},"eventCount":542,'
            b'"id":"acme_daily_20260114","revision":1,"exact":{"api.calls":"542"}},'
            b'"created":1768435800}'
        ),
    ),
    # JavaScript's number text in events, all digits in exact; event types like integers go first
    (
        'Ærø "1"',
        {
            "b": Figure(Operation.SUM, Decimal("0.30"), 2),
            "10": Figure(Operation.AVG, Decimal("1.333333333333333333333333333333333"), 3),
            "2": Figure(Operation.MIN, Decimal("-1E-7"), 1),
            "a": Figure(Operation.MAX, Decimal(9007199254740993), 1),
            "huge": Figure(Operation.SUM, Decimal("2E+308"), 2),
            "zero": Figure(Operation.SUM, Decimal("0E-5"), 1),
        },
        (
            '{"type":"aggregation.completed","customerId":"Ærø \\"1\\"","period":"daily","data":{'
            '"periodStart":"2026-01-14T00:00:00.000Z","periodEnd":"2026-01-14T23:59:59.999Z",'
            '"periodKey":"20260114","timestamp":"2026-01-15T00:10:00.123Z",'
            '"events":{"2":-1e-7,"10":1.3333333333333333,"b":0.3,"a":9007199254740992,'
            '"huge":1.7976931348623157e+308,"zero":0},'
            '"eventCounts":{"2":1,"10":3,"b":2,"a":1,"huge":2,"zero":1},"eventCount":10,'
            '"id":"Ærø \\"1\\"_daily_20260114","revision":1,'
            '"exact":{"2":"-1e-7","10":"1.333333333333333333333333333333333","b":"0.3",'
            '"a":"9007199254740993","huge":"2e+308","zero":"0"}},"created":1768435800}'
        ).encode(),
    ),
]


@pytest.mark.parametrize(("customer_id", "figures", "expected"), BODIES, ids=["plain", "odd"])
def test_the_webhooks_body_to_the_byte(
    customer_id: str, figures: dict[str, Figure], expected: bytes
) -> None:
    """Contract, section 6: its keys in its order, then meterd's; text as JavaScript writes it."""
    closed = Aggregation(customer_id, PeriodType.DAILY, DAY, 1, True, NOW, NOW, figures)
    assert completed_body(closed) == expected
    assert json.loads(expected)["created"] == NOW // 1000


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0.1", "0.1"),
        ("-5", "-5"),
        ("1.7976931348623157E+308", "1.7976931348623157E+308"),
        ("1.7976931348623158E+308", str(2**1024 - 2**971)),
        ("-1.7976931348623158E+308", str(-(2**1024) + 2**971)),
        ("1E+309", str(2**1024 - 2**971)),
        ("-1E+330", str(-(2**1024) + 2**971)),
    ],
)
def test_a_sum_beyond_the_doubles_is_shown_as_the_greatest(value: str, number: str) -> None:
    """A JSON number has nothing better; ``exact`` has all of it."""
    assert as_number(Decimal(value)) == Decimal(number)


def test_exact_figures_are_text_with_every_digit() -> None:
    """In JavaScript's notation, without trailing zeros."""
    figures = {
        "cents": Figure(Operation.SUM, Decimal("12345678901234567890.10"), 2),
        "tiny": Figure(Operation.MIN, Decimal("1E-400"), 1),
    }
    closed = Aggregation("acme", PeriodType.DAILY, DAY, 1, True, NOW, NOW, figures)
    assert exact_figures(closed) == {"cents": "12345678901234567890.1", "tiny": "1e-400"}


def test_what_is_published_is_digested_with_all_before() -> None:
    """By a line that anybody can digest: figures as text, and null for contents never known."""
    figures = {"api": Figure(Operation.SUM, Decimal("1.50"), 2)}
    closed = Aggregation(
        *("acme", PeriodType.DAILY, DAY, 2, True, NOW - 1, NOW, figures),
        contents=b"\xab" * 32,
        previous=b"\xcd" * 32,
    )
    line = (
        f'["aggregation","acme","daily","{closed.period.key}",2,{NOW},'
        f'{{"api":["sum","1.50",2]}},"{"ab" * 32}","{"cd" * 32}"]'
    )
    assert publication_line(closed).decode() == line
    assert closed.digest == hashlib.sha256(line.encode()).digest()
    data = json.loads(completed_body(closed))["data"]
    assert data["digest"] == closed.digest.hex()
    unknown = msgspec.structs.replace(closed, contents=b"")
    assert b',null,"' in publication_line(unknown)
    before = msgspec.structs.replace(closed, contents=b"", previous=b"")
    assert before.digest == b""
    assert "digest" not in json.loads(completed_body(before))["data"]
