"""Webhook bodies against ECMA-262 (https://tc39.es/ecma262), by tables and by Node itself.

The tables name the abstract operation they are read from. Node answers, in one process for the
whole file, ``JSON.stringify(JSON.parse(line))`` for each line, and is the judge of everything else.
"""

from __future__ import annotations

import decimal
import json
import math
import subprocess
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import IntEnum, StrEnum
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meterd.domain.javascript import encode, exact_text, number_text

Reserialise = Callable[[bytes], bytes]

# Lines end at 0x0A alone: Node's readline would also split at U+2028, which JSON leaves as it is.
RESERIALISE = r"""
let pending = Buffer.alloc(0);
process.stdin.on("data", (chunk) => {
  pending = Buffer.concat([pending, chunk]);
  for (let end; (end = pending.indexOf(10)) >= 0; pending = pending.subarray(end + 1)) {
    const line = pending.subarray(0, end).toString("utf8");
    process.stdout.write(JSON.stringify(JSON.parse(line)) + "\n");
  }
});
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Reserialise]:
    with subprocess.Popen(
        ["node", "-e", RESERIALISE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def reserialise(text: bytes) -> bytes:
            stdin.write(text + b"\n")
            stdin.flush()
            return stdout.readline().removesuffix(b"\n")

        yield reserialise


def read(source: str) -> Any:
    return json.loads(source, parse_float=Decimal)


# Number::toString(x, 10): k digits, the point after the nth.
NUMBERS = [
    ("0", "0"),
    ("-0", "0"),  # step 2
    ("-0.000", "0"),
    ("-1E-400", "0"),  # rounds to -0
    ("1E-999999999", "0"),
    ("0E+999999999", "0"),
    ("1", "1"),
    ("-42", "-42"),
    ("100", "100"),
    ("1.0", "1"),
    ("12.50", "12.5"),
    ("0.1", "0.1"),
    ("0.30000000000000004", "0.30000000000000004"),
    ("123e-20", "1.23e-18"),
    # k <= n <= 21: digits, then zeros
    ("1E+16", "10000000000000000"),
    ("1E+20", "100000000000000000000"),
    ("123456789012345680000", "123456789012345680000"),
    ("999999999999999900000", "999999999999999900000"),
    # 0 < n <= 21: a point among the digits
    ("1234.5678", "1234.5678"),
    ("-90071992547.40993", "-90071992547.40993"),
    ("-9007199254740.993", "-9007199254740.992"),  # as short, and nearer to the double
    # -6 < n <= 0: "0.", zeros, digits
    ("0.0001", "0.0001"),
    ("0.00001", "0.00001"),
    ("0.000001", "0.000001"),
    ("-0.00000123", "-0.00000123"),
    # otherwise an exponent, with its sign always
    ("0.0000001", "1e-7"),
    ("0.00000012", "1.2e-7"),
    ("-1E-10", "-1e-10"),
    ("1E+21", "1e+21"),
    ("2000000000000000000000", "2e+21"),
    ("-1.5E+300", "-1.5e+300"),
    ("5E-324", "5e-324"),  # Number.MIN_VALUE
    ("1.7976931348623157E+308", "1.7976931348623157e+308"),  # Number.MAX_VALUE
]


@pytest.mark.parametrize(("decimal_text", "javascript"), NUMBERS)
def test_a_number_is_written_as_the_standard_writes_it(decimal_text: str, javascript: str) -> None:
    """Plain from 1e-6 up to below 1e21, an exponent outside, no ``.0`` and no minus on zero."""
    assert number_text(Decimal(decimal_text)) == javascript


@pytest.mark.parametrize(
    ("value", "javascript"),
    [
        # Number(value): the nearest double, an even significand where two are as near
        (9007199254740991, "9007199254740991"),
        (9007199254740993, "9007199254740992"),
        (-9007199254740993, "-9007199254740992"),
        (9007199254740995, "9007199254740996"),
        (Decimal(9007199254740993), "9007199254740992"),
        (Decimal("9007199254740993.0000000000000000000001"), "9007199254740994"),
        (Decimal("0.1000000000000000055511151231257827021181583404541015625"), "0.1"),
        (10**21, "1e+21"),
        (10**21 - 1, "1e+21"),
        (2**53 * 10**200, "9.007199254740992e+215"),
        (0, "0"),
    ],
)
def test_a_number_becomes_the_nearest_double(value: int | Decimal, javascript: str) -> None:
    """Digits a double cannot hold are rounded once, correctly, as JavaScript's reader rounds."""
    assert number_text(value) == javascript


def test_a_number_beyond_the_doubles_is_our_own_mistake() -> None:
    """Such a quantity is refused at the door, so here it fails an assertion, and at once."""
    beyond: list[int | Decimal] = [
        10**309,
        -(10**5000),
        Decimal("1E+309"),
        Decimal("1E+999999999"),
        Decimal("NaN"),
    ]
    for value in beyond:
        with pytest.raises(AssertionError, match="beyond the doubles"):
            number_text(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("9007199254740993", "9007199254740993"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("12345678901234567890.12345678901234567890", "12345678901234567890.1234567890123456789"),
        ("123456789012345678901.5", "123456789012345678901.5"),
        ("1234567890123456789012.5", "1.2345678901234567890125e+21"),
        ("-1234567890123456789012", "-1.234567890123456789012e+21"),
        ("0.00000010000000000000000000001", "1.0000000000000000000001e-7"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("0E-999999999", "0"),
        ("1.500", "1.5"),
        ("1E+5", "100000"),
        ("1E-999999999", "1e-999999999"),
    ],
)
def test_an_exact_text_keeps_every_digit(value: str, text: str) -> None:
    """The notation is the same, but nothing is rounded, whatever the decimal context says."""
    with decimal.localcontext(decimal.Context(prec=3)):
        assert exact_text(Decimal(value)) == text


def test_an_exact_text_is_of_a_finite_number() -> None:
    """Infinity and NaN are no totals."""
    for value in ("Infinity", "NaN"):
        with pytest.raises(AssertionError, match="is a number"):
            exact_text(Decimal(value))


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_an_exact_text_reads_back_as_the_same_number(value: Decimal) -> None:
    """Nothing is lost: the text is the number, without a trailing zero after the point."""
    text = exact_text(value)
    assert Decimal(text) == value
    assert not (("." in text or "e" in text) and text.partition("e")[0].endswith(("0", ".")))


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e21)
@example(1e-7)
@example(5e-324)
def test_both_texts_agree_where_a_double_says_it_all(double: float) -> None:
    """A receiver sees one spelling of a total that a double's shortest text holds."""
    value = Decimal(repr(double))
    assert exact_text(value) == number_text(value)
    assert float(number_text(value)) == double


# QuoteJSONString: table 76 has the short escapes; other code units below space, and lone
# surrogates, are UnicodeEscape in lowercase hex; everything else stands for itself.
STRINGS = [
    ("plain", b'"plain"'),
    ('"\\/', rb'"\"\\/"'),
    ("\b\t\n\f\r", rb'"\b\t\n\f\r"'),
    ("\x00\x0b\x1f", rb'"\u0000\u000b\u001f"'),
    ("\x7f\x80", b'"\x7f\xc2\x80"'),
    ("é 中 😀", '"é 中 😀"'.encode()),
    ("\u2028\u2029\ufeff", b'"\xe2\x80\xa8\xe2\x80\xa9\xef\xbb\xbf"'),
    ("é\ud800x", b'"\xc3\xa9\\ud800x"'),
    ("\udfff\ud83d", rb'"\udfff\ud83d"'),
    ("\ud83d\ude00", '"😀"'.encode()),  # two halves that Python holds apart
    ("\ud83d\ud83d\ude00", '"\\ud83d😀"'.encode()),
]


@pytest.mark.parametrize(("text", "body"), STRINGS)
def test_a_string_is_escaped_as_the_standard_escapes_it(text: str, body: bytes) -> None:
    """Only what JSON must escape is escaped, in JavaScript's spelling, as value and as key."""
    assert encode(text) == body
    assert encode({text: None}) == b"{" + body + b":null}"


@pytest.mark.parametrize(
    ("keys", "order"),
    [
        (["b", "a"], ["b", "a"]),
        (["b", "10", "a", "9", "0"], ["0", "9", "10", "b", "a"]),
        # canonical numeric strings up to 2**32 - 2 are array indices, and nothing else is
        (["x", "4294967295", "4294967294"], ["4294967294", "x", "4294967295"]),
        (
            ["01", "-1", "1.5", "1e3", "", "٣", "9a", "7"],
            ["7", "01", "-1", "1.5", "1e3", "", "٣", "9a"],
        ),
        (["__proto__", "99999999999", "1"], ["1", "__proto__", "99999999999"]),
    ],
)
def test_array_indices_lead_in_ascending_order(
    keys: list[str], order: list[str], node: Reserialise
) -> None:
    """OrdinaryOwnPropertyKeys: array indices ascending, then the others as they were inserted."""
    body = encode(dict.fromkeys(keys, 1))
    assert list(json.loads(body)) == order
    assert node(body) == body


def test_an_aggregation_is_written_to_the_byte() -> None:
    """A whole body: no spaces, UTF-8, members in order, all kinds of values."""

    class Kind(StrEnum):
        DAILY = "daily"

    class Revision(IntEnum):
        SECOND = 2

    body = encode(
        {
            "type": "aggregation.completed",
            "customerId": "Ærø",
            "period": Kind.DAILY,
            "data": {
                "events": {"api.calls": Decimal("542.0"), "404": Decimal("1E-7")},
                "eventCounts": {"api.calls": 542, "404": 0},
                "empty": [{}, []],
                "revision": Revision.SECOND,
                "flags": [True, False, None],
            },
            "created": 1768389300,
        }
    )
    assert body.decode() == (
        '{"type":"aggregation.completed","customerId":"Ærø","period":"daily","data":{'
        '"events":{"404":1e-7,"api.calls":542},"eventCounts":{"404":0,"api.calls":542},'
        '"empty":[{},[]],"revision":2,"flags":[true,false,null]},"created":1768389300}'
    )


@pytest.mark.parametrize(
    "value", [0.5, b"bytes", (1, 2), {1: "a"}, {None: 1}, [{"a": [1.0]}], {"a": {"b": object()}}]
)
def test_what_has_no_exact_text_is_refused(value: object) -> None:
    """A binary float never slips into a body, nor does anything that JSON has no word for."""
    with pytest.raises(TypeError):
        encode(value)


def doubles(value: Any) -> Any:
    """The same value with every number as the double that a reader makes of it."""
    if isinstance(value, dict):
        return {key: doubles(member) for key, member in value.items()}
    if isinstance(value, list):
        return [doubles(item) for item in value]
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return float(value)
    return value


# Up to 30 digits, from far below the smallest double to near the largest.
FINITE = st.builds(
    lambda digits, exponent: Decimal(f"{digits}E{exponent}"),
    st.integers(-(10**30), 10**30),
    st.integers(-360, 277),
)
NUMBER = st.integers() | FINITE
KEY = st.text(max_size=8) | st.integers(0, 2**33).map(str)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEY, inner, max_size=5),
    max_leaves=20,
)


@given(VALUE)
def test_a_body_reads_back_as_the_value_in_doubles(value: Any) -> None:
    """Nothing but digits beyond a double is lost on the way to the receiver."""
    assert doubles(json.loads(encode(value))) == doubles(value)


@settings(max_examples=300, deadline=None)
@given(value=VALUE)
def test_javascript_writes_a_body_back_byte_for_byte(value: Any, node: Reserialise) -> None:
    """A receiver that verifies over ``JSON.stringify(JSON.parse(body))`` has the body itself."""
    body = encode(value)
    assert node(body) == body


def an_aggregation(rng: Random) -> dict[str, object]:
    """A body of the usual shape, with totals anywhere in the range of the doubles."""
    names = rng.sample(["api.calls", "404", "7", "größe", "storage.bytes", "\U0001f4be"], 4)
    totals: list[int | Decimal] = [
        rng.randrange(10**6),
        Decimal(rng.randrange(10**9)).scaleb(-rng.randrange(12)),
        rng.randrange(2**53, 2**80),
        Decimal(rng.randrange(-(10**25), 10**25)).scaleb(rng.randrange(-340, 280)),
    ]
    return {
        "type": "aggregation.completed",
        "customerId": "".join(map(chr, rng.choices(range(0xD800), k=8))),
        "data": {
            "events": dict(zip(names, totals, strict=True)),
            "exact": dict(zip(names, map(exact_text, map(Decimal, totals)), strict=True)),
            "eventCounts": {name: rng.randrange(10**4) for name in names},
        },
        "created": 1768389300,
    }


def test_a_month_end_of_bodies_is_written_back_byte_for_byte(node: Reserialise) -> None:
    """5000 aggregations, each its own JavaScript re-serialisation."""
    rng = Random(20260131)
    bodies = [encode(an_aggregation(rng)) for _ in range(5000)]
    assert [body for body in bodies if node(body) != body] == []


# JSON as other people write it: any escape, any spelling of a number, a key given twice.
LITERAL = st.from_regex(
    r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,25})?([eE][+-]?([0-9]{1,2}|1[0-9]{2}))?", fullmatch=True
)
ANY_STRING = st.text(st.characters(), max_size=8).map(json.dumps)
SOURCE = st.recursive(
    st.sampled_from(["null", "true", "false"]) | LITERAL | ANY_STRING,
    lambda inner: (
        st.lists(inner, max_size=5).map(lambda items: f"[ {' , '.join(items)} ]")
        | st.lists(
            st.tuples(ANY_STRING | st.integers(0, 20).map(lambda index: f'"{index}"'), inner),
            max_size=5,
        ).map(lambda pairs: f"{{{', '.join(f'{key} : {member}' for key, member in pairs)}}}")
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(source=SOURCE)
def test_any_json_becomes_what_javascript_makes_of_it(source: str, node: Reserialise) -> None:
    """Whatever the text said, encoding it is ``JSON.stringify(JSON.parse(text))``."""
    assert encode(read(source)) == node(source.encode())


@settings(max_examples=300, deadline=None)
@given(double=st.floats(allow_nan=False, allow_infinity=False, width=64))
@example(double=9007199254740992.0)
@example(double=2.2250738585072011e-308)  # the largest subnormal
@example(double=math.nextafter(1e21, 0))
@example(double=math.nextafter(1e-6, 0))
def test_doubles_and_the_middles_between_them_round_as_in_javascript(
    double: float, node: Reserialise
) -> None:
    """A double's exact digits give its shortest text; the exact middle goes to the even one."""
    neighbour = math.nextafter(double, 0.0)
    with decimal.localcontext(decimal.Context(prec=1100)):
        middle = (Decimal(double) + Decimal(neighbour)) / 2
    for value in (Decimal(double), Decimal(repr(double)), middle):
        assert number_text(value).encode() == node(str(value).encode())
