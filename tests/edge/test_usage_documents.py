"""Usage as JSON and as CSV: every key, every digit, and text that must not break a line or run."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest

from meterd.domain.config import EventType
from meterd.domain.operations import Operation
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.totals import Totals, totals_of
from meterd.domain.usage import Customer, CustomerUsage, Group, UsageQuery, UsageRow, WindowTotals
from meterd.edge.usage_documents import (
    csv_head,
    csv_row,
    customer_document,
    live_document,
    row_document,
)
from tests.fake_clock import ms

DAY = period_at(PeriodType.DAILY, ms("2026-01-14T11:00:00Z"))
TYPES = {"calls": EventType(Operation.SUM), "storage": EventType(Operation.AVG)}


def totals(*values: str) -> Totals:
    return totals_of([Decimal(value) for value in values], b"", b"")


def row(found: Totals, group: Group = (), event_type: str = "calls") -> UsageRow:
    return UsageRow(DAY, True, event_type, group, found)


def test_a_customer() -> None:
    """The id, and when the first of its events was received."""
    shown = json.loads(customer_document(Customer("Ærø", DAY.start_ms)))
    assert shown == {"customerId": "Ærø", "firstSeen": "2026-01-14T00:00:00.000Z"}


def test_a_row_has_doubles_and_every_digit() -> None:
    """Keys in this order; ``exact`` where a double would round."""
    found = totals("9007199254740993", "0.1", "-1")
    shown = row_document(row(found), UsageQuery("c", PeriodType.DAILY), TYPES)
    assert shown.decode() == (
        '{"customerId":"c","window":"daily","periodStart":"2026-01-14T00:00:00.000Z",'
        '"periodEnd":"2026-01-14T23:59:59.999Z","periodKey":"20260114","status":"closed",'
        '"eventType":"calls","operation":"sum","value":9007199254740992,"count":3,'
        '"sum":9007199254740992,"avg":3002399751580330.5,"min":-1,"max":9007199254740992,'
        '"first":9007199254740992,"last":-1,"exact":{"value":"9007199254740992.1",'
        '"sum":"9007199254740992.1","avg":"3002399751580330.7","min":"-1",'
        '"max":"9007199254740993","first":"9007199254740993","last":"-1"}}'
    )


def test_a_sum_beyond_the_doubles() -> None:
    """The greatest double, and the text has it whole."""
    shown = row_document(row(totals("1e308", "1e308")), UsageQuery("c", PeriodType.DAILY), TYPES)
    assert json.loads(shown)["sum"] == 1.7976931348623157e308
    assert json.loads(shown)["exact"]["sum"] == "2e+308"


def test_a_group_is_named_as_it_was_asked_for() -> None:
    """Missing values are null."""
    query = UsageQuery("c", PeriodType.DAILY, group_by=("plan", "a.b"))
    shown = json.loads(row_document(row(totals("1"), ("pro", None)), query, TYPES))
    assert shown["group"] == {"metadata.plan": "pro", "metadata.a.b": None}
    assert list(shown)[6:8] == ["eventType", "group"]


def test_a_type_that_is_configured_no_more() -> None:
    """Its totals are there; which of them counts nobody says."""
    shown = json.loads(
        row_document(row(totals("1"), (), "old"), UsageQuery("c", PeriodType.DAILY), TYPES)
    )
    assert (shown["operation"], shown["value"], shown["exact"]["value"]) == (None, None, None)
    assert (shown["sum"], shown["count"]) == (1, 1)


def test_running_totals() -> None:
    """Types in the order of the configuration, then the others; each with all there is."""
    by_type = {"a-old": totals("5"), "storage": totals("1", "2"), "calls": totals("7")}
    usage = CustomerUsage("c", DAY.start_ms + 1, WindowTotals(DAY, False, by_type))
    shown = json.loads(live_document(usage, TYPES))
    assert list(shown["usage"]) == ["calls", "storage", "a-old"]
    assert shown["usage"].pop("storage") == {
        "operation": "avg",
        "value": 1.5,
        "count": 2,
        "sum": 3,
        "avg": 1.5,
        "min": 1,
        "max": 2,
        "first": 1,
        "last": 2,
        "exact": {
            "value": "1.5",
            "sum": "3",
            "avg": "1.5",
            "min": "1",
            "max": "2",
            "first": "1",
            "last": "2",
        },
    }
    del shown["usage"]
    assert shown == {
        "customerId": "c",
        "firstSeen": "2026-01-14T00:00:00.001Z",
        "period": "daily",
        "periodStart": "2026-01-14T00:00:00.000Z",
        "periodEnd": "2026-01-14T23:59:59.999Z",
        "periodKey": "20260114",
        "status": "open",
    }


def test_running_totals_of_nobody() -> None:
    """Nothing used, never seen."""
    usage = CustomerUsage("c", None, WindowTotals(DAY, False, {}))
    shown = json.loads(live_document(usage, TYPES))
    assert (shown["firstSeen"], shown["usage"]) == (None, {})


def test_csv() -> None:
    """A head and lines that end as RFC 4180 says; numbers are exact."""
    query = UsageQuery("c", PeriodType.DAILY, group_by=("plan",))
    text = csv_head(query) + csv_row(row(totals("0.1", "-0.30"), ("pro",)), query, TYPES)
    assert text.decode() == (
        "customerId,window,periodStart,periodEnd,periodKey,status,eventType,metadata.plan,"
        "operation,value,count,sum,avg,min,max,first,last\r\n"
        "c,daily,2026-01-14T00:00:00.000Z,2026-01-14T23:59:59.999Z,20260114,closed,calls,pro,"
        "sum,-0.2,2,-0.2,-0.1,-0.3,0.1,0.1,-0.3\r\n"
    )
    without = csv_row(row(totals("1"), (None,), "old"), query, TYPES).decode()
    assert ",old,,,,1,1,1,1,1,1,1\r\n" in without


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a,b", "a,b"),
        ('say "no"', 'say "no"'),
        ("two\r\nlines", "two\r\nlines"),
        ("", ""),
        (" x ", " x "),
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1+1", "'+1+1"),
        ("-1\n", "'-1\n"),
        ("-cmd", "'-cmd"),
        ("+4930123", "+4930123"),
        ("-1.5", "-1.5"),
        ("\tx", "'\tx"),
        ("\n=1+1", "'\n=1+1"),
        ("\N{FULLWIDTH EQUALS SIGN}1+1", "'\N{FULLWIDTH EQUALS SIGN}1+1"),
        ("\N{FULLWIDTH COMMERCIAL AT}a", "'\N{FULLWIDTH COMMERCIAL AT}a"),
        ("a=1", "a=1"),
    ],
)
def test_what_customers_write_stays_in_its_field(value: str, written: str) -> None:
    """Whatever a reader of CSV makes of it; and no spreadsheet takes it for a formula."""
    query = UsageQuery(value, PeriodType.DAILY, group_by=("plan",))
    text = csv_head(query) + csv_row(row(totals("1"), (value,)), query, TYPES)
    [found] = csv.DictReader(io.StringIO(text.decode(), newline=""), strict=True)
    assert found["metadata.plan"] == written
    assert found["customerId"] == value, "who asks knows whom he asks for"
    assert found["last"] == "1"


def test_an_empty_text_is_not_nothing() -> None:
    """Quoted, as importers tell the two apart."""
    query = UsageQuery("c", PeriodType.DAILY, group_by=("a", "b"))
    assert b',calls,"",,sum,' in csv_row(row(totals("1"), ("", None)), query, TYPES)
