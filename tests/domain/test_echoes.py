"""Tokens of a URL in what its receiver answers."""

from __future__ import annotations

import html
import json
import string
from urllib.parse import quote, quote_plus, unquote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from meterd.domain.echoes import Echoes
from meterd.domain.endpoints import masked_url

HOOK = "https://x.test/hook?token=t0ps3cret"


@pytest.mark.parametrize(
    ("url", "echo", "masked"),
    [
        (HOOK, b"Cannot POST /hook?token=t0ps3cret", b"Cannot POST /hook?token=***"),
        (HOOK, b"//y/?to=%2Fhook%3Ftoken%3Dt0ps3cret", b"//y/?to=%2Fhook%3Ftoken%3D***"),
        (HOOK, b"t0ps3cret, t0ps3cret", b"***, ***"),
        (HOOK, b"t0ps3cre token=other", b"t0ps3cre token=other"),
        ("https://x.test/a", b"https://x.test/a", b"https://x.test/a"),
        # In a path only what is hidden where the URL is shown.
        (
            "https://x.test/services/T0AAAAAAAAAAAAAAAAAAAAAA/b",
            b"/services/T0AAAAAAAAAAAAAAAAAAAAAA/b",
            b"/services/***/b",
        ),
        # A short one is a token behind its name, and else a word like any other.
        ("https://x.test/?v=1", b"/?v=1 1 11 v=12 rev=1", b"/?v=*** 1 11 v=12 rev=1"),
        ("https://x.test/?v=1", b'{"v": "1"} v%3D1&', b'{"v": "***"} v%3D***&'),
        ("https://x.test/?abc", b"abc /?abc?abcd", b"abc /?***?abcd"),
        ("https://x.test/?v=&a=", b"v=&a=1", b"v=&a=1"),
        # The longer of two that begin alike.
        (
            "https://x.test/?a=12345678&b=123456789",
            b"123456789 12345678",
            b"*** ***",
        ),
        # Written in one way, repeated in another.
        ("https://x.test/?token=a%2fb%3Dc+d%20e", b"a/b=c d e", b"***"),
        ("https://x.test/?token=a/b=c%2Bd_e", b"a%2Fb%3dc%2bd_e", b"***"),
        ("https://x.test/?token=a/b=c%2Bd_e", b"a%252Fb%253Dc%252Bd_e", b"***"),
        ("https://x.test/?token=a/b=c%2Bd_e", rb"a\/b\u003dc\u002Bd_e", b"***"),
        ("https://x.test/?token=%3Ca%27b%22c%26%3E", b"&lt;a&#x27;b&quot;c&amp;&gt;", b"***"),
        ("https://x.test/?token=%3Ca%27b%22c%26%3E", b"&#60;a&#039;b&#34;c&amp;&#x3E;", b"***"),
        ("https://x.test/?token=%C3%A9t%C3%A9-2026", "été-2026".encode(), b"***"),
    ],
)
def test_tokens_are_masked(url: str, echo: bytes, masked: bytes) -> None:
    """In every common spelling, and nothing else is."""
    assert Echoes(url).masked(echo) == masked


@given(st.text(string.ascii_letters + string.digits + "-._~!$'()*,;=:@/%+<>\"", min_size=8))
@example("t0ps3cret")
def test_what_programs_make_of_a_token(token: str) -> None:
    """As it stands in the URL, decoded, and then encoded by what servers use."""
    written = quote(token)
    decoded = unquote_plus(written)
    assume(len(written) < 1000)
    echoes = Echoes(f"https://x.test/hook?token={written}")
    for form in (
        written,
        decoded,
        quote(decoded, safe=""),
        quote_plus(decoded),
        quote(quote(decoded, safe=""), safe=""),
        html.escape(decoded),
        json.dumps(decoded)[1:-1],
        json.dumps(decoded)[1:-1].replace("/", "\\/"),
    ):
        assert echoes.masked(b"<%b>" % form.encode()) == b"<***>", form


def test_of_very_many_the_longest_count() -> None:
    """They are tokens, if any are, and each takes time."""
    many = "&".join(f"n{number}={number}" for number in range(300))
    token = "t0ps3cret"
    assert Echoes(f"https://x.test/?{many}&t={token}").masked(b"n1=1 t0ps3cret") == b"n1=1 ***"


def test_text_stays_text() -> None:
    """Also around a token, and where a URL has none."""
    assert Echoes(HOOK).masked_text("où: t0ps3cret…") == "où: ***…"
    assert Echoes("https://x.test/").masked_text("où…") == "où…"
    assert Echoes(HOOK).masked_text(HOOK) == masked_url(HOOK)
