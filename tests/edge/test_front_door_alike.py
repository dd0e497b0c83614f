"""The front door beside hypercorn alone: the same answers to the byte, but for what is meant to
differ, which ``ON_PURPOSE`` lists.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from meterd.edge.problems import ON_EVERY_ANSWER
from tests.edge.encrypted import connect, http2_client_of, served_with
from tests.edge.loopback import UPGRADE, Http2Client, open_door

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

END: Final = b"GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
CHUNKED: Final = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECT: Final = (
    b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
)
NOT_COMPARED: Final = (b"date: ", *(name + b": " for name, _ in ON_EVERY_ANSWER))

ALIKE: Final = {
    "a read": b"GET /x?y=%20z HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD": b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD of a streamed answer": b"HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    "a body with a length": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "a body in chunks": CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    "server-sent events": b"GET /stream HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n",
    "an empty chunked body": CHUNKED + b"0\r\n\r\n",
    "another method": b"PATCH /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "odd names and spaces": b"GET /x HTTP/1.1\r\nhOST:a\r\nX-!#$:  \t v \xe9 \r\nX-Empty:\r\n\r\n",
    "a field given twice": b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\n\r\n",
    "OPTIONS of all": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "two at once": b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
}
# framing.py refuses what could be read in two ways and offers no upgrades; why is said there.
ON_PURPOSE: Final = {
    "h2c": b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    "absolute form": b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a folded line": b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n 2\r\n\r\n",
    "bare line feeds": b"GET /x HTTP/1.1\nHost: a\n\n",
    "two ways to end": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk extension": CHUNKED + b"1;a=b\r\nx\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"1\r\nx\r\n0\r\nX-A: 1\r\n\r\n",
    "an unknown version": b"GET /x HTTP/9.9\r\nHost: a\r\n\r\n",
}


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Says what it was asked; ``/stream`` in events of which nobody knows how many will come."""
    message: Any = await receive()
    if scope["type"] == "lifespan":
        while True:
            await send(cast("Any", {"type": f"{message['type']}.complete"}))
            message = await receive()
    if scope["type"] == "websocket":
        await send(cast("Any", {"type": "websocket.close", "code": 1000, "reason": None}))
        return
    body = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    asked = repr((scope["method"], scope["raw_path"], scope["query_string"])).encode()
    pieces = [asked, b" ", body]
    kept = [pair for pair in scope["headers"] if pair[0].startswith((b"x-", b"host"))]
    headers = [(b"asked", repr(kept).encode("ascii", "replace"))]
    if scope["path"] == "/stream":
        pieces = [b"data: %d\n\n" % number for number in range(5)]
        headers.append((b"content-type", b"text/event-stream"))
    else:
        headers.append((b"content-length", b"%d" % sum(map(len, pieces))))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def hypercorn_alone() -> AsyncIterator[int]:
    """Hypercorn's own connections; the port."""
    config = Config()
    config.include_server_header = False
    context = WorkerContext(max_requests=None)

    async def handle(stream: trio.SocketStream) -> None:
        state = ConnectionState({})
        await TCPServer(ASGIWrapper(app), config, context, state, cast("Any", stream)).run()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        with trio.fail_after(20):
            yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def answers(stream: trio.abc.Stream, *pieces: bytes) -> bytes:
    """All that is answered, but for the date and what we add to every answer; each piece is sent
    when the one before it was answered with something.
    """
    answered = b""
    async with stream:
        for piece in pieces[:-1]:
            await stream.send_all(piece)
            answered += await stream.receive_some(65536)
        await stream.send_all(pieces[-1])
        while data := await stream.receive_some(65536):
            answered += data
    lines = answered.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(NOT_COMPARED))


async def of_all_three(folder: Path, *pieces: bytes) -> list[bytes]:
    """By hypercorn alone, by the front door, and by the front door with TLS."""
    context = served_with(folder)
    async with (
        hypercorn_alone() as port,
        open_door(app) as door,
        open_door(app, tls=lambda: context) as encrypted,
    ):
        return [
            await answers(await trio.open_tcp_stream("127.0.0.1", port), *pieces),
            await answers(await trio.open_tcp_stream("127.0.0.1", door.port), *pieces),
            await answers(await connect(encrypted), *pieces),
        ]


@pytest.mark.parametrize("name", ALIKE)
async def test_what_is_sound_is_answered_alike(tmp_path: Path, name: str) -> None:
    """And the connection goes on."""
    alone, door, encrypted = await of_all_three(tmp_path, ALIKE[name] + END)
    assert alone.startswith(b"HTTP/1.1 200 ")
    assert b"/end" in alone
    assert door == encrypted == alone


async def test_who_asks_first_is_told_alike(tmp_path: Path) -> None:
    """``Expect: 100-continue``."""
    alone, door, encrypted = await of_all_three(tmp_path, EXPECT, b"hello" + END)
    assert alone.startswith(b"HTTP/1.1 100 ")
    assert b" hello" in alone
    assert door == encrypted == alone


@pytest.mark.parametrize("name", ON_PURPOSE)
async def test_what_differs_differs_on_purpose(tmp_path: Path, name: str) -> None:
    """With TLS as without; whoever makes the list longer says why in framing.py."""
    alone, door, encrypted = await of_all_three(tmp_path, ON_PURPOSE[name] + END)
    assert door == encrypted != alone


async def test_a_websocket_stays_an_http1_request(tmp_path: Path) -> None:
    """Hypercorn alone would switch, and then trip over what was sent behind the request."""
    context = served_with(tmp_path)
    async with open_door(app) as door, open_door(app, tls=lambda: context) as encrypted:
        for stream in (
            await trio.open_tcp_stream("127.0.0.1", door.port),
            await connect(encrypted),
        ):
            answered = await answers(stream, UPGRADE + END)
            assert answered.startswith(b"HTTP/1.1 200 ")
            assert b"/end" in answered


async def test_http2_is_answered_alike(tmp_path: Path) -> None:
    """By prior knowledge and by ALPN."""
    context = served_with(tmp_path)
    asked = [(b"/x", b"GET", None), (b"/stream", b"GET", None), (b"/echo", b"POST", b"hello")]
    async with (
        hypercorn_alone() as port,
        open_door(app) as door,
        open_door(app, tls=lambda: context) as encrypted,
    ):
        seen = []
        for client in (
            await _by_prior_knowledge(port),
            await Http2Client.connect(door),
            await http2_client_of(encrypted),
        ):
            async with client:
                streams = [await client.request(*each) for each in [*asked, (b"/x", b"HEAD", None)]]
                seen.append([await client.until_answered(each) for each in streams])
        assert seen[0][1] == (200, b"".join(b"data: %d\n\n" % number for number in range(5)))
        assert seen[0] == seen[1] == seen[2]


async def _by_prior_knowledge(port: int) -> Http2Client:
    client = Http2Client(await trio.open_tcp_stream("127.0.0.1", port))
    await client.flush()
    return client
