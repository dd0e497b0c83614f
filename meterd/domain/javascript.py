"""JSON text as JavaScript writes it: what ``JSON.stringify(JSON.parse(text))`` would answer.

Some receivers verify a signature over their own re-serialisation of a webhook's body, so a body
must be its own JavaScript re-serialisation, byte for byte. The rules are ECMA-262's:
Number::toString for numbers, QuoteJSONString for strings, OrdinaryOwnPropertyKeys for the order of
members. Exact totals that no double holds are written in the same notation, with all their digits.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from json import encoder
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# Integers up to here are doubles (Number.MAX_SAFE_INTEGER), and their digits are their text.
_MAX_SAFE_INTEGER: Final = 2**53 - 1
_ALWAYS_SAFE_DIGITS: Final = 15
_PLAIN_DIGITS_MAX: Final = 21  # longer ones are written with an exponent
_NUMBERS: Final = (int, Decimal)  # a union would be made anew for each value
_MAX_ARRAY_INDEX: Final = 2**32 - 2
_CANONICAL_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,9}")

# Python escapes what QuoteJSONString escapes, in the same spelling, once it leaves non-ASCII alone;
# only lone surrogates remain, and those show when the text is encoded. By way of an encoder object
# the same takes more than twice as long.
_string: Final = encoder.encode_basestring


def encode(value: object) -> bytes:
    """UTF-8 of a dict, list, str, int, Decimal, bool or None, without spaces.

    Members keep the dict's order, except that array indices lead, ascending. Numbers become the
    nearest double's text. Raises TypeError for anything else, floats and keys other than str too.
    """
    text = _text(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Two halves of a pair are one character in JavaScript, however Python came to hold them;
        # a lone half is written as its escape (well-formed JSON.stringify).
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return paired.encode("utf-8", "backslashreplace")


def number_text(value: int | Decimal) -> str:
    """The text of the nearest double, ties to even: ``1e-7``, ``2e+21``, ``0`` for ``-0``.

    The nearest double must be finite: quantities beyond that are refused where they are decoded.
    """
    if isinstance(value, int):
        if -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER:
            return str(value)
    elif len(digits := str(value)) <= _ALWAYS_SAFE_DIGITS and _is_plain(digits):
        return _trimmed(digits)
    double = float(Decimal(value))
    assert math.isfinite(double), "a quantity beyond the doubles was let in"
    if double == 0:
        return "0"
    # Python's digits are JavaScript's: the shortest that read back as the same double, and the
    # nearest of those. Its notation differs only where it turns to an exponent.
    text = repr(double)
    return _notation(text) if "e" in text else text.removesuffix(".0")


def exact_text(value: Decimal) -> str:
    """All digits of a finite number in the notation of ``number_text``, without trailing zeros.

    Wherever the number is what a double's text says, ``number_text`` gives the same text.
    """
    if len(digits := str(value)) <= _PLAIN_DIGITS_MAX and _is_plain(digits):
        return _trimmed(digits)
    assert value.is_finite(), "a total is a number"
    return _notation(f"{value:e}")


def _is_plain(digits: str) -> bool:
    """Whether that text of a Decimal is a number without an exponent. Then it is written without
    one in JavaScript, too, if it is not too long: both begin with one at 1e-7.
    """
    return digits.removeprefix("-").replace(".", "", 1).isdecimal()


def _trimmed(digits: str) -> str:
    if "." in digits:
        digits = digits.rstrip("0").removesuffix(".")
    return "0" if digits == "-0" else digits


def _notation(scientific: str) -> str:
    """``d.ddde±n`` laid out as ECMA-262 Number::toString does for radix 10."""
    mantissa, _, exponent = scientific.partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.removeprefix("-").replace(".", "").rstrip("0")
    point = int(exponent) + 1  # the standard's n: how many digits stand before the point
    if not digits:
        return "0"
    if len(digits) <= point <= 21:
        return f"{sign}{digits:0<{point}}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, dict):
        # Most of what there is, and a call for each takes as long as the text.
        members = [
            f"{_string(key)}:{_string(member) if type(member) is str else _text(member)}"
            for key, member in _in_order(value)
        ]
        return f"{{{','.join(members)}}}"
    if isinstance(value, bool):  # before int, which it is too
        return "true" if value else "false"
    if isinstance(value, _NUMBERS):
        return number_text(value)
    if isinstance(value, list):
        return f"[{','.join([_text(item) for item in value])}]"
    if value is None:
        return "null"
    raise TypeError(f"{type(value).__name__} has no JSON text here")


def _in_order(members: dict[str, object]) -> Iterable[tuple[str, object]]:
    """Array indices ascending, then the others as inserted (ECMA-262 OrdinaryOwnPropertyKeys)."""
    # The comparison looks at the first character only, and refuses a key that is no str.
    if min(members, default=":") >= ":":
        return members.items()
    digits_first = [key for key in members if "0" <= key < ":"]
    indices = [key for key in digits_first if _is_array_index(key)]
    if not indices:
        return members.items()
    return ({key: members[key] for key in sorted(indices, key=int)} | members).items()


def _is_array_index(key: str) -> bool:
    return _CANONICAL_INTEGER.fullmatch(key) is not None and int(key) <= _MAX_ARRAY_INDEX
