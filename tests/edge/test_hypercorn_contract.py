"""What we rely on in hypercorn that it does not promise; another version must pass this first.

And what we work around: where such a test fails, hypercorn was mended, and a guard may go.
"""

from __future__ import annotations

import inspect
import socket
from typing import TYPE_CHECKING, Any, Self, cast

import h2.connection
import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext
from hypercorn.typing import ConnectionState
from trio.testing import wait_all_tasks_blocked

from tests.edge.loopback import GET

if TYPE_CHECKING:
    from collections.abc import Callable


class Wire:
    """All that TCPServer may ask of a connection."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.socket = trio.socket.from_stdlib_socket(ours)
        self.stream = trio.SocketStream(self.socket)
        self.client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self.calls: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.stream.aclose()

    async def receive_some(self, max_bytes: int) -> bytes:
        self.calls.append("receive_some")
        data = await self.stream.receive_some(max_bytes)
        if not data:
            raise trio.ClosedResourceError
        return bytes(data)

    async def send_all(self, data: bytes) -> None:
        self.calls.append("send_all")
        await self.stream.send_all(data)

    async def send_eof(self) -> None:
        self.calls.append("send_eof")
        await self.stream.send_eof()

    async def aclose(self) -> None:
        self.calls.append("aclose")
        await self.stream.aclose()


class Heard(TrioSingleTask):
    """Notes what the idle task is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    async def restart(self, task_group: Any, action: Callable[..., Any]) -> None:
        self.told.append("restart")
        for _ in range(10):  # a few steps, so that others may get ahead
            await trio.lowlevel.checkpoint()

    async def stop(self) -> None:
        self.told.append("stop")


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def make_server(wire: Wire) -> TCPServer:
    server = TCPServer(
        ASGIWrapper(app),
        Config(),
        WorkerContext(max_requests=None),
        ConnectionState({}),
        cast("Any", wire),
    )
    server.idle_task = Heard()
    return server


async def test_idle_task_hears_when_the_next_request_may_come() -> None:
    """Once at the beginning, then "stop" for each request and "restart" behind each answer."""
    wire = Wire()
    server = make_server(wire)
    heard = cast("Heard", server.idle_task)
    async with wire, trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await wait_all_tasks_blocked()
        assert heard.told == ["restart"]
        for _ in range(2):
            await wire.client.send_all(GET)
            await wait_all_tasks_blocked()
            assert (await wire.client.receive_some()).startswith(b"HTTP/1.1 204")
        assert heard.told == ["restart", "stop", "restart", "stop", "restart"]
        await wire.client.send_eof()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_only_these_methods_of_the_stream_are_used() -> None:
    """ClosedResourceError ends the reading, then the stream is closed by send_eof and aclose."""
    wire = Wire()
    async with wire, trio.open_nursery() as nursery:
        nursery.start_soon(make_server(wire).run)
        await wire.client.send_all(GET)
        await wait_all_tasks_blocked()
        assert set(wire.calls) == {"receive_some", "send_all"}
        wire.calls.clear()
        await wire.client.send_eof()
        await wait_all_tasks_blocked()
        assert wire.calls == ["send_eof", "aclose"]


async def test_100_continue_begins_as_we_tell_it_from_an_answer() -> None:
    """The interim answer is sent by itself, in these bytes."""
    wire = Wire()
    async with wire, trio.open_nursery() as nursery:
        nursery.start_soon(make_server(wire).run)
        await wire.client.send_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await wire.client.receive_some()).startswith(b"HTTP/1.1 100 ")
        await wire.client.send_all(b"x")
        assert (await wire.client.receive_some()).startswith(b"HTTP/1.1 204")
        await wire.client.send_eof()


async def test_http2_protocol_keeps_a_buffer_for_each_unfinished_answer() -> None:
    """The protocol in use is found where we look, and its buffers go with END_STREAM."""
    wire = Wire()
    server = make_server(wire)
    async with wire, trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await wait_all_tasks_blocked()
        assert type(server.protocol.protocol) is H11Protocol
        client = h2.connection.H2Connection()
        client.initiate_connection()
        await wire.client.send_all(client.data_to_send())
        await wait_all_tasks_blocked()
        protocol = cast("object", server.protocol.protocol)
        assert isinstance(protocol, H2Protocol)
        assert protocol.stream_buffers == {}
        fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
        client.send_headers(1, fields)
        await wire.client.send_all(client.data_to_send())
        await wait_all_tasks_blocked()
        assert list(protocol.stream_buffers) == [1]
        client.end_stream(1)
        await wire.client.send_all(client.data_to_send())
        await wait_all_tasks_blocked()
        assert protocol.stream_buffers == {}
        nursery.cancel_scope.cancel()


def test_signatures_that_we_call() -> None:
    """Positions and names of what we construct and override."""
    assert [*inspect.signature(TCPServer).parameters] == [
        *("app", "config", "context", "state", "stream"),
    ]
    assert [*inspect.signature(Lifespan).parameters] == ["app", "config", "state"]
    assert [*inspect.signature(WorkerContext).parameters] == ["max_requests"]
    assert [*inspect.signature(ASGIWrapper).parameters] == ["app"]
    assert [*inspect.signature(TrioSingleTask.restart).parameters][1:] == ["task_group", "action"]
    for method in (Logger.warning, Logger.exception):
        assert [*inspect.signature(method).parameters][:2] == ["self", "message"]


def test_settings_that_we_change() -> None:
    """A setting by another name would be taken without a word."""
    for name in (
        *("include_server_header", "h2_max_header_list_size", "keep_alive_max_requests"),
        *("shutdown_timeout", "logger_class"),
    ):
        assert hasattr(Config, name)


async def test_disconnect_still_comes_from_inside_the_last_send() -> None:
    """The reason for holding it back in hypercorn_lane."""
    heard: list[str] = []

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            heard.append("disconnect")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            heard.append("sent")

    wire = Wire()
    server = make_server(wire)
    server.app = ASGIWrapper(listening)
    async with wire, trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await wire.client.send_all(GET)
        await wait_all_tasks_blocked()
        await wire.client.send_eof()
    assert heard == ["disconnect", "sent"]


async def test_late_data_of_http2_still_ends_the_connection() -> None:
    """The reason for ``_Streams``, which is put in place when the first request has begun."""
    wire = Wire()
    server = make_server(wire)
    heard = cast("Heard", server.idle_task)

    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    server.app = ASGIWrapper(hasty)
    with pytest.RaisesGroup(KeyError, flatten_subgroups=True):
        async with wire, trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            client = h2.connection.H2Connection()
            client.initiate_connection()
            fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
            client.send_headers(1, fields)
            await wire.client.send_all(client.data_to_send())
            await wait_all_tasks_blocked()
            assert "stop" in heard.told
            protocol = cast("object", server.protocol.protocol)
            assert isinstance(protocol, H2Protocol)
            assert type(protocol.streams) is dict
            assert protocol.stream_buffers == {}
            client.send_data(1, b"late")
            await wire.client.send_all(client.data_to_send())
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
