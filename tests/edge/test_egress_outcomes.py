"""What an attempt's log is told: the answer within limits, the address, the class of an error."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest
import trio

from meterd.domain.outcomes import (
    BODY_BYTES_MAX,
    FIELD_BYTES_MAX,
    FIELDS_MAX,
    ErrorKind,
    Outcome,
)
from meterd.edge.egress import open_sender
from tests.edge.receivers import (
    BODY,
    HEADERS,
    LOOPBACK,
    OK,
    TRUSTING_NOBODY,
    Handler,
    Stream,
    answering,
    endpoint,
    listening,
    post,
    request_from,
    resolving,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LINE = b"HTTP/1.1 200 OK\r\n"


async def outcome_of(*answers: bytes) -> Outcome:
    async with listening(answering(*answers)) as receiver:
        return await post(receiver.port)


async def test_all_of_an_answer() -> None:
    """As it was sent: the fields in their order and spelling, and the address that was dialled."""
    answer = b"HTTP/1.1 202 Accepted\r\nX-Id: 7\r\nContent-Length: 12\r\nx-id: 8\r\n\r\n"
    async with listening(answering(answer + b'{"queued":1}')) as receiver:
        assert await post(receiver.port) == Outcome(
            status=202,
            headers=(("X-Id", "7"), ("Content-Length", "12"), ("x-id", "8")),
            body=b'{"queued":1}',
            address=f"127.0.0.1:{receiver.port}",
        )


async def test_all_of_a_refusal() -> None:
    """The same, with what is told to people and to programs."""
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nlater"
    outcome = await outcome_of(answer)
    assert (outcome.error, outcome.kind) == ("HTTP 503: Busy", ErrorKind.STATUS)
    assert (outcome.status, outcome.body) == (503, b"later")
    assert outcome.retry_after_ms(0) == 7000
    assert (await outcome_of(b"HTTP/1.1 410 Gone\r\n\r\n")).gone


@pytest.mark.parametrize(
    ("status", "location", "target"),
    [
        ("302 Found", "https://new.test/hook?token=abc", "https://new.test/hook?token=***"),
        ("301 Moved", "/elsewhere", "http://receiver.test:{port}/elsewhere"),
        ("308 x", "//other.test", "http://other.test"),
        ("307 x", "https://u:p@new.test/#t0ps3cret", "https://new.test/"),
        ("303 x", "https://new.test/0123456789abcdefghij", "https://new.test/***"),
        ("302 x", "http://a:b/", "no URL"),
        ("302 x", "/" + "a/" * 500, "http://receiver.test:{port}/aaa"),
    ],
)
async def test_a_redirect_says_where_it_leads(status: str, location: str, target: str) -> None:
    """And that it is not followed; what may be a token is masked, and a long one cut."""
    answer = f"HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    async with listening(answering(answer)) as receiver:
        outcome = await post(receiver.port)
        target = target.format(port=receiver.port).replace("receiver.test", "127.0.0.1")
    begin = f"HTTP {status.replace(' ', ': ')}; redirects are not followed, it points to "
    assert outcome.error is not None
    assert outcome.error.startswith(begin)
    shown = outcome.error.removeprefix(begin)
    if len(location) > 200:
        assert shown.startswith("http://127.0.0.1:")
        assert (len(shown), shown[-1]) == (200, "…")
    else:
        assert shown == target


async def test_what_only_looks_like_a_redirect() -> None:
    """Says nothing of one."""
    for line in (b"304 Not Modified", b"302 Found", b"500 x"):
        more = b"" if line.startswith(b"302") else b"Location: /x\r\n"
        outcome = await outcome_of(b"HTTP/1.1 %b\r\n%bContent-Length: 0\r\n\r\n" % (line, more))
        assert outcome.error is not None
        assert "redirect" not in outcome.error


async def test_a_body_without_its_framing() -> None:
    """Chunks are put together."""
    outcome = await outcome_of(
        LINE + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n4;x=y\r\n two\r\n0\r\nT: x\r\n\r\n"
    )
    assert (outcome.error, outcome.body) == (None, b"one two")


async def test_a_body_is_kept_as_it_was_sent() -> None:
    """A bomb stays packed."""
    packed = zlib.compress(b"\0" * 1_000_000)
    head = LINE + b"Content-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(packed)
    assert (await outcome_of(head + packed)).body == packed


@pytest.mark.parametrize("over", [0, 1, 3000, 30_000])
@pytest.mark.parametrize("status", [200, 500])
async def test_the_beginning_of_a_long_body(status: int, over: int) -> None:
    """16 KiB, to the byte, whether the rest was read or not."""
    body = bytes(range(256)) * (BODY_BYTES_MAX // 256) + b"z" * over
    head = b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    outcome = await outcome_of(head + body)
    assert outcome.body == body[:BODY_BYTES_MAX]
    assert (outcome.error is None) == (status == 200)


async def test_the_beginning_of_very_many_fields() -> None:
    """64 of them, or 8 KiB."""
    many = b"".join(b"x-%d: y\r\n" % number for number in range(200))
    outcome = await outcome_of(LINE + many + b"\r\n")
    assert [name for name, _ in outcome.headers] == [f"x-{number}" for number in range(FIELDS_MAX)]
    long = b"".join(b"x-%d: %0999d\r\n" % (number, 0) for number in range(10))
    outcome = await outcome_of(LINE + long + b"\r\n")
    assert len(outcome.headers) == FIELD_BYTES_MAX // 1002


async def test_fields_are_latin_1() -> None:
    """Whatever bytes they are of, there is a text of them."""
    outcome = await outcome_of(LINE + b"x: \xe9\xff\r\nContent-Length: 0\r\n\r\n")
    assert outcome.headers[0] == ("x", "\xe9\xff")


async def test_a_token_of_the_url_is_not_repeated() -> None:
    """In the fields, the body, the line for people; at the end of what is kept of a body, too."""
    echo = b"/hook?token=t0ps3cret"
    body = echo + b"." * (BODY_BYTES_MAX - 30) + echo
    head = b"HTTP/1.1 301 %b\r\nLocation: https://a.test%b\r\nContent-Length: %d\r\n\r\n"
    outcome = await outcome_of(head % (echo, echo, len(body)) + body)
    pointed = "redirects are not followed, it points to https://a.test/hook?token=***"
    assert outcome.error == f"HTTP 301: /hook?token=***; {pointed}"
    assert outcome.headers[0] == ("Location", "https://a.test/hook?token=***")
    assert outcome.body.startswith(b"/hook?token=***...")
    assert outcome.body.endswith(b".../hook?token=***")
    assert (await outcome_of(b"no HTTP: " + echo + b"\r\n\r\n")).error == (
        "Parse Error: illegal status line: bytearray(b'no HTTP: /hook?token=***')"
    )


async def test_an_answer_that_broke_off_is_kept_as_far_as_it_came() -> None:
    """A 2xx that is none tells what came of it."""
    outcome = await outcome_of(LINE + b"x: y\r\nContent-Length: 9\r\n\r\nab")
    assert outcome.kind is ErrorKind.RESET
    assert (outcome.status, outcome.body) == (200, b"ab")
    assert outcome.headers == (("x", "y"), ("Content-Length", "9"))


async def test_a_kept_connection_has_an_address_too() -> None:
    """The log of each attempt says where it went, not only that of the first."""
    async with (
        listening(answering(OK, OK)) as receiver,
        open_sender(LOOPBACK, TRUSTING_NOBODY) as sender,
    ):
        url = f"http://127.0.0.1:{receiver.port}/"
        for _ in range(2):
            outcome = await sender.post(url, HEADERS, BODY)
            assert outcome.address == f"127.0.0.1:{receiver.port}"
        assert receiver.connections == 1


async def test_an_address_of_version_6_is_bracketed() -> None:
    """It is told from its port."""
    async with listening(answering(OK)) as receiver:
        port = receiver.port
    outcome = await post(f"http://six.test:{port}/", resolve=resolving(["::1"]))
    assert outcome.kind is ErrorKind.CONNECT
    assert outcome.address == f"[::1]:{port}"


async def test_the_last_address_of_several() -> None:
    """That which the error is about, or the answer is from."""
    async with listening(answering(OK)) as receiver:
        found = resolving(["127.0.0.2", "127.0.0.1"])
        outcome = await post(f"http://two.test:{receiver.port}/", resolve=found)
        assert outcome.address == f"127.0.0.1:{receiver.port}"


async def hang(stream: Stream) -> None:
    await request_from(stream)
    await trio.sleep_forever()


def from_receiver(handler: Handler) -> Callable[[], Awaitable[Outcome]]:
    async def attempt() -> Outcome:
        async with listening(handler) as receiver:
            return await post(receiver.port, deadline_s=0.2)

    return attempt


async def refused_address() -> Outcome:
    return await post("http://127.0.0.1:1/", endpoint())


async def name_unknown() -> Outcome:
    return await post("http://nobody.test/", resolve=resolving([]))


async def look_up_hangs() -> Outcome:
    async def resolve(host: str) -> list[str]:
        await trio.sleep(1000)
        return []

    return await post("http://slow.test/", resolve=resolve, deadline_s=0.01)


async def nobody_listens() -> Outcome:
    return await post("http://127.0.0.1:1/")


async def speaks_plainly() -> Outcome:
    async def handler(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(OK)

    async with listening(handler) as receiver:
        return await post(f"https://127.0.0.1:{receiver.port}/", deadline_s=5)


async def no_url() -> Outcome:
    return await post("http://[::1%25]x/")


KINDS: dict[str, tuple[Callable[[], Awaitable[Outcome]], ErrorKind, bool]] = {
    "no URL": (no_url, ErrorKind.URL, False),
    "a refused address": (refused_address, ErrorKind.REFUSED_ADDRESS, False),
    "an unknown name": (name_unknown, ErrorKind.DNS, False),
    "a look-up that hangs": (look_up_hangs, ErrorKind.TIMEOUT, False),
    "nobody there": (nobody_listens, ErrorKind.CONNECT, True),
    "no answer in time": (from_receiver(hang), ErrorKind.TIMEOUT, True),
    "no TLS": (speaks_plainly, ErrorKind.TLS, True),
    "no answer": (from_receiver(answering(b"")), ErrorKind.RESET, True),
    "half a head": (from_receiver(answering(LINE)), ErrorKind.RESET, True),
    "no HTTP": (from_receiver(answering(b"SSH-2.0\r\n\r\n")), ErrorKind.PROTOCOL, True),
    "hints for ever": (
        from_receiver(answering(b"HTTP/1.1 103 x\r\n\r\n" * 5000)),
        ErrorKind.PROTOCOL,
        True,
    ),
    "a head without end": (
        from_receiver(answering(LINE + b"x: y\r\n" * 20_000)),
        ErrorKind.ANSWER_TOO_LONG,
        True,
    ),
    "a status": (from_receiver(answering(b"HTTP/1.1 404 x\r\n\r\n")), ErrorKind.STATUS, True),
}


@pytest.mark.parametrize(("attempt", "kind", "dialled"), KINDS.values(), ids=KINDS.keys())
async def test_errors_have_classes(
    attempt: Callable[[], Awaitable[Outcome]], kind: ErrorKind, *, dialled: bool
) -> None:
    """For programs; and it is known whether anybody was asked at all."""
    outcome = await attempt()
    assert outcome.error
    assert outcome.kind is kind
    assert (outcome.address is not None) == dialled
