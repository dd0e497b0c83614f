"""Deliveries to receivers on loopback, honest and hostile, and what is said of each."""

from __future__ import annotations

import logging
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.answers import ANSWER_BYTES_MAX
from meterd.edge.egress import DEADLINE_S, open_sender
from tests.edge.receivers import (
    BODY,
    HEADERS,
    LOOPBACK,
    OK,
    TRUSTING_NOBODY,
    Handler,
    Stream,
    answering,
    error_from,
    listening,
    post,
    request_from,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

    from meterd.edge.egress import Sender


@pytest.fixture
def jumping(autojump_clock: MockClock) -> MockClock:
    """A clock that jumps when nothing happens, and not while loopback still carries something."""
    autojump_clock.autojump_threshold = 0.02
    return autojump_clock


# -- what is sent ---------------------------------------------------------------------------------


async def test_the_request_is_what_the_caller_gave_and_little_else() -> None:
    """Beside the given fields: where it goes, how long it is, and that nothing may be encoded."""
    requests: list[bytes] = []
    async with listening(answering(OK, requests=requests)) as receiver:
        assert (await post(receiver.port)).error is None
    head, _, body = requests[0].partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    assert line == b"POST /hook?token=t0ps3cret HTTP/1.1"
    assert sorted(fields) == [
        b"Accept-Encoding: identity",
        b"Content-Length: 32",
        b"Content-Type: application/json",
        b"Host: 127.0.0.1:%d" % receiver.port,
        b"User-Agent: meterd/0",
        b"webhook-id: msg_1",
    ]
    assert body == BODY


async def test_one_connection_serves_the_next_post_and_carries_no_cookie() -> None:
    """Connections are kept; what a receiver wants remembered is not."""
    cookie = OK.replace(b"\r\n", b"\r\nSet-Cookie: who=you\r\n", 1)
    requests: list[bytes] = []
    async with listening(answering(cookie, OK, requests=requests)) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        async with open_sender(LOOPBACK, TRUSTING_NOBODY) as sender:
            assert (await sender.post(url, HEADERS, BODY)).error is None
            assert (await sender.post(url, HEADERS, BODY)).error is None
        assert receiver.connections == 1
    assert requests[0] == requests[1]


async def test_the_limit_is_that_of_one_answer() -> None:
    """A kept connection may carry more than one answer may be long."""
    length = ANSWER_BYTES_MAX * 2 // 3
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, b"a" * length)
    async with listening(answering(*[answer] * 3)) as receiver:
        async with open_sender(LOOPBACK, TRUSTING_NOBODY) as sender:
            for _ in range(3):
                url = f"http://127.0.0.1:{receiver.port}/"
                assert (await sender.post(url, HEADERS, BODY)).error is None
        assert receiver.connections == 1


async def test_no_more_connections_than_allowed() -> None:
    """Posts beyond the limit wait for a connection and are sent then."""
    open_now, most = 0, 0

    async def handler(stream: Stream) -> None:
        nonlocal open_now, most
        while await request_from(stream):
            open_now += 1
            most = max(most, open_now)
            await wait_all_tasks_blocked(0.01)
            open_now -= 1
            await stream.send_all(OK)

    errors: list[str | None] = []

    async def send(sender: Sender, url: str) -> None:
        errors.append((await sender.post(url, HEADERS, BODY)).error)

    async with (
        listening(handler) as receiver,
        open_sender(LOOPBACK, TRUSTING_NOBODY, connections_max=2) as sender,
        trio.open_nursery() as nursery,
    ):
        for _ in range(6):
            nursery.start_soon(send, sender, f"http://127.0.0.1:{receiver.port}/")
    assert errors == [None] * 6
    assert (receiver.connections, most) == (2, 2)


async def test_the_environment_does_not_reroute_deliveries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HTTP_PROXY is for people's tools; a delivery goes to its receiver."""
    async with listening(answering(OK)) as proxy, listening(answering(OK)) as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await post(receiver.port)).error is None
        assert (proxy.connections, receiver.connections) == (0, 1)


async def test_no_log_holds_the_url(caplog: pytest.LogCaptureFixture) -> None:
    """Receivers are told their tokens in the URL: at no level does it reach the log."""
    caplog.set_level(logging.DEBUG)
    async with listening(answering(OK)) as receiver:
        assert (await post(receiver.port)).error is None
    assert "t0ps3cret" not in caplog.text


# -- what is answered -----------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"
NOT_FOLLOWED = "redirects are not followed, it points to"
STATUSES = {
    "ok": (OK, None),
    "created, without a length": (b"HTTP/1.1 201 Created\r\n\r\nbody", None),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", None),
    "an unknown success": (b"HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n", None),
    "the old protocol": (b"HTTP/1.0 200 OK\r\n\r\nok", None),
    "after an early hint": (b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" + OK, None),
    "gzip that is none": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", None),
    "redirect": (
        b"HTTP/1.1 301 Moved Permanently\r\nLocation: http://10.0.0.1/\r\n\r\n",
        f"HTTP 301: Moved Permanently; {NOT_FOLLOWED} http://10.0.0.1/",
    ),
    "redirect to nonsense": (
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://a:b/\r\n\r\n",
        f"HTTP 307: Temporary Redirect; {NOT_FOLLOWED} no URL",
    ),
    "an upgrade nobody asked for": (
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "Parse Error: Received server _SWITCH_UPGRADE event without a pending proposal",
    ),
    "unauthorised": (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "HTTP 401: Unauthorized"),
    "gone": (b"HTTP/1.1 410 Gone\r\n\r\n", "HTTP 410: Gone"),
    "failed": (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "HTTP 500: Internal Server Error"),
    "failed in other words": (b"HTTP/1.1 500 Oh  no\r\n\r\n", "HTTP 500: Oh no"),
    "failed in UTF-8": ("HTTP/1.1 500 Où?\r\n\r\n".encode(), "HTTP 500: Où?"),
    "failed in Latin-1": ("HTTP/1.1 500 Où?\r\n\r\n".encode("latin-1"), "HTTP 500: Où?"),
    "failed backwards": ("HTTP/1.1 500 a\u202eb\x85c\r\n\r\n".encode(), "HTTP 500: a b c"),
    "failed without words": (b"HTTP/1.1 500\r\n\r\n", "HTTP 500: Internal Server Error"),
    "failed with a blank": (b"HTTP/1.1 503 \r\n\r\n", "HTTP 503: Service Unavailable"),
    "failed as nobody does": (b"HTTP/1.1 599 \r\n\r\n", "HTTP 599"),
    "failed at length": (b"HTTP/1.1 500 " + b"x" * 600 + b"\r\n\r\n", f"HTTP 500: {'x' * 489}…"),
    "failed and broke off": (
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9\r\n\r\nab",
        "HTTP 502: Bad Gateway",
    ),
    "broke off": (
        HEAD + b"Content-Length: 9\r\n\r\nab",
        (
            "Parse Error: peer closed connection without sending complete message body "
            "(received 2 bytes, expected 9)"
        ),
    ),
    "not HTTP": (
        b"SSH-2.0-x\x1b[31m\r\n\r\n",
        r"Parse Error: illegal status line: bytearray(b'SSH-2.0-x\x1b[31m')",
    ),
    "broken chunks": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "Parse Error: illegal chunk header: bytearray(b'zz\\r\\n')",
    ),
    "head broke off": (HEAD + b"Content-Le", "socket hang up"),
    "nothing": (b"", "socket hang up"),
    "a flood of fields": (
        HEAD + b"".join(b"x-%d: %060d\r\n" % (n, n) for n in range(2000)),
        "Parse Error: Header overflow",
    ),
    "a flood of hints": (
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000 + OK,
        "Parse Error: Too many interim answers",
    ),
    "a flood of hints in one field": (
        HEAD + b"x: " + b"a" * 200_000,
        "Parse Error: Header overflow",
    ),
}


@pytest.mark.parametrize(("answer", "error"), STATUSES.values(), ids=STATUSES.keys())
async def test_what_is_said_of_an_answer(answer: bytes, error: str | None) -> None:
    """2xx is success, whatever it says; all else is an error in one printable, bounded line."""
    assert await error_from(answering(answer)) == error


@pytest.mark.parametrize(
    ("head", "piece"),
    [(b"", b"a" * 60_000), (b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n" * 10_000)],
    ids=["plain", "one-byte chunks"],
)
async def test_an_endless_body_is_cut(head: bytes, piece: bytes) -> None:
    """The status counts; of the body only so much is read, and the connection ends with it."""
    sent = 0

    async def handler(stream: Stream) -> None:
        nonlocal sent
        await request_from(stream)
        await stream.send_all(HEAD + head + b"\r\n")
        while True:
            await stream.send_all(piece)
            sent += len(piece)

    async with listening(handler) as receiver:
        outcome = await post(receiver.port)
        assert (outcome.error, outcome.cut) == (None, True)
        await receiver.ended.wait()
    # What fits into the sockets' buffers on both sides is sent without being read.
    assert sent < ANSWER_BYTES_MAX + 16 * 1024 * 1024


async def test_a_reset_is_named() -> None:
    """The system's name of the error, as Node gives it."""

    async def handler(stream: Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await request_from(stream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    assert await error_from(handler) == "read ECONNRESET"


async def hang(stream: Stream) -> None:
    await request_from(stream)
    await trio.sleep_forever()


async def drip_head(stream: Stream) -> None:
    await request_from(stream)
    for byte in HEAD + b"x-padding: slow":
        await stream.send_all(bytes([byte]))
        await trio.sleep(4)


async def drip_body(stream: Stream) -> None:
    await request_from(stream)
    await stream.send_all(HEAD + b"Content-Length: 1000\r\n\r\n")
    while True:
        await stream.send_all(b"a")
        await trio.sleep(4)


async def refuse_and_drip(stream: Stream) -> None:
    await request_from(stream)
    await stream.send_all(b"HTTP/1.1 500 Oh no\r\nContent-Length: 1000\r\n\r\n")
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (hang, "Request timeout"),
        (drip_head, "Request timeout"),
        (drip_body, "Request timeout"),
        (refuse_and_drip, "HTTP 500: Oh no"),
    ],
)
async def test_one_deadline_ends_every_attempt(
    handler: Handler, error: str, jumping: MockClock
) -> None:
    """15 seconds from the beginning, however busy the receiver looks meanwhile."""
    async with listening(handler) as receiver:
        before_s = trio.current_time()
        assert (await post(receiver.port)).error == error
        assert trio.current_time() - before_s == pytest.approx(DEADLINE_S)
