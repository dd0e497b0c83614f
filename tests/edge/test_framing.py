"""The strict reading of HTTP/1: what passes, rewritten how, and what is refused as what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.edge.framing import (
    HTTP2_PREFACE,
    Head,
    Phase,
    Refusal,
    RequestFramer,
    body_refusal,
    parse_head,
)
from meterd.edge.limits import KIB, Limits
from tests.edge.refused_requests import CHUNKED_HEAD, REFUSED_BODIES, REFUSED_HEADS, head

LIMITS = Limits()
GET = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
COUNTED = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def passed(framer: RequestFramer) -> bytes | Refusal:
    """All that passes of the request under way, or why it does not."""
    parts = b""
    while part := framer.next_part():
        if isinstance(part, Refusal):
            return part
        parts += part
    return parts


def fed(*pieces: bytes) -> tuple[bytes | Refusal, Phase]:
    framer, parts = RequestFramer(LIMITS), b""
    for piece in pieces:
        framer.feed(piece)
        part = passed(framer)
        if isinstance(part, Refusal):
            return part, framer.phase
        parts += part
    return parts, framer.phase


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("name", REFUSED_HEADS)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "byte by byte"])
def test_head_is_refused(name: str, whole: bool) -> None:
    """A head with two readings, or too large, is refused however it arrives: nothing passes."""
    status, raw = REFUSED_HEADS[name]
    outcome, phase = fed(*([raw] if whole else byte_by_byte(raw)))
    assert isinstance(outcome, Refusal)
    assert outcome.status == status
    assert phase is Phase.HEAD


@pytest.mark.parametrize("name", REFUSED_BODIES)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "byte by byte"])
def test_chunked_body_is_refused(name: str, whole: bool) -> None:
    """So is a chunked body, and its end never passes."""
    status, raw = REFUSED_BODIES[name]
    outcome, _ = fed(CHUNKED_HEAD, *([raw] if whole else byte_by_byte(raw)))
    assert isinstance(outcome, Refusal)
    assert outcome.status == status


@pytest.mark.parametrize(
    "begun",
    [b"POST / HTTP/1.1\n", b"GET / HTTP/1.1\r\nX: \0", b"\x16\x03\x01", b"a" * (16 * KIB + 1)],
)
def test_hopeless_head_is_refused_before_its_end(begun: bytes) -> None:
    """No end is waited for that may never come."""
    assert isinstance(fed(begun)[0], Refusal)


@pytest.mark.parametrize(
    "raw",
    [
        GET,
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: \r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: [::1]:8080\r\nX: \xff\tb\r\nX: b\r\nEmpty: \r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_plain_request_passes_as_it_is(raw: bytes) -> None:
    """What is already plain is not changed."""
    assert fed(raw) == (raw, Phase.ANSWER)
    assert fed(*byte_by_byte(raw)) == (raw, Phase.ANSWER)


@pytest.mark.parametrize(
    ("lines", "rewritten"),
    [
        ([b"X:a", b"Y: \t b \t"], [b"X: a", b"Y: b"]),
        ([b"Connection: Upgrade", b"upgrade: h2c"], [b"Connection: Upgrade"]),
        ([b"Content-Length:0005 "], [b"Content-Length: 0005"]),
    ],
)
def test_head_passes_in_its_plainest_form(lines: list[bytes], rewritten: list[bytes]) -> None:
    """White space has one form, and an offered upgrade is left out."""
    assert fed(head(*lines))[0] == head(*rewritten)


@pytest.mark.parametrize(
    "at_the_limit",
    [
        head(b"X: " + b"a" * (16 * KIB - len(head(b"X: "))), line=b"GET / HTTP/1.1"),
        head(*[b"X: a"] * 63),
        head(line=b"GET /" + b"a" * (8 * KIB - 14) + b" HTTP/1.1"),
        head(b"Content-Length: %d" % LIMITS.body_bytes_max),
        head(b"Content-Length: 000000000000000005"),
    ],
)
def test_limits_are_inclusive(at_the_limit: bytes) -> None:
    """A request that is exactly as large as allowed passes."""
    assert fed(at_the_limit)[0] == at_the_limit
    assert fed(*byte_by_byte(at_the_limit))[0] == at_the_limit


def test_counted_body_ends_where_it_says() -> None:
    """Content-Length bytes are the body; the rest waits."""
    framer = RequestFramer(LIMITS)
    framer.feed(COUNTED + b"hel")
    assert (passed(framer), framer.phase) == (COUNTED + b"hel", Phase.BODY)
    framer.feed(b"loGET")
    assert (passed(framer), framer.phase, framer.buffered) == (b"lo", Phase.ANSWER, 3)


def test_later_request_waits_for_its_turn() -> None:
    """A request passes only after the one before it is answered."""
    framer = RequestFramer(LIMITS)
    framer.feed(GET + COUNTED + b"hello" + GET)
    seen = []
    for _ in range(3):
        seen.append(passed(framer))
        assert framer.next_part() is None
        framer.next_request()
    assert seen == [GET, COUNTED + b"hello", GET]
    assert framer.next_part() is None
    framer.feed(HTTP2_PREFACE)
    assert passed(framer) == Refusal(400, "HTTP version must be 1.0 or 1.1")


def test_http2_preface_opens_the_way() -> None:
    """Behind a preface at the very beginning everything passes as it is."""
    data = HTTP2_PREFACE + bytes(range(256))
    assert fed(data, b"more") == (data + b"more", Phase.HTTP2)
    assert fed(*byte_by_byte(data)) == (data, Phase.HTTP2)


def test_chunks_that_came_together_pass_as_one() -> None:
    """Chunks of one byte cost the parser no more than one large chunk."""
    raw = b"1\r\na\r\n001\r\nb\r\nA\r\n" + b"c" * 10 + b"\r\n0\r\n\r\n"
    assert fed(CHUNKED_HEAD + raw) == (
        CHUNKED_HEAD + b"c\r\nab" + b"c" * 10 + b"\r\n0\r\n\r\n",
        Phase.ANSWER,
    )


@given(chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8), data=st.data())
def test_chunked_body_keeps_its_bytes(chunks: list[bytes], data: st.DataObject) -> None:
    """However chunked and however cut, the same bytes pass, and nothing behind them."""
    raw = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n" + GET
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=6).map(sorted))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    rewritten, phase = fed(CHUNKED_HEAD, *pieces)
    assert phase is Phase.ANSWER
    assert isinstance(rewritten, bytes)
    assert _unchunked(rewritten.removeprefix(CHUNKED_HEAD)) == b"".join(chunks)


def _unchunked(body: bytes) -> bytes:
    content = b""
    while body != b"0\r\n\r\n":
        size, _, rest = body.partition(b"\r\n")
        content += rest[: int(size, 16)]
        body = rest[int(size, 16) :].removeprefix(b"\r\n")
    return content


SHARDS = [
    *(b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"Content-Length: 3\r\n", b"X: a", b"abc"),
    *(b"\r\n", b"\r\n\r\n", b"\r", b"\n", b" ", b":", b"\0", b"\xff", HTTP2_PREFACE),
]


@given(st.lists(st.sampled_from(SHARDS) | st.binary(max_size=3), max_size=12).map(b"".join))
def test_no_bytes_confuse_the_framer(data: bytes) -> None:
    """Whatever arrives passes, waits or is refused; cutting it differently changes nothing."""
    assert fed(data) == fed(*byte_by_byte(data))


def test_refusal_is_a_whole_answer() -> None:
    """A refusal is JSON, is not to be stored, and ends the connection."""
    assert Refusal(431, "Too much").answer() == (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
        b"Content-Length: 20\r\nConnection: close\r\n"
        b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
        b'{"error":"Too much"}'
    )


def test_parsed_head_knows_its_body() -> None:
    """A head says how long its body is, or that it is chunked."""
    for fields, body_bytes in [((b"Content-Length: 7",), 7), ((), 0)]:
        parsed = parse_head(head(*fields)[:-4], LIMITS)
        assert isinstance(parsed, Head)
        assert parsed.body_bytes == body_bytes
    assert parse_head(CHUNKED_HEAD[:-4], LIMITS) == Head(CHUNKED_HEAD, None)


def test_body_limit_is_named_in_its_refusal() -> None:
    """The client is told how much is too much."""
    assert body_refusal(LIMITS.body_bytes_max, LIMITS) is None
    assert body_refusal(LIMITS.body_bytes_max + 1, LIMITS) == Refusal(
        413, "Request body is longer than 4194304 bytes"
    )


@pytest.mark.parametrize(
    ("absolute", "origin"),
    [
        (b"http://a:80/ping?q=1", b"/ping?q=1"),
        (b"HTTPS://a/ping", b"/ping"),
        (b"http://a", b"/"),
        (b"http://a?q=1", b"/?q=1"),
        (b"http://a//ping", b"//ping"),
    ],
)
def test_absolute_form_passes_as_origin_form(absolute: bytes, origin: bytes) -> None:
    """RFC 9112, section 3.2.2: a server takes what only proxies need, and answers for the path."""
    passed, phase = fed(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % absolute)
    assert (passed, phase) == (b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % origin, Phase.ANSWER)
