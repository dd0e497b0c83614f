"""Which thresholds a figure has reached, as an accountant would check it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from meterd.domain import javascript
from meterd.domain.alerts import Alert
from meterd.domain.deliveries import delivery_id
from meterd.domain.hierarchy import NOTHING_CLOSED, closed_with
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.thresholds import (
    Reached,
    Watched,
    is_watched,
    reached_body,
    reached_delivery,
    reached_delivery_id,
)
from meterd.domain.totals import totals_of
from meterd.domain.usage import WindowTotals
from tests.ledger_bench import at

NOW_MS = at("2026-01-14T11:15")
MONTH = period_at(PeriodType.MONTHLY, NOW_MS)
OPERATIONS = {"calls": Operation.SUM, "jobs": Operation.COUNT, "disk": Operation.MAX}
WATCHED = Watched(
    [
        Alert("calls", "calls", PeriodType.MONTHLY, (Decimal(80), Decimal(100))),
        Alert("jobs", "jobs", PeriodType.MONTHLY, (Decimal(3),)),
        Alert("disk", "disk", PeriodType.MONTHLY, (Decimal("0.5"),)),
        Alert("day", "calls", PeriodType.DAILY, (Decimal(1),)),
        Alert("big", "calls", PeriodType.MONTHLY, (Decimal(100), Decimal(5000)), "big"),
    ],
    OPERATIONS,
)


def reached(customer: str, **values: list[str]) -> list[str]:
    """``calls 80 of 99``: what a month with these values has reached."""
    window = WindowTotals(
        MONTH,
        False,
        {
            name: totals_of(list(map(Decimal, all_of)), b"1", b"2")
            for name, all_of in values.items()
        },
    )
    return [
        f"{one.alert}: {one.event_type} {one.threshold} of {one.value}"
        for one in WATCHED.reached(customer, window, NOW_MS, ())
    ]


@pytest.mark.parametrize(
    ("customer", "values", "found"),
    [
        ("acme", {}, []),
        ("acme", {"calls": ["79.99"]}, []),
        ("acme", {"calls": ["79.99", "0.01"]}, ["calls: calls 80 of 80.00"]),
        (
            "acme",
            {"calls": ["9000"]},
            ["calls: calls 80 of 9000", "calls: calls 100 of 9000"],
        ),
        ("acme", {"calls": ["100", "-20.01"]}, []),
        ("acme", {"jobs": ["0", "-5"]}, []),
        ("acme", {"jobs": ["0", "-5", "7"]}, ["jobs: jobs 3 of 3"]),
        ("acme", {"disk": ["0.4", "0.49"]}, []),
        ("acme", {"disk": ["0.4", "0.5", "0.1"]}, ["disk: disk 0.5 of 0.5"]),
        (
            "big",
            {"calls": ["5000"]},
            [
                "calls: calls 80 of 5000",
                "calls: calls 100 of 5000",
                "big: calls 5000 of 5000",
            ],
        ),
        ("acme", {"others": ["9000"]}, []),
    ],
)
def test_what_a_month_has_reached(
    customer: str, values: dict[str, list[str]], found: list[str]
) -> None:
    """A sum by what all come to, a count by how many, a maximum by the greatest."""
    assert reached(customer, **values) == found


def test_whom_alerts_concern() -> None:
    """Nobody is looked at for what no alert asks."""
    kinds = {PeriodType.MONTHLY, PeriodType.DAILY}
    assert WATCHED.periods("acme", ["calls"]) == kinds
    assert WATCHED.periods("acme", ["disk", "others"]) == {PeriodType.MONTHLY}
    assert WATCHED.periods("acme", ["others"]) == set()
    only = Watched([Alert("a", "calls", PeriodType.DAILY, (Decimal(1),), "big")], OPERATIONS)
    assert only.periods("acme", ["calls"]) == set()
    assert only.periods("big", ["calls"]) == {PeriodType.DAILY}


def test_what_is_watched_is_known_again() -> None:
    """So that a reload that changes nothing of it looks at nobody; an operation is part of it."""
    again = Watched(list(WATCHED.alerts), dict(OPERATIONS))
    assert (again == WATCHED, hash(again) == hash(WATCHED)) == (True, True)
    assert Watched(WATCHED.alerts, {**OPERATIONS, "disk": Operation.SUM}) != WATCHED
    assert Watched(WATCHED.alerts[1:], OPERATIONS) != WATCHED


@pytest.mark.parametrize(
    ("instant", "watched"),
    [
        ("2026-01-14T08:59", False),
        ("2026-01-14T09:59", True),  # the last that was closed
        ("2026-01-14T10:01", True),
        ("2026-01-14T12:00", True),
    ],
)
def test_until_when_a_period_is_watched(instant: str, *, watched: bool) -> None:
    """Until the next of its type has closed; here all until ten are."""
    closed = closed_with(period_at(PeriodType.HOURLY, at("2026-01-14T09:00")), NOTHING_CLOSED)
    assert is_watched(period_at(PeriodType.HOURLY, at(instant)), closed) == watched


def test_the_body_is_javascripts() -> None:
    """Numbers that doubles cannot hold are the nearest, and exact as text."""
    body = reached_body(one(threshold="9007199254740993", value="9007199254740993.5"))
    assert body == (
        b'{"type":"usage.threshold.reached","customerId":"acme","period":"monthly","data":'
        b'{"periodStart":"2026-01-01T00:00:00.000Z","periodEnd":"2026-01-31T23:59:59.999Z",'
        b'"periodKey":"202601","timestamp":"2026-01-14T11:15:00.000Z","alert":"calls",'
        b'"eventType":"calls","operation":"sum","threshold":9007199254740992,'
        b'"value":9007199254740994,"eventCount":3,"exact":{"threshold":"9007199254740993",'
        b'"value":"9007199254740993.5"}},"created":1768389300}'
    )
    assert javascript.number_text(Decimal(9007199254740993)) == "9007199254740992"


def test_a_delivery_is_known_by_what_was_reached() -> None:
    """One for each customer, period, type, threshold and endpoint, whatever alert asked and when;
    and never that of an aggregation or a batch.
    """
    first = one()
    ids = {
        reached_delivery_id(first, "billing"),
        reached_delivery_id(first, "crm"),
        reached_delivery_id(one(threshold="81"), "billing"),
        reached_delivery_id(one(customer_id="b"), "billing"),
        reached_delivery_id(one(event_type="jobs"), "billing"),
        reached_delivery_id(one(start_ms=MONTH.end_ms), "billing"),
        delivery_id("billing", "acme_monthly_202601", 1),
    }
    assert len(ids) == 7
    same = one(alert="other", value="99", reached_ms=1, threshold="80.0")
    made = reached_delivery(same, "billing", 5)
    assert made.id == reached_delivery_id(first, "billing")
    assert (made.created_ms, made.next_attempt_ms, made.revision) == (5, 5, 0)
    assert made.threshold is not None
    assert (made.threshold.event_type, made.threshold.value) == ("calls", Decimal(80))


def one(threshold: str = "80", value: str = "81", **changes: object) -> Reached:
    given = {
        "customer_id": "acme",
        "period_type": PeriodType.MONTHLY,
        "start_ms": MONTH.start_ms,
        "event_type": "calls",
        "threshold": Decimal(threshold),
        "operation": Operation.SUM,
        "value": Decimal(value),
        "count": 3,
        "alert": "calls",
        "reached_ms": NOW_MS,
    }
    return Reached(**{**given, **changes})  # type: ignore[arg-type]
