"""The whitelist of the fast lane: what is plain, and that everything else is foreign."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.edge.framing import Head, parse_head
from meterd.edge.limits import Limits
from meterd.edge.plain_request import PlainHead, _parse, parse_plain_head
from tests.edge.refused_requests import REFUSED_HEADS

SINGLE = b"POST /usage/api.calls HTTP/1.1"
BATCH = b"POST /usagebatch HTTP/1.1"
HOST = b"Host: a:8080"
LENGTH = b"Content-Length: 12"


def head(*lines: bytes) -> bytes:
    return b"\r\n".join(lines)


PLAIN = [
    (head(SINGLE, HOST, LENGTH), PlainHead("api.calls", 12, None, "", "")),
    (head(BATCH, HOST, b"content-length: 0"), PlainHead(None, 0, None, "", "")),
    (
        head(SINGLE, HOST, LENGTH, b"X-ApiKey:  k ", b"Accept: */*", b"Connection: keep-alive"),
        PlainHead("api.calls", 12, "k", "", ""),
    ),
    (
        head(BATCH, b"Prefer: handling=lenient", b"Authorization: Bearer k", LENGTH, HOST),
        PlainHead(None, 12, None, "Bearer k", "handling=lenient"),
    ),
    (
        head(SINGLE, b'Idempotency-Key: \t"a b" ', HOST, LENGTH),
        PlainHead("api.calls", 12, None, "", "", ('"a b"',)),
    ),
    (
        head(BATCH, HOST, LENGTH, b"idempotency-key:k"),
        PlainHead(None, 12, None, "", "", ("k",)),
    ),
    (
        head(BATCH, HOST, b"X-Request-Id: web-1", LENGTH, b"Idempotency-Key: k"),
        PlainHead(None, 12, None, "", "", ("k",), "web-1"),
    ),
    (head(BATCH, HOST, LENGTH, b"X-Request-ID:a "), PlainHead(None, 12, None, "", "", (), "a")),
    (head(BATCH, HOST, LENGTH, b"x-request-id: no name"), PlainHead(None, 12, None, "", "")),
]

FOREIGN = {
    "another method": head(b"PUT /usagebatch HTTP/1.1", HOST, LENGTH),
    "two request ids": head(BATCH, HOST, LENGTH, b"X-Request-Id: a", b"x-request-id: a"),
    "a request id in capitals": head(BATCH, HOST, LENGTH, b"X-REQUEST-ID: a"),
    "an empty request id": head(BATCH, HOST, LENGTH, b"X-Request-Id:"),
    "another path": head(b"POST /events HTTP/1.1", HOST, LENGTH),
    "a longer path": head(b"POST /usage/a/b HTTP/1.1", HOST, LENGTH),
    "percent-encoded": head(b"POST /usage/api%2Ecalls HTTP/1.1", HOST, LENGTH),
    "a query": head(b"POST /usage/a?b=c HTTP/1.1", HOST, LENGTH),
    "no event type": head(b"POST /usage/ HTTP/1.1", HOST, LENGTH),
    "a doubled slash": head(b"POST //usagebatch HTTP/1.1", HOST, LENGTH),
    "absolute form": head(b"POST http://a/usagebatch HTTP/1.1", HOST, LENGTH),
    "HTTP/1.0": head(b"POST /usagebatch HTTP/1.0", HOST, LENGTH),
    "no host": head(BATCH, LENGTH),
    "two hosts": head(BATCH, HOST, HOST, LENGTH),
    "an odd host": head(BATCH, b"Host: a/b", LENGTH),
    "no length": head(BATCH, HOST),
    "two lengths": head(BATCH, HOST, LENGTH, LENGTH),
    "a signed length": head(BATCH, HOST, b"Content-Length: +12"),
    "a length with a zero before it": head(BATCH, HOST, b"Content-Length: 012"),
    "a list of lengths": head(BATCH, HOST, b"Content-Length: 12, 12"),
    "a chunked body": head(BATCH, HOST, b"Transfer-Encoding: chunked"),
    "a coding beside a length": head(BATCH, HOST, LENGTH, b"Transfer-Encoding: chunked"),
    "expect": head(BATCH, HOST, LENGTH, b"Expect: 100-continue"),
    "upgrade": head(BATCH, HOST, LENGTH, b"Upgrade: h2c"),
    "trailers": head(BATCH, HOST, LENGTH, b"Trailer: x"),
    "an encoded body": head(BATCH, HOST, LENGTH, b"Content-Encoding: gzip"),
    "connection close": head(BATCH, HOST, LENGTH, b"Connection: close"),
    "connection names a field": head(BATCH, HOST, LENGTH, b"Connection: keep-alive, x-apikey"),
    "two keys": head(BATCH, HOST, LENGTH, b"x-apikey: a", b"X-Apikey: b"),
    "an unknown field": head(BATCH, HOST, LENGTH, b"X-Odd: 1"),
    "two idempotency keys": head(BATCH, HOST, LENGTH, b"Idempotency-Key: a", b"idempotency-key: a"),
    "an empty idempotency key": head(BATCH, HOST, LENGTH, b"Idempotency-Key: "),
    "an idempotency key beyond ASCII": head(BATCH, HOST, LENGTH, b"Idempotency-Key: a\xe9"),
    "an idempotency key with a line feed": head(BATCH, HOST, LENGTH, b"Idempotency-Key: a\nb"),
    "an idempotency key for a field's end": head(BATCH, HOST, LENGTH, b"X-Idempotency-Key: a"),
    "an empty field": head(BATCH, HOST, LENGTH, b"Accept:"),
    "a folded field": head(BATCH, HOST, LENGTH, b" Accept: a"),
    "a space before the colon": head(BATCH, HOST, LENGTH, b"Accept : a"),
    "a byte outside ASCII": head(BATCH, HOST, LENGTH, b"Accept: \xe9"),
    "a control character": head(BATCH, HOST, LENGTH, b"Accept: a\x00b"),
    "a bare line feed": head(BATCH, HOST + b"\nAccept: a", LENGTH),
}


@pytest.mark.parametrize(("raw", "parsed"), PLAIN)
def test_plain_heads(raw: bytes, parsed: PlainHead) -> None:
    """What ordinary clients send is served by the fast lane."""
    assert parse_plain_head(raw) == parsed


@pytest.mark.parametrize("raw", FOREIGN.values(), ids=FOREIGN)
def test_everything_else_is_foreign(raw: bytes) -> None:
    """One thing that is not on the list is enough."""
    assert parse_plain_head(raw) is None


# How long a body may be is the lane's to say: it knows the limits.
BY_ITS_HEAD = [name for name, (status, _) in REFUSED_HEADS.items() if status != 413]


@pytest.mark.parametrize("name", BY_ITS_HEAD)
def test_nothing_that_must_be_refused_is_plain(name: str) -> None:
    """Also when it is addressed to the routes of the fast lane."""
    _, raw = REFUSED_HEADS[name]
    addressed = raw.replace(b"POST /echo", b"POST /usagebatch")
    assert parse_plain_head(addressed.partition(b"\r\n\r\n")[0]) is None


lines = st.sampled_from(
    [
        *[HOST, LENGTH, b"Accept: */*", b"x-apikey: k", b"Connection: close", b"X: y", b"\x00"],
        *[b" a", b"Idempotency-Key: k", b"X-Request-Id: a"],
    ]
)


@given(st.sampled_from([SINGLE, BATCH]), st.lists(lines, max_size=5), st.data())
def test_a_plain_head_is_a_strict_head(
    line: bytes, fields: list[bytes], data: st.DataObject
) -> None:
    """What the whitelist takes, the strict check takes too, and finds the same length."""
    raw = bytearray(head(line, *fields))
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    plain = parse_plain_head(bytes(raw))
    if plain is not None:
        strict = parse_head(bytes(raw), Limits())
        assert isinstance(strict, Head)
        assert strict.body_bytes == plain.body_bytes


def test_what_differs_each_time_is_no_other_head() -> None:
    """A proxy that names every request does not have each head parsed anew."""
    before = _parse.cache_info().misses
    for number in range(50):
        names = b"X-Request-Id: unheard-%d" % number, b"Idempotency-Key: %d" % number
        parsed = parse_plain_head(head(SINGLE, HOST, LENGTH, b"User-Agent: unheard", *names))
        assert parsed is not None
        assert parsed.request_id == f"unheard-{number}"
    assert _parse.cache_info().misses == before + 1
