"""A front door on a loopback port, an application behind it, and clients that speak raw bytes."""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import h2.config
import h2.connection
import h2.events
import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio
from structlog.testing import LogCapture
from trio.testing import MockClock, wait_all_tasks_blocked

from meterd.edge.front_door import FrontDoor
from meterd.edge.limits import MIB, Limits
from meterd.edge.readiness import Readiness
from meterd.edge.request_log import RequestLog

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

    from hypercorn.typing import ASGIFramework

    from meterd.edge.plain_lane import PlainLane

# One name for all, so that both lanes' answers can be compared; nothing is told of each request.
REQUESTS = RequestLog(lambda _: 7, lambda: False, lambda _apikey, _authorization: None)

# More than loopback's socket buffers hold, so a client that does not read blocks the sender.
LARGE_BYTES = 16 * MIB

GET = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def ready() -> Readiness:
    """Of a ledger that has started, with nothing to catch up with."""
    happened = trio.Event()
    happened.set()
    return Readiness(happened, happened, lambda: False)


def post(body: bytes, *fields: bytes, path: bytes = b"/echo") -> bytes:
    head = [b"POST %b HTTP/1.1" % path, b"Host: a", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*head, b"", body])


class App:
    """A Quart application that can be held up, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cancelled: list[str] = []
        self.completed = 0
        self.arrived = trio.Event()
        self.release = trio.Event()
        self.quart = QuartTrio(__name__)
        self.quart.add_url_rule("/ping", view_func=self._ping)
        self.quart.add_url_rule("/echo", view_func=self._echo, methods=["POST"])
        self.quart.add_url_rule("/held", view_func=self._held)
        self.quart.add_url_rule("/large", view_func=self._large)
        self.quart.add_url_rule("/client", view_func=self._client)

    async def _ping(self) -> dict[str, str]:
        self.calls.append("/ping")
        return {"status": "ok"}

    async def _echo(self) -> Response:
        self.calls.append("/echo")
        self.arrived.set()
        body = await request.get_data()
        self.completed += 1
        return Response(body)

    async def _held(self) -> dict[str, str]:
        self.calls.append("/held")
        self.arrived.set()
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.append("/held")
            raise
        return {"status": "released"}

    async def _large(self) -> bytes:
        self.arrived.set()
        return bytes(LARGE_BYTES)

    async def _client(self) -> dict[str, object]:
        return {"client": request.scope["client"], "remote": request.remote_addr}


class Door:
    """An open front door and what it logged."""

    def __init__(self, door: FrontDoor, port: int, capture: LogCapture) -> None:
        self.door = door
        self.port = port
        self.logged = capture.entries
        self.ended = trio.Event()

    async def connect(self) -> Client:
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def serves(self) -> bool:
        """Whether an honest client is served now."""
        async with await self.connect() as client:
            await client.send(GET)
            return (await client.answer()).status == 200

    async def wait_open(self, count: int) -> None:
        await wait_until(lambda: self.door.statistics().open == count)


@asynccontextmanager
async def open_door(
    app: ASGIFramework,
    limits: Limits | None = None,
    plain: PlainLane | None = None,
    tls: Callable[[], ssl.SSLContext | None] = lambda: None,
    *,
    patience_s: float = 20,
) -> AsyncIterator[Door]:
    capture = LogCapture()
    log = structlog.wrap_logger(None, processors=[capture])
    front_door = FrontDoor(app, limits or Limits(), log, REQUESTS, plain=plain, tls=tls)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    door = Door(front_door, listeners[0].socket.getsockname()[1], capture)

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await front_door.serve(listeners, task_status=task_status)
        door.ended.set()

    # A mocked clock is moved by the test, far beyond what a hanging test may take.
    mocked = isinstance(trio.lowlevel.current_clock(), MockClock)
    with trio.fail_after(math.inf if mocked else patience_s):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield door
            nursery.cancel_scope.cancel()


async def wait_until(happened: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not happened():
            await wait_all_tasks_blocked(0.001)


async def passes() -> None:
    """So many of the loop that what is ready has had its turn."""
    for _ in range(200):
        await trio.lowlevel.checkpoint()


async def keep_busy(rests: trio.Event) -> None:
    """The loop, which has always something to do until then."""
    while not rests.is_set():
        await trio.lowlevel.checkpoint()


class Answer:
    def __init__(self, status: int, fields: dict[str, str], body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    @property
    def local_address(self) -> Any:
        return self.stream.socket.getsockname()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, *, body: bool = True) -> Answer:
        """The next answer, 100 Continue included; its body ends with its Content-Length."""
        while b"\r\n\r\n" not in self._buffer:
            await self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines)
        length = int(fields.get("content-length", "0")) if body else 0
        while len(self._buffer) < length:
            await self._receive()
        content, self._buffer = self._buffer[:length], self._buffer[length:]
        return Answer(int(status.split()[1]), fields, content)

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def is_closed(self) -> bool:
        """Waits for the server's end; False if it still had something to say."""
        if self._buffer:
            return False
        try:
            return not await self.stream.receive_some(1)
        except trio.BrokenResourceError:
            return True

    async def _receive(self) -> None:
        data = await self.stream.receive_some(65536)
        assert data, f"closed after {self._buffer!r}"
        self._buffer += data


class Http2Client:
    """An HTTP/2 connection, by prior knowledge or over TLS; checks nothing of what it sends."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.events: list[h2.events.Event] = []
        config = h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()

    @classmethod
    async def connect(cls, door: Door) -> Http2Client:
        client = cls(await trio.open_tcp_stream("127.0.0.1", door.port))
        await client.flush()
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()

    async def flush(self) -> None:
        await self.stream.send_all(self.connection.data_to_send())

    async def request(
        self, path: bytes, method: bytes = b"GET", body: bytes | None = None, *, end: bool = True
    ) -> int:
        stream_id = self.connection.get_next_available_stream_id()
        headers = [(b":method", method), (b":scheme", b"http"), (b":path", path)]
        headers.append((b":authority", b"a"))
        self.connection.send_headers(stream_id, headers, end_stream=end and body is None)
        if body is not None:
            self.connection.send_data(stream_id, body, end_stream=end)
        await self.flush()
        return stream_id

    async def until_answered(self, stream_id: int) -> tuple[int, bytes]:
        """Status and body of an answer that must end as HTTP/2 says it does."""
        while True:
            mine = [event for event in self.events if getattr(event, "stream_id", 0) == stream_id]
            if any(isinstance(event, h2.events.StreamEnded) for event in mine):
                break
            assert not any(isinstance(event, h2.events.StreamReset) for event in mine)
            assert not self._terminated(), "GOAWAY overtook the answer"
            assert await self.receive(), "the connection ended before the answer did"
        [answer] = [event for event in mine if isinstance(event, h2.events.ResponseReceived)]
        data = [event.data for event in mine if isinstance(event, h2.events.DataReceived)]
        return int(dict(answer.headers)[b":status"]), b"".join(data)

    async def receive(self) -> bool:
        """False when the server has closed."""
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            return False
        self.events += self.connection.receive_data(data)
        await self.stream.send_all(self.connection.data_to_send())
        return bool(data)

    def _terminated(self) -> bool:
        return any(isinstance(event, h2.events.ConnectionTerminated) for event in self.events)
