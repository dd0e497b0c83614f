"""Serves one connection with hypercorn; nothing else in meterd knows hypercorn.

Of hypercorn the parser and protocol machine of one connection are used (``TCPServer``), not its
serving loop, whose faults end a process that must not end. What is used is no published interface:
``tests/edge/test_hypercorn_contract.py`` holds it to what is relied on here, which is

- ``idle_task`` hears when a connection is ready for its next request, and is all that closes an
  idle one; the stand-in only passes that on, because the original keeps a task for each connection,
  and with it a connection whose client has left;
- ``context.terminated`` is never set: with it, the GOAWAY of a shutdown overtakes the end of an
  HTTP/2 answer, which the client then takes for cut short;
- a stream with ``do_handshake`` is taken for one with TLS, and what ALPN agreed on is asked of it;
- an HTTP/2 protocol has a buffer for each stream whose answer is not sent to its end;
- it looks up in ``streams`` whose data has come, and fails with the whole connection where that
  stream is over, its client answered before it had sent all (``_Streams`` has one for each);
- h2 keeps to our limit of a head only once the client says that it knows of it: until then, and
  for a client that says nothing for ever, to ``H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE``.
"""

from __future__ import annotations

import math
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.protocol.events import Body
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext
from hypercorn.typing import ConnectionState

from meterd.edge.limits import APPLICATION_STOP_S, Limits, Pace
from meterd.edge.problems import ON_EVERY_ANSWER
from meterd.edge.request_ids import HEADER, fit, is_told
from meterd.edge.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGIReceiveEvent,
        ASGISendCallable,
        ASGISendEvent,
        LifespanState,
        Scope,
        TaskGroup,
    )
    from structlog.typing import FilteringBoundLogger

    from meterd.edge.guarded_stream import GuardedStream
    from meterd.edge.request_log import Asked, RequestLog
    from meterd.edge.turns import Turn

    Application = ASGIFramework

# Hypercorn tells that a request's head was all of it some steps of the scheduler behind the head.
_HEARD_WITHIN_S: Final = 0.002

# Where the ASGI state of a request says which connection it came by.
_STREAM: Final = "meterd.stream"
_ID: Final = HEADER.encode()


class HypercornLane:
    """The application, and what its connections share."""

    def __init__(
        self,
        app: Application,
        limits: Limits,
        log: FilteringBoundLogger,
        requests: RequestLog,
    ) -> None:
        self._app = ASGIWrapper(_guarded(app, limits, requests))
        self._config = _config(limits, log)
        self._unread_bytes_max = limits.body_bytes_max
        self._context = WorkerContext(max_requests=None)
        self._state: LifespanState = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts the application (ASGI lifespan) and stops it at the end, unless cancelled."""
        lifespan = Lifespan(self._app, self._config, self._state)
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            yield
            await lifespan.wait_for_shutdown()
            nursery.cancel_scope.cancel()

    def session(self, stream: GuardedStream) -> HypercornSession:
        state = ConnectionState({**self._state, _STREAM: stream})
        # TCPServer names the TLS stream only, but takes whatever has its methods.
        served = _Encrypted(stream) if stream.transport.is_encrypted else stream
        server = TCPServer(self._app, self._config, self._context, state, cast("Any", served))
        server.idle_task = _BetweenRequests(server, stream, self._unread_bytes_max)
        return HypercornSession(server, stream)


class HypercornSession:
    """One connection in hypercorn's hands."""

    def __init__(self, server: TCPServer, stream: GuardedStream) -> None:
        self._server = server
        self._stream = stream

    async def run(self) -> None:
        """Serves until the stream ends; raises whatever hypercorn trips over."""
        await self._server.run()

    @property
    def idle(self) -> bool:
        """Nothing is being asked, and every answer has been sent to its end."""
        if not self._stream.is_http2:
            return self._stream.between_requests
        protocol = self._server.protocol.protocol
        # Until hypercorn has read the preface, the protocol is still HTTP/1's.
        answered = isinstance(protocol, H2Protocol) and not protocol.stream_buffers
        return answered and not self._stream.leaving


class _Encrypted:
    """The stream as TCPServer asks for one with TLS; its handshake is over."""

    def __init__(self, stream: GuardedStream) -> None:
        self.transport_stream = stream
        self.receive_some = stream.receive_some
        self.send_all = stream.send_all
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose

    async def do_handshake(self) -> None:
        pass

    def selected_alpn_protocol(self) -> str | None:
        return self.transport_stream.transport.protocol


class _BetweenRequests(TrioSingleTask):
    """Hears when a connection is ready for its next request, and when one has begun."""

    def __init__(self, server: TCPServer, stream: GuardedStream, unread_bytes_max: int) -> None:
        super().__init__()
        self._server = server
        self._stream = stream
        self._unread_bytes_max = unread_bytes_max

    async def restart(self, task_group: TaskGroup, action: Callable[..., Any]) -> None:  # noqa: ARG002
        self._stream.begin_next_request()

    async def stop(self) -> None:
        protocol = self._server.protocol.protocol
        if isinstance(protocol, H2Protocol) and not isinstance(protocol.streams, _Streams):
            protocol.streams = _Streams(protocol, self._unread_bytes_max)


class _Streams(dict[int, Any]):
    """The streams of an HTTP/2 connection; what comes for one that is over goes nowhere.

    A client is not cut while it sends what nobody reads any more: it may not look at its answer
    before. Only one who sends more than may be unread has its streams reset (RFC 9113, 8.1).
    """

    def __init__(self, protocol: H2Protocol, unread_bytes_max: int) -> None:
        super().__init__(protocol.streams)
        self._protocol = protocol
        self._may_be_unread = unread_bytes_max

    def __missing__(self, _: int) -> _Streams:
        return self

    async def handle(self, event: object) -> None:
        """As a stream of hypercorn's does."""
        if not isinstance(event, Body):
            return
        self._may_be_unread -= len(event.data)
        is_answered = event.stream_id not in self._protocol.stream_buffers
        if self._may_be_unread < 0 and is_answered:
            try:
                self._protocol.connection.reset_stream(event.stream_id)
            except StreamClosedError:
                pass  # that was all of it


def _is_whole(message: ASGIReceiveEvent) -> bool:
    return message["type"] == "http.request" and not message["more_body"]


class _Exchange:
    """One request as the application sees it."""

    def __init__(
        self,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        stream: GuardedStream,
        limits: Limits,
        turn: Turn,
        asked: Asked,
    ) -> None:
        # None until it is answered; the bytes of both bodies, as far as they have come and gone.
        self.status: int | None = None
        self.received = self.sent = 0
        self._asked = asked
        self._turn = turn
        self._first: ASGIReceiveEvent | None = None
        self._receive = receive
        self._asgi_send = send
        self._stream = stream
        self._pace: Pace | None = None
        self._send_s = math.inf
        # HTTP/1 is timed where its bytes pass. Of an HTTP/2 stream only hypercorn knows whether its
        # body is still due, and whether the client has opened a window for its answer.
        if stream.is_http2:
            self._pace = Pace(limits.body_stall_s, limits.body_bytes_per_s_min)
            self._send_s = limits.send_s
        self._last_send: trio.Event | None = None

    async def begin(self) -> None:
        """Waits for the request's turn if all of it is here; else the client is waited for."""
        if self._stream.body_is_due:
            return  # it may be answered already
        with trio.move_on_after(_HEARD_WITHIN_S):
            self._first = await self._receive()
        if self._first is not None and _is_whole(self._first):
            self._pace = None  # nothing more is due
            await self._turn.take()

    async def receive(self) -> ASGIReceiveEvent:
        message, self._first = self._first, None
        if message is None:
            message = await self._next_message()
            if _is_whole(message):
                await self._turn.take()
        if message["type"] == "http.request":
            self.received += len(message["body"])
        # hypercorn reports the end of the exchange from inside the application's own last send.
        # Quart cancels itself on that report, the send with it, and hypercorn would never get to
        # free the connection: so the report waits until the send is through.
        if message["type"] == "http.disconnect" and self._last_send is not None:
            await self._last_send.wait()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send(message)
            return
        self._last_send = trio.Event()
        try:
            await self._send(message)
        finally:
            self._last_send.set()

    async def _send(self, message: ASGISendEvent) -> None:
        self._turn.give_back()  # the work is done; how fast the client takes it is its own matter
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message["headers"])
            if is_told(self._asked.given, self.status):
                headers.append((_ID, self._asked.id.encode()))
            if self._stream.body_is_due:
                # What is left of the body will not be read: the client may learn it from the
                # answer, and not send another request behind it (RFC 9112, section 9.3).
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self.sent += len(message["body"])
        with trio.move_on_after(self._send_s) as waiting:
            await self._asgi_send(message)
        if waiting.cancelled_caught:
            self._stream.cut()

    async def _next_message(self) -> ASGIReceiveEvent:
        if self._pace is None:
            return await self._receive()
        began_at = trio.current_time()
        message: ASGIReceiveEvent = {"type": "http.disconnect"}
        with trio.move_on_after(self._pace.left_s):
            message = await self._receive()
        if message["type"] == "http.request" and message["more_body"]:
            self._pace.record(trio.current_time() - began_at, len(message["body"]))
        else:
            self._pace = None  # the body is here, or given up
        return message


def _first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """As Quart has it."""
    return next((value.decode("latin-1") for each, value in headers if each == name), None)


def _guarded(app: Application, limits: Limits, requests: RequestLog) -> Application:
    turns = Turns(limits.requests_per_peer_at_once)

    async def serve(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            # meterd has none; only HTTP/2 can still ask (RFC 8441).
            await send({"type": "websocket.close", "code": 1000, "reason": None})
        else:
            stream = cast("dict[str, Any]", scope["state"])[_STREAM]
            turn = turns.turn(stream)
            headers, began_at = scope["headers"], trio.current_time()
            asked = requests.asked(fit(_first(headers, _ID) or ""))
            exchange = _Exchange(receive, send, stream, limits, turn, asked)
            try:
                await exchange.begin()
                await app(scope, exchange.receive, exchange.send)
            finally:
                turn.give_back()
                requests.answered(
                    asked,
                    lane="full",
                    method=scope["method"],
                    path=scope["path"],
                    status=exchange.status,
                    began_at=began_at,
                    peer=stream.host,
                    received=exchange.received,
                    sent=exchange.sent,
                    apikey=_first(headers, b"x-apikey"),
                    authorization=_first(headers, b"authorization") or "",
                )

    return serve


class _Config(Config):
    """Of hypercorn's own answers, to what its parsers refuse, no application sees the headers."""

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        return [*ON_EVERY_ANSWER, *super().response_headers(protocol)]


def _config(limits: Limits, log: FilteringBoundLogger) -> Config:
    config = _Config()
    config.include_server_header = False
    config.h2_max_header_list_size = limits.head_bytes_max
    H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE = limits.head_bytes_max  # nothing else here speaks h2
    # After its number of requests hypercorn closes an HTTP/2 connection with answers still to send.
    config.keep_alive_max_requests = sys.maxsize
    config.shutdown_timeout = APPLICATION_STOP_S
    config.logger_class = lambda _: _HypercornLog(log)  # type: ignore[assignment]
    return config


class _HypercornLog(Logger):
    """Where hypercorn reports: what the application let escape, and trouble with its lifespan."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self.access_logger = None
        self.error_logger = None
        self._log = log

    async def warning(self, message: str, *args: Any, **_: Any) -> None:
        self._log.warning(message % args)

    async def exception(self, message: str, *args: Any, **_: Any) -> None:
        self._log.error(message % args, exc_info=True)
