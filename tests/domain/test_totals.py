"""The seven operations by tables, and exactness by fractions, which never round."""

from __future__ import annotations

from decimal import Decimal, Inexact
from fractions import Fraction
from functools import reduce
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.domain.operations import Operation
from meterd.domain.totals import NOTHING, Totals, counted, merge, merge_types, totals_of

# Whatever events.py lets in: 64 digits at most, up to 1e308, down to 463 places behind the point.
quantities = st.builds(
    lambda digits, exponent: Decimal(f"{digits}E{exponent}"),
    st.integers(-(10**64) + 1, 10**64 - 1),
    st.integers(-463, 244),
)
placed = st.tuples(quantities, st.integers(0, 2**64))


def at(place: int) -> bytes:
    return place.to_bytes(24, "big")


def of(*values: str) -> Totals:
    """The totals of these values, in the order they came."""
    return totals_of([Decimal(value) for value in values], at(0), at(len(values) - 1))


def of_placed(events: list[tuple[Decimal, int]]) -> Totals:
    each = [totals_of([value], at(place), at(place)) for value, place in events]
    return reduce(merge, each)


# values in their order: sum, avg, min, max, count, first, last
OPERATIONS = [
    ("5", "5 5 5 5 1 5 5"),
    ("0", "0 0 0 0 1 0 0"),
    ("-2.5", "-2.5 -2.5 -2.5 -2.5 1 -2.5 -2.5"),
    ("3 1 2", "6 2 1 3 3 3 2"),
    ("10 15 0.5", "25.5 8.5 0.5 15 3 10 0.5"),
    ("5 -3 10", "12 4 -3 10 3 5 10"),
    ("-1 -2 -3", "-6 -2 -3 -1 3 -1 -3"),
    ("7 7 7 7", "28 7 7 7 4 7 7"),
    ("1 -1", "0 0 -1 1 2 1 -1"),
    # what binary floats get wrong
    ("0.1 0.2", "0.3 0.15 0.1 0.2 2 0.1 0.2"),
    ("0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1", "1 0.1 0.1 0.1 10 0.1 0.1"),
    ("1.005 2.675", "3.68 1.84 1.005 2.675 2 1.005 2.675"),
    (
        "9007199254740993 0",
        "9007199254740993 4503599627370496.5 0 9007199254740993 2 9007199254740993 0",
    ),
    (
        "9007199254740992 1",
        "9007199254740993 4503599627370496.5 1 9007199254740992 2 9007199254740992 1",
    ),
    ("1e16 1 -1e16", "1 0.3333333333333333333333333333333333 -1e16 1e16 3 1e16 -1e16"),
    ("1e308 1e308", "2e308 1e308 1e308 1e308 2 1e308 1e308"),
    ("1e-400 1e-400", "2e-400 1e-400 1e-400 1e-400 2 1e-400 1e-400"),
    (
        "1e308 1e-400 -1e308",
        "1e-400 3.333333333333333333333333333333333e-401 -1e308 1e308 3 1e308 -1e308",
    ),
]


@pytest.mark.parametrize(("values", "results"), OPERATIONS)
def test_the_seven_operations(values: str, results: str) -> None:
    """One total answers for all seven, so an operation may be changed in the middle of a period."""
    total = of(*values.split())
    read = [
        total.read(operation)
        for operation in (
            Operation.SUM,
            Operation.AVG,
            Operation.MIN,
            Operation.MAX,
            Operation.COUNT,
            Operation.FIRST,
            Operation.LAST,
        )
    ]
    assert read == [Decimal(result) for result in results.split()]
    assert len(read) == len(Operation)


@pytest.mark.parametrize(
    ("values", "average"),
    [
        ("1 1 2", "1.333333333333333333333333333333333"),
        ("1 2 2", "1.666666666666666666666666666666667"),
        ("-1 -2 -2", "-1.666666666666666666666666666666667"),
        ("2 0 0", "0.6666666666666666666666666666666667"),
        ("2e-400 0 0", "6.666666666666666666666666666666667e-401"),
        # the 35th digit is a 5 and nothing follows: to the even neighbour
        (
            "1.000000000000000000000000000000001 1.000000000000000000000000000000002",
            "1.000000000000000000000000000000002",
        ),
        (
            "1.000000000000000000000000000000002 1.000000000000000000000000000000003",
            "1.000000000000000000000000000000002",
        ),
        # but anything that follows decides: the sum must not have been rounded before
        (
            "1.000000000000000000000000000000002 1.0000000000000000000000000000000030000000001",
            "1.000000000000000000000000000000003",
        ),
        ("12345678901234567890123456789012345 0", "6172839450617283945061728394506172"),
        ("12345678901234567890123456789012347 0", "6172839450617283945061728394506174"),
    ],
)
def test_an_average_is_rounded_half_even_to_34_digits(values: str, average: str) -> None:
    """As IEEE 754 decimal128 does, once, from the exact sum."""
    assert str(of(*values.split()).read(Operation.AVG)) == str(Decimal(average))


def test_first_and_last_follow_the_positions_not_the_order_of_arrival() -> None:
    """What came late but happened early is the first."""
    total = of_placed([(Decimal(20), 2), (Decimal(30), 3), (Decimal(10), 1)])
    assert (total.first, total.last) == (Decimal(10), Decimal(30))
    assert (total.first_at, total.last_at) == (at(1), at(3))


def test_a_sum_of_ten_thousand_is_exact() -> None:
    """Random quantities of every size against the same sum in fractions."""
    random = Random(20260114)
    values = [
        Decimal(f"{random.randint(-(10**20), 10**20)}E{random.randint(-400, 280)}")
        for _ in range(10_000)
    ]
    fractions = [Fraction(value) for value in values]
    total = totals_of(values, at(0), at(len(values) - 1))
    assert Fraction(total.sum) == sum(fractions)
    assert Fraction(total.min) == min(fractions)
    assert Fraction(total.max) == max(fractions)
    assert total.count == 10_000


@given(st.lists(quantities, min_size=1, max_size=30))
def test_no_total_is_ever_rounded(values: list[Decimal]) -> None:
    """Sum, least and greatest are those of the fractions, over the whole range let in."""
    total = totals_of(values, at(0), at(len(values) - 1))
    fractions = [Fraction(value) for value in values]
    assert Fraction(total.sum) == sum(fractions)
    assert Fraction(total.min) == min(fractions)
    assert Fraction(total.max) == max(fractions)
    assert (total.count, total.first, total.last) == (len(values), values[0], values[-1])


def test_an_addition_that_would_round_fails() -> None:
    """Beyond what may be let in a sum is our own mistake: loud, never a little wrong."""
    with pytest.raises(Inexact):
        of("1e600", "1e-463")
    with pytest.raises(Inexact):
        merge(of("1e600"), of("1e-463"))


@given(
    st.lists(placed, min_size=2, max_size=12, unique_by=lambda event: event[1]),
    st.integers(1, 11),
)
def test_merging_is_what_counting_together_would_have_given(
    events: list[tuple[Decimal, int]], cut: int
) -> None:
    """In either order, and wherever the events were cut apart."""
    cut = min(cut, len(events) - 1)
    one, other = of_placed(events[:cut]), of_placed(events[cut:])
    assert merge(one, other) == merge(other, one) == of_placed(events)


@given(st.lists(placed, min_size=3, max_size=3, unique_by=lambda event: event[1]))
def test_merging_is_associative(events: list[tuple[Decimal, int]]) -> None:
    """A day may be made of its hours in any grouping."""
    a, b, c = (of_placed([event]) for event in events)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(st.lists(placed, min_size=2, max_size=12, unique_by=lambda event: event[1]))
def test_counting_one_more_is_merging_it(events: list[tuple[Decimal, int]]) -> None:
    """To the last digit, and wherever the event stands among those before."""
    (value, place), *others = events
    before = of_placed(others)
    after = counted(before, value, at(place))
    assert repr(after) == repr(merge(before, totals_of([value], at(place), at(place))))


@pytest.mark.parametrize("value", ["1.0", "1", "1.00"])
def test_of_equal_values_the_earlier_stays(value: str) -> None:
    """So that what is read does not depend on which of the ways it was counted."""
    before, one = of("1.0"), totals_of([Decimal(value)], at(5), at(5))
    after = counted(before, Decimal(value), at(5))
    assert repr(after) == repr(merge(before, one))
    assert (str(after.min), str(after.max), str(after.last)) == ("1.0", "1.0", value)


def test_counting_beyond_what_may_be_let_in_fails() -> None:
    """As merging does."""
    with pytest.raises(Inexact):
        counted(of("1e600"), Decimal("1e-463"), at(1))


def test_types_are_merged_each_for_itself() -> None:
    """Types of both sides are in the result; what was merged stays as it was."""
    one = {"api": of("1"), "disk": of("2")}
    other = {"disk": totals_of([Decimal(3)], at(9), at(9)), "mail": of("4")}
    before = (dict(one), dict(other))
    merged = merge_types(one, other)
    assert {name: (total.count, total.sum) for name, total in merged.items()} == {
        "api": (1, Decimal(1)),
        "disk": (2, Decimal(5)),
        "mail": (1, Decimal(4)),
    }
    assert (one, other) == before


def test_nothing_is_open_and_empty() -> None:
    """A period without a record may still be counted in."""
    assert not NOTHING.closed
    assert not NOTHING.by_type
