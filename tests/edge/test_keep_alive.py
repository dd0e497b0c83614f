"""Which connections are used again: those of which all is known that can be."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from meterd.domain.outcomes import ErrorKind
from meterd.edge.dialling import Guard, system_look_up
from meterd.edge.failures import AttemptError
from meterd.edge.keep_alive import ADDRESS, KeptConnections
from tests.edge.receivers import (
    BODY,
    LOOPBACK,
    OK,
    TRUSTING_NOBODY,
    Receiver,
    Stream,
    answering,
    listening,
    request_from,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

# More than the sockets' buffers hold on both sides.
LARGE_BYTES = 16 << 20
HOOK = "http://127.0.0.1:{}/hook"


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a receiver, and of a sender who trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


def connections(at_most: int = 4, tls: ssl.SSLContext | None = None) -> KeptConnections:
    return KeptConnections(Guard(LOOPBACK, system_look_up(), tls or TRUSTING_NOBODY), at_most)


def request_to(receiver: Receiver | int, url: str = HOOK) -> httpx.Request:
    port = receiver if isinstance(receiver, int) else receiver.port
    fields = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(BODY))}
    return httpx.Request("POST", url.format(port), headers=fields, stream=httpx.ByteStream(BODY))


async def ask(kept: KeptConnections, request: httpx.Request) -> tuple[int, bytes]:
    response = await kept.handle_async_request(request)
    return response.status_code, await response.aread()


async def test_it_serves_an_httpx_client() -> None:
    """It is a transport like any other."""
    answer = OK.replace(b"\r\n", b"\r\nX-Y: z\r\n", 1)
    async with listening(answering(answer, answer)) as receiver:
        async with httpx.AsyncClient(transport=connections(), trust_env=False) as client:
            for _ in range(2):
                response = await client.post(HOOK.format(receiver.port), content=BODY)
                assert (response.status_code, response.text) == (200, "ok")
                assert response.headers["x-y"] == "z"
        assert receiver.connections == 1


async def test_a_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    """Receivers close idle connections when they like: the request goes over another one."""
    async with listening(answering(OK)) as receiver, connections() as kept:
        for number in range(1, 4):
            assert await ask(kept, request_to(receiver)) == (200, b"ok")
            await receiver.ended.wait()
            await wait_all_tasks_blocked()
            receiver.ended = trio.Event()
            assert receiver.connections == number


async def test_a_connection_that_speaks_unasked_is_not_asked_again() -> None:
    """What it said would be taken for the answer to the next request."""

    async def handler(stream: Stream) -> None:
        await request_from(stream)
        await stream.send_all(OK)
        await wait_all_tasks_blocked()
        await stream.send_all(b"HTTP/1.1 500 Oh no\r\nContent-Length: 0\r\n\r\n")
        spoken.set()
        await trio.sleep_forever()

    spoken = trio.Event()
    async with listening(handler) as receiver, connections() as kept:
        assert await ask(kept, request_to(receiver)) == (200, b"ok")
        await spoken.wait()
        assert await ask(kept, request_to(receiver)) == (200, b"ok")
        assert receiver.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1),
        OK + b"more",
        OK.replace(b"1.1", b"1.0", 1),
    ],
)
async def test_what_is_over_is_not_kept(answer: bytes) -> None:
    """The receiver says so, or cannot be followed any more."""

    async def handler(stream: Stream) -> None:
        await request_from(stream)
        await stream.send_all(answer)
        assert not await request_from(stream)

    async with listening(handler) as receiver, connections() as kept:
        for number in (1, 2):
            assert await ask(kept, request_to(receiver)) == (200, b"ok")
            assert receiver.connections == number


@pytest.mark.parametrize(("idle_s", "expected"), [(3.9, 1), (4.1, 2)])
async def test_a_connection_is_kept_for_four_seconds(
    idle_s: float, expected: int, autojump_clock: MockClock
) -> None:
    """Node closes after five; a request that meets the end of a connection is an attempt lost."""
    autojump_clock.autojump_threshold = 0.02
    async with listening(answering(OK, OK)) as receiver, connections() as kept:
        await ask(kept, request_to(receiver))
        await trio.sleep(idle_s)
        await ask(kept, request_to(receiver))
        assert receiver.connections == expected


@pytest.mark.parametrize(("posts", "expected"), [(29, 1), (31, 2)])
async def test_a_busy_connection_is_kept_for_a_minute(
    posts: int, expected: int, autojump_clock: MockClock
) -> None:
    """Else the name of a receiver with a webhook every few seconds is never looked up again."""
    autojump_clock.autojump_threshold = 0.02
    async with listening(answering(*[OK] * posts)) as receiver, connections() as kept:
        for _ in range(posts):
            await ask(kept, request_to(receiver))
            await trio.sleep(2)
        assert receiver.connections == expected


async def test_what_is_not_used_again_is_closed(autojump_clock: MockClock) -> None:
    """Each in its time, and without a next request: open files are counted."""
    autojump_clock.autojump_threshold = 0.02
    ended: list[float] = []

    async def handler(stream: Stream) -> None:
        while await request_from(stream):
            await trio.sleep(1)
            await stream.send_all(OK)
        ended.append(trio.current_time())

    async with (
        listening(handler) as receiver,
        connections() as kept,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(kept.close_expired)
        for _ in range(2):
            ended.clear()
            began = trio.current_time()
            async with trio.open_nursery() as asking:
                for _ in range(3):
                    asking.start_soon(ask, kept, request_to(receiver))
            await ask(kept, request_to(receiver))
            await trio.sleep(10)
            assert [round(at - began) for at in ended] == [5, 5, 6]
        nursery.cancel_scope.cancel()


async def test_another_receiver_has_another_connection() -> None:
    """A changed URL is dialled, whatever is kept; the old connection is closed."""
    async with (
        listening(answering(OK, OK)) as one,
        listening(answering(OK, OK)) as other,
        connections() as kept,
    ):
        await ask(kept, request_to(one))
        await ask(kept, request_to(other))
        assert (one.connections, other.connections) == (1, 1)
        await one.ended.wait()
        await ask(kept, request_to(other, "http://127.0.0.1:{}/other?path=1"))
        assert (one.connections, other.connections) == (1, 1)


async def test_a_request_that_was_cut_takes_its_connection_with_it() -> None:
    """And leaves its turn to the next: nothing comes of an answer that nobody waits for."""
    asked = trio.Event()

    async def handler(stream: Stream) -> None:
        await request_from(stream)
        asked.set()
        if receiver.connections == 1:
            assert not await request_from(stream)
        await stream.send_all(OK)

    async with listening(handler) as receiver, connections(at_most=1) as kept:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, kept, request_to(receiver))
            await asked.wait()
            nursery.cancel_scope.cancel()
        await receiver.ended.wait()
        assert await ask(kept, request_to(receiver)) == (200, b"ok")


async def test_a_failed_dial_leaves_its_turn() -> None:
    """However often it fails."""
    async with listening(answering(OK)) as receiver:
        port = receiver.port
    async with connections(at_most=1) as kept:
        for _ in range(3):
            with pytest.raises(AttemptError, match="ECONNREFUSED"):
                await ask(kept, request_to(port))


async def test_who_refuses_amid_a_long_request_is_heard() -> None:
    """413, and the connection is reset: the answer counts, though not all could be sent."""

    async def handler(stream: Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 413 Too long\r\nContent-Length: 2\r\n\r\nno")

    async with listening(handler) as receiver, connections() as kept:
        for number in (1, 2):
            assert await ask(kept, long_request_to(receiver)) == (413, b"no")
            assert receiver.connections == number


def long_request_to(receiver: Receiver) -> httpx.Request:
    request = request_to(receiver)
    request.headers["Content-Length"] = str(LARGE_BYTES)
    request.stream = httpx.ByteStream(b"a" * (LARGE_BYTES - 1) + b"z")
    return request


@pytest.mark.parametrize("encrypted", [False, True])
async def test_who_refuses_without_reading_is_heard(
    autojump_clock: MockClock, *, encrypted: bool
) -> None:
    """429 before the body: it says when to come back, and that is not when the deadline is over."""
    autojump_clock.autojump_threshold = 0.02
    server, client = contexts() if encrypted else (None, None)

    async def handler(stream: Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 429 Later\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n")
        await trio.sleep_forever()

    async with listening(handler, server) as receiver, connections(tls=client) as kept:
        for number in (1, 2):
            request = long_request_to(receiver)
            if encrypted:
                request.url = request.url.copy_with(scheme="https")
            with trio.fail_after(10):
                assert await ask(kept, request) == (429, b"")
            assert receiver.connections == number, "half a request stands before the next one"


async def test_who_accepts_before_reading_gets_all() -> None:
    """Some receivers answer first; what they said yes to is theirs."""

    async def handler(stream: Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(OK)
        data = b"a"
        while not data.endswith(b"z"):
            data = bytes(await stream.receive_some(1 << 20))
            assert data, "the sender left before it had sent all"
        all_read.set()
        assert await request_from(stream)
        await stream.send_all(OK)

    all_read = trio.Event()
    async with listening(handler) as receiver, connections() as kept:
        assert await ask(kept, long_request_to(receiver)) == (200, b"ok")
        await all_read.wait()  # else the next one may come in one piece with the end of this
        assert await ask(kept, request_to(receiver)) == (200, b"ok")
        assert receiver.connections == 1


async def test_a_failure_amid_a_long_request_is_one_failure() -> None:
    """And no group of them, whether it ends by itself or is cut."""

    async def handler(stream: Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"no HTTP\r\n\r\n")
        await trio.sleep_forever()

    async with listening(handler) as receiver, connections(at_most=1) as kept:
        for _ in range(2):
            with pytest.raises(AttemptError, match="Parse Error"):
                await ask(kept, long_request_to(receiver))

    async def silent(_: Stream) -> None:
        await trio.sleep_forever()

    async with listening(silent) as receiver, connections() as kept:
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.05):
            await ask(kept, long_request_to(receiver))


async def test_the_address_is_known_as_soon_as_it_is_dialled() -> None:
    """Of kept connections too, and of those that fail."""
    async with listening(answering(OK, OK)) as receiver, connections() as kept:
        port = receiver.port
        for _ in range(2):
            request = request_to(receiver)
            await ask(kept, request)
            assert request.extensions[ADDRESS] == f"127.0.0.1:{port}"
    async with connections() as kept:
        request = request_to(port)
        with pytest.raises(AttemptError):
            await ask(kept, request)
        assert request.extensions[ADDRESS] == f"127.0.0.1:{port}"


async def test_a_body_may_be_left_unread() -> None:
    """The connection is closed with the response, since the rest is still to come."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"a" * 4000
    async with listening(answering(answer)) as receiver, connections(at_most=1) as kept:
        for number in (1, 2):
            response = await kept.handle_async_request(request_to(receiver))
            await response.aclose()
            await response.aclose()
            assert receiver.connections == number


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:{}/", "/hook", "//127.0.0.1:{}/"])
async def test_only_http_is_spoken(url: str) -> None:
    """The configuration refuses such URLs as well."""
    async with connections() as kept:
        with pytest.raises(AttemptError, match="Invalid URL") as caught:
            await ask(kept, request_to(1, url))
        assert caught.value.kind is ErrorKind.URL


async def test_no_header_field_ends_its_line() -> None:
    """Who could write a line break into one would write requests."""
    async with connections() as kept:
        request = request_to(1)
        request.headers["x"] = "y\r\nHost: elsewhere"
        with pytest.raises(AssertionError, match="ends its line"):
            await ask(kept, request)
        request.headers["x"] = "y\0"
        with pytest.raises(AssertionError, match="is none"):
            await ask(kept, request)
