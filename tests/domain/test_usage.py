"""Groups of events by tables, and against fractions however the events are cut into portions."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.event_ids import Stamp, position
from meterd.domain.events import UsageEvent
from meterd.domain.periods import PeriodType, period_at
from meterd.domain.totals import totals_of
from meterd.domain.usage import (
    Groups,
    UsageQuery,
    WindowTotals,
    group_events,
    group_text,
    stored_rows,
)

if TYPE_CHECKING:
    from meterd.domain.usage import GroupKey

HOUR = period_at(PeriodType.HOURLY, 0)
OPEN = WindowTotals(HOUR, closed=False, by_type={})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'"pro"', "pro"),
        (b'""', ""),
        (b'"gr\xc3\xbcn \\u00e9 \\n"', "grün é \n"),
        (b"null", None),
        (b'"null"', "null"),
        (b"1", "1"),
        (b"1.0", "1.0"),
        (b"1e999", "1e999"),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"true", "true"),
        (b'{"b": [1, 2],\n "a": null}', '{"b":[1,2],"a":null}'),
        (b"[]", "[]"),
    ],
)
def test_what_a_value_is_grouped_by(value: bytes, text: str | None) -> None:
    """A string's own text; of anything else its JSON, all digits kept; nothing of null."""
    assert group_text(msgspec.Raw(value)) == text


def test_a_missing_value_is_as_null() -> None:
    """Neither says anything."""
    assert group_text(None) is None


def placed(*events: tuple[str, int, bytes]) -> list[tuple[UsageEvent, bytes]]:
    """One of each type, value and metadata, a millisecond after the other."""
    return [
        (UsageEvent("c", kind, Decimal(value), metadata), position(ms, Stamp(ms, 0, 0).id()))
        for ms, (kind, value, metadata) in enumerate(events)
    ]


def test_the_last_of_doubled_names_is_grouped_by() -> None:
    """As everywhere in JSON."""
    query = UsageQuery("c", PeriodType.HOURLY, group_by=("a",))
    found = group_events(placed(("t", 1, b'{"a":"x","a":"y"}')), query)
    assert list(found) == [("t", ("y",))]


def test_a_name_is_taken_as_it_is() -> None:
    """Dots lead into nothing."""
    query = UsageQuery("c", PeriodType.HOURLY, group_by=("a.b", "a"))
    found = group_events(placed(("t", 1, b'{"a":{"b":1},"a.b":2}')), query)
    assert list(found) == [("t", ("2", '{"b":1}'))]


def test_a_number_and_its_text_are_one_group() -> None:
    """A filter in a URL has no types either."""
    query = UsageQuery("c", PeriodType.HOURLY, group_by=("a",), filters={"a": frozenset("1")})
    found = group_events(placed(("t", 1, b'{"a":1}'), ("t", 2, b'{"a":"1"}')), query)
    assert {key: int(totals.sum) for key, totals in found.items()} == {("t", ("1",)): 3}


def test_rows_are_in_order() -> None:
    """By event type, then by group; what has no value first."""
    groups = Groups()
    query = UsageQuery("c", PeriodType.HOURLY, group_by=("a", "b"))
    for metadata in (b'{"a":"z"}', b'{"b":"y"}', b'{"a":"","b":"x"}', b"{}"):
        groups.add(group_events(placed(("u", 1, metadata), ("t", 1, metadata)), query))
    expected = [(None, None), (None, "y"), ("", "x"), ("z", None)]
    assert [(row.event_type, row.group) for row in groups.rows(OPEN)] == [
        (kind, group) for kind in "tu" for group in expected
    ]


def test_groups_know_what_their_texts_take() -> None:
    """Each once, however often its events come."""
    groups = Groups()
    query = UsageQuery("c", PeriodType.HOURLY, group_by=("a",))
    for text in ("xx", "xx", "yyy", ""):
        groups.add(group_events(placed(("t", 1, f'{{"a":"{text}"}}'.encode())), query))
    groups.add(group_events(placed(("t", 1, b"{}")), query))
    assert (len(groups), groups.texts) == (4, 5)


def test_stored_totals_are_rows_as_they_are() -> None:
    """By event type, in one group."""
    totals = {name: totals_of([Decimal(n)], b"", b"") for n, name in enumerate(("b", "a", "c"))}
    rows = stored_rows(WindowTotals(HOUR, closed=True, by_type=totals))
    assert [(row.event_type, row.group, int(row.totals.sum)) for row in rows] == [
        ("a", (), 1),
        ("b", (), 0),
        ("c", (), 2),
    ]
    assert all(row.closed and row.period is HOUR for row in rows)


VALUES = st.decimals(allow_nan=False, allow_infinity=False, places=9) | st.sampled_from(
    [Decimal("1e308"), Decimal("-1e-400"), Decimal("0.1"), Decimal(9007199254740993)]
)
PLANS = st.sampled_from([None, "pro", "free", ""])


@given(
    events=st.lists(st.tuples(st.sampled_from("tu"), VALUES, PLANS), max_size=40),
    cuts=st.lists(st.integers(1, 7), min_size=1),
    let_through=st.none() | st.sets(st.sampled_from(["pro", "free", ""])),
)
def test_portions_come_to_what_fractions_say(
    events: list[tuple[str, Decimal, str | None]],
    cuts: list[int],
    let_through: set[str] | None,
) -> None:
    """Whatever the portions are, in any order: count, sum, extremes, first and last of each group,
    to the last digit.
    """
    filters = {} if let_through is None else {"plan": frozenset(let_through)}
    query = UsageQuery("c", PeriodType.HOURLY, group_by=("plan",), filters=filters)
    sent = [
        (
            UsageEvent("c", kind, value, msgspec.json.encode({"plan": plan})),
            position(ms // 3, Stamp(ms // 3, ms, 0).id()),
        )
        for ms, (kind, value, plan) in enumerate(events)
    ]
    groups = Groups()
    rest, turn = sent[::-1], 0
    while rest:
        size = cuts[turn % len(cuts)]
        groups.add(group_events(rest[:size], query))
        rest, turn = rest[size:], turn + 1
    expected: defaultdict[GroupKey, list[Decimal]] = defaultdict(list)
    for kind, value, plan in events:
        if let_through is None or plan in let_through:
            expected[kind, (plan,)].append(value)
    found = {(row.event_type, row.group): row.totals for row in groups.rows(OPEN)}
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        totals = found[key]
        assert totals.count == len(values)
        assert Fraction(totals.sum) == sum(map(Fraction, values))
        assert (totals.min, totals.max) == (min(values), max(values))
        assert (totals.first, totals.last) == (values[0], values[-1])
