"""What each query parameter takes, and what is said of what it does not take."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from meterd.domain.event_ids import Stamp
from meterd.domain.periods import PeriodType
from meterd.edge.parameters import (
    Parameters,
    UnfitParameterError,
    aggregation_cursor,
    aggregations_asked,
    event_cursor,
    events_asked,
)
from meterd.ledger import AggregationPlace, AggregationQuery, EventQuery
from tests.fake_clock import ms

LIMIT = "limit must be a whole number from 1 to 100000"
PERIOD = "period must be one of: hourly, daily, weekly, monthly, yearly"
CURSOR = "cursor must be taken from the Link header of an earlier answer"
INSTANT = (
    "must be an ISO 8601 date (2026-01-14) or an instant with its offset (2026-01-14T00:00:00.000Z)"
)


@pytest.mark.parametrize(
    ("text", "limit"),
    [(None, 100), ("", 100), ("1", 1), ("100000", 100_000), ("007", 7)],
)
def test_a_limit_is_1_to_100000(text: str | None, limit: int) -> None:
    """100 unless told; an empty one is none."""
    assert Parameters({} if text is None else {"limit": text}).limit() == limit


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "+5", " 5", "100001", "1e3", "1.0", "ten", "٣", "²", "0x10", "9" * 5000, "1\n"],
)
def test_no_other_limit(text: str) -> None:
    """Named, with what it takes; digits of other scripts and huge numbers too."""
    with pytest.raises(UnfitParameterError) as refused:
        Parameters({"limit": text}).limit()
    assert str(refused.value) == LIMIT


MIDNIGHT_MS = ms("2026-01-14T00:00:00Z")


@pytest.mark.parametrize(
    ("text", "instant_ms"),
    [
        ("2026-01-14", MIDNIGHT_MS),
        ("2026-01-14T00:00:00Z", MIDNIGHT_MS),
        ("2026-01-14T00:00:00.123Z", MIDNIGHT_MS + 123),
        ("2026-01-14t00:00:00z", MIDNIGHT_MS),
        ("2026-01-14T02:00:00+02:00", MIDNIGHT_MS),
        ("2026-01-14T02:00:00 02:00", MIDNIGHT_MS),  # what "+02:00" becomes in a query string
        ("2026-01-14T02:00 0200", MIDNIGHT_MS),
        ("2026-01-13T22:30:00-01:30", MIDNIGHT_MS),
        ("2026-01-14 00:00:00Z", MIDNIGHT_MS),
        ("0001-01-01", ms("0001-01-01")),
        ("9999-12-31T23:59:59.999-23:59", ms("9999-12-31T23:59:59.999Z") + 86_340_000),
        ("", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("name", ["from", "to"])
def test_dates_and_instants(name: str, text: str | None, instant_ms: int | None) -> None:
    """A date is its midnight, UTC; an instant says its offset; an empty one is no filter."""
    assert Parameters({} if text is None else {name: text}).instant_ms(name) == instant_ms


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2026-1-4",
        "2026-02-30",
        "20260114",
        "2026-01-14T00:00:00",  # whose midnight?
        "2026-01-14T25:00:00Z",
        "2026-01-14T00:00:00+2",
        "1768348800000",
        "0",
        " ",
        "2026-01-14T00:00:00Z\n",
    ],
)
@pytest.mark.parametrize("name", ["from", "to"])
def test_no_other_instants(name: str, text: str) -> None:
    """Named, with what it takes."""
    with pytest.raises(UnfitParameterError) as refused:
        Parameters({name: text}).instant_ms(name)
    assert str(refused.value) == f"{name} {INSTANT}"


def test_periods_by_name() -> None:
    """The five, written as the contract writes them."""
    for kind in PeriodType:
        assert Parameters({"period": kind.value}).period_type() is kind
    assert Parameters({"period": ""}).period_type() is None
    for unfit in ("Daily", "day", "daily "):
        with pytest.raises(UnfitParameterError) as refused:
            Parameters({"period": unfit}).period_type()
        assert str(refused.value) == PERIOD


def test_what_is_asked_of_events() -> None:
    """Names of the contract; what is not asked is no filter, what is unknown is ignored."""
    asked = Parameters(
        {"customerId": "c", "eventType": "t", "from": "2026-01-14", "to": "2026-01-15", "x": "y"}
    )
    assert events_asked(asked) == EventQuery("c", "t", MIDNIGHT_MS, MIDNIGHT_MS + 86_400_000)
    assert events_asked(Parameters({"customerId": "", "eventType": ""})) == EventQuery()
    assert events_asked(Parameters({"order": "oldest"})) == EventQuery(oldest_first=True)
    assert events_asked(Parameters({"order": "newest"})) == EventQuery()
    with pytest.raises(UnfitParameterError, match="order must be newest or oldest"):
        events_asked(Parameters({"order": "up"}))


def test_what_is_asked_of_aggregations() -> None:
    """As of events, with a period."""
    asked = Parameters({"customerId": "c", "period": "daily", "from": "2026-01-14", "to": ""})
    assert aggregations_asked(asked) == AggregationQuery("c", PeriodType.DAILY, MIDNIGHT_MS)
    assert aggregations_asked(Parameters({})) == AggregationQuery()


def as_text(place: bytes) -> str:
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def packed(*place: Any) -> str:
    return as_text(msgspec.msgpack.encode(place))


@pytest.mark.parametrize("event_id", [Stamp(MIDNIGHT_MS, 3, 5).id(), bytes(16), b"\xff" * 16])
def test_an_event_cursor_comes_back(event_id: bytes) -> None:
    """As text that a URL carries as it is."""
    text = event_cursor(event_id)
    assert text is not None
    assert text.replace("-", "").replace("_", "").isalnum()
    assert Parameters({"cursor": text}).event_cursor() == event_id


@pytest.mark.parametrize("customer_id", ["c", "kunde é \U0001f600", "x" * 256])
def test_an_aggregation_cursor_comes_back(customer_id: str) -> None:
    """Whatever the customer is called."""
    place = AggregationPlace(MIDNIGHT_MS, customer_id, PeriodType.WEEKLY)
    text = aggregation_cursor(place)
    assert text is not None
    assert Parameters({"cursor": text}).aggregation_cursor() == place


def test_the_last_page_has_no_cursor() -> None:
    """And the first page is asked for without one."""
    assert event_cursor(None) is None
    assert aggregation_cursor(None) is None
    for given in ({}, {"cursor": ""}):
        assert Parameters(given).event_cursor() is None
        assert Parameters(given).aggregation_cursor() is None


@pytest.mark.parametrize(
    "text",
    [
        as_text(bytes(15)),
        as_text(bytes(17)),
        as_text(bytes(16))[:-1],
        "!" * 22,
        as_text(bytes(16))[:8] + "!" + as_text(bytes(16))[8:],
        "é" * 22,
        "A" * 5,
        packed(MIDNIGHT_MS, "c", "daily"),
    ],
)
def test_damaged_event_cursors(text: str) -> None:
    """Refused, in one sentence."""
    with pytest.raises(UnfitParameterError) as refused:
        Parameters({"cursor": text}).event_cursor()
    assert str(refused.value) == CURSOR


@pytest.mark.parametrize(
    "text",
    [
        "",
        as_text(b"\xc1"),
        as_text(b"\x93\x00\xa2\xff\xff\xa5daily"),
        packed(MIDNIGHT_MS, "c"),
        packed(MIDNIGHT_MS, "c", "fortnightly"),
        packed("now", "c", "daily"),
        packed(MIDNIGHT_MS, "c", "daily")[:-3],
        packed(-1, "c", "daily"),
        packed(1 << 48, "c", "daily"),
        packed((1 << 64) - 1, "c", "daily"),
        as_text(bytes(16)),
        "A" * 5,
        "é",
    ],
)
def test_damaged_aggregation_cursors(text: str) -> None:
    """Refused, in one sentence; times that no store can hold as well."""
    given = {"cursor": text or "\x00"}
    with pytest.raises(UnfitParameterError) as refused:
        Parameters(given).aggregation_cursor()
    assert str(refused.value) == CURSOR
