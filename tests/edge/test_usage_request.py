"""What requests for usage take, and what is said of what they do not take."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

import pytest

from meterd.domain.periods import PeriodType
from meterd.domain.usage import UsageQuery
from meterd.edge.parameters import UnfitParameterError, customer_cursor, window_cursor
from meterd.edge.usage_request import (
    CustomersRequest,
    LiveRequest,
    UsageRequest,
    customers_asked,
    live_usage_asked,
    usage_asked,
)
from tests.fake_clock import ms

HOURLY, DAILY, WEEKLY, MONTHLY, YEARLY = PeriodType
INSTANT: Final = (
    "must be an ISO 8601 date (2026-01-14) or an instant with its offset (2026-01-14T00:00:00.000Z)"
)
EMPTY: Final = "{} must not be empty: give it a value, or leave it out"
CURSOR: Final = "cursor must be taken from the Link header of an earlier answer"
PARAMETERS: Final = (
    "there are customerId, eventType, from, to, window, limit, cursor, groupBy,"
    " filter.metadata.<name>"
)


def pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


JANUARY, FEBRUARY, MARCH = (ms(f"2026-0{month}-01T00:00:00Z") for month in (1, 2, 3))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", UsageQuery("c", DAILY)),
        ("window=yearly&eventType=a/b", UsageQuery("c", YEARLY, "a/b")),
        (
            "window=monthly&from=2026-01-01&to=2026-03-01",
            UsageQuery("c", MONTHLY, None, JANUARY, MARCH),
        ),
        (
            "window=monthly&from=2026-01-01T00:00:00.000Z&to=2026-01-31T23:59:59.999Z",
            UsageQuery("c", MONTHLY, None, JANUARY, FEBRUARY),
        ),
        (
            "window=weekly&from=2026-01-05T02:00:00%2B02:00&to=2026-01-19",
            UsageQuery("c", WEEKLY, None, ms("2026-01-05T00:00:00Z"), ms("2026-01-19T00:00:00Z")),
        ),
        (
            "window=hourly&from=2026-01-05T09:00Z",
            UsageQuery("c", HOURLY, None, ms("2026-01-05T09:00:00Z")),
        ),
        (
            "groupBy=metadata.plan&groupBy=metadata.a.b%20c",
            UsageQuery("c", DAILY, group_by=("plan", "a.b c")),
        ),
        (
            "filter.metadata.plan=pro&filter.metadata.plan=free&filter.metadata.filter.x=1",
            UsageQuery(
                "c",
                DAILY,
                filters={"plan": frozenset(("pro", "free")), "filter.x": frozenset("1")},
            ),
        ),
    ],
)
def test_what_is_asked_for(query: str, expected: UsageQuery) -> None:
    """Days of all event types unless told; a whole answer unless pages are asked for."""
    asked = usage_asked([("customerId", "c"), *pairs(query)])
    assert asked == UsageRequest(expected, None, None)


def test_a_page_goes_on_behind_a_window() -> None:
    """By the cursor that the page before gave."""
    cursor = window_cursor(JANUARY)
    asked = usage_asked(pairs(f"customerId=c&limit=10000&cursor={cursor}"))
    assert asked == UsageRequest(UsageQuery("c", DAILY), 10_000, JANUARY)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("window=daily", "customerId must be given: usage is of one customer"),
        ("customerId=", EMPTY.format("customerId")),
        ("customerId=c&window=", EMPTY.format("window")),
        ("customerId=c&groupBy=", EMPTY.format("groupBy")),
        ("customerId=c&filter.metadata.plan=", EMPTY.format("filter.metadata.plan")),
        ("customerId=c&customerId=d", "customerId must be given once"),
        ("customerId=c&window=daily&window=daily", "window must be given once"),
        ("customerId=c&customer=d", f'"customer" is no parameter; {PARAMETERS}'),
        ("customerId=c&groupby=x", f'"groupby" is no parameter; {PARAMETERS}'),
        ("customerId=c&filter.plan=x", f'"filter.plan" is no parameter; {PARAMETERS}'),
        ("customerId=c&filter.metadata.=x", f'"filter.metadata." is no parameter; {PARAMETERS}'),
        (
            "customerId=c&window=minutely",
            "window must be one of: hourly, daily, weekly, monthly, yearly",
        ),
        ("customerId=c&from=yesterday", f"from {INSTANT}"),
        ("customerId=c&to=2026-13-01", f"to {INSTANT}"),
        (
            "customerId=c&from=2026-01-14T00:00:01Z",
            (
                "from must be where a window that is daily begins, in UTC:"
                " 2026-01-14T00:00:00.000Z or 2026-01-15T00:00:00.000Z"
            ),
        ),
        (
            "customerId=c&window=monthly&to=2026-01-31",
            (
                "to must be where a window that is monthly begins, in UTC:"
                " 2026-01-01T00:00:00.000Z or 2026-02-01T00:00:00.000Z"
            ),
        ),
        (
            "customerId=c&window=weekly&from=2026-01-01",
            (
                "from must be where a window that is weekly begins, in UTC:"
                " 2025-12-29T00:00:00.000Z or 2026-01-05T00:00:00.000Z"
            ),
        ),
        (
            "customerId=c&from=2026-01-14&to=2026-01-14",
            "to must be later than from: it is where the last window ends",
        ),
        (
            "customerId=c&from=2026-01-15&to=2026-01-14",
            "to must be later than from: it is where the last window ends",
        ),
        ("customerId=c&from=1969-12-31", "from must be in the years 1970 to 9998"),
        ("customerId=c&to=9999-12-31", "to must be in the years 1970 to 9998"),
        (
            "customerId=c&window=weekly&from=1970-01-01",
            "from must not be in a week that begins in 1969",
        ),
        (
            "customerId=c&groupBy=plan",
            'groupBy must be metadata.<name>, as in groupBy=metadata.plan, and not "plan"',
        ),
        (
            "customerId=c&groupBy=metadata.",
            'groupBy must be metadata.<name>, as in groupBy=metadata.plan, and not "metadata."',
        ),
        (
            "customerId=c&groupBy=metadata.a&groupBy=metadata.a",
            "groupBy must be up to 4 different names",
        ),
        (
            "customerId=c" + "".join(f"&groupBy=metadata.{n}" for n in range(5)),
            "groupBy must be up to 4 different names",
        ),
        ("customerId=c&limit=10001", "limit must be a whole number from 1 to 10000"),
        ("customerId=c&limit=0", "limit must be a whole number from 1 to 10000"),
        ("customerId=c&cursor=AAAA", CURSOR),
        ("customerId=c&cursor=__________8", CURSOR),
    ],
)
def test_what_is_no_request_for_usage(query: str, error: str) -> None:
    """The parameter is named, and what it takes."""
    with pytest.raises(UnfitParameterError) as refused:
        usage_asked(pairs(query))
    assert str(refused.value) == error


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", LiveRequest(MONTHLY, None)),
        ("period=hourly", LiveRequest(HOURLY, None)),
        ("at=2026-01-01", LiveRequest(MONTHLY, JANUARY)),
        ("at=1970-01-01", LiveRequest(MONTHLY, 0)),
        ("at=1970-01-05&period=weekly", LiveRequest(WEEKLY, ms("1970-01-05T00:00:00Z"))),
    ],
)
def test_which_running_totals_are_asked_for(query: str, expected: LiveRequest) -> None:
    """Those of the month that runs, unless told."""
    assert live_usage_asked(pairs(query)) == expected


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("period=minutely", "period must be one of: hourly, daily, weekly, monthly, yearly"),
        ("period=", EMPTY.format("period")),
        ("period=daily&at=", EMPTY.format("at")),
        ("at=now", f"at {INSTANT}"),
        ("at=9999-01-01", "at must be in the years 1970 to 9998"),
        ("at=1969-12-31T23:59:59.999Z", "at must be in the years 1970 to 9998"),
        ("at=1970-01-04&period=weekly", "at must not be in a week that begins in 1969"),
        ("at=2026-01-01&at=2026-01-02", "at must be given once"),
        ("window=daily", '"window" is no parameter; there are period, at'),
    ],
)
def test_which_totals_there_are_not(query: str, error: str) -> None:
    """As for windows."""
    with pytest.raises(UnfitParameterError) as refused:
        live_usage_asked(pairs(query))
    assert str(refused.value) == error


def test_customers_are_asked_for_in_pages() -> None:
    """A hundred unless told; a cursor is an id that a customer may have."""
    assert customers_asked([]) == CustomersRequest(100, None)
    for name in ("c", "Ærø/1", "x" * 256):
        query = pairs(f"limit=7&cursor={customer_cursor(name)}")
        assert customers_asked(query) == CustomersRequest(7, name)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("limit=10001", "limit must be a whole number from 1 to 10000"),
        ("customerId=c", '"customerId" is no parameter; there are limit, cursor'),
        ("limit=", EMPTY.format("limit")),
        ("cursor=%21", CURSOR),
        ("cursor=_w", CURSOR),
        ("cursor=AA", CURSOR),
        (f"cursor={customer_cursor('x' * 257)}", CURSOR),
    ],
)
def test_customers_are_not_asked_for_otherwise(query: str, error: str) -> None:
    """As for windows."""
    with pytest.raises(UnfitParameterError) as refused:
        customers_asked(pairs(query))
    assert str(refused.value) == error
