"""httpx's transport over connections of our own: judged addresses, one request, one answer.

httpx's own transport lets nobody choose the network, and its pool looks at every connection for
every request. Here a receiver has a few connections, and a request takes the one that was used
last.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import httpx
import trio

from meterd.domain.outcomes import ErrorKind
from meterd.edge.answers import Answer
from meterd.edge.dialling import where
from meterd.edge.failures import AttemptError, broken

if TYPE_CHECKING:
    from meterd.edge.dialling import Guard, Line

# The extension of a request in which ``address and port`` stand as soon as they are dialled.
ADDRESS: Final = "address"

# Node, a common receiver, closes idle connections after 5 s; reusing one that is being closed would
# cost the delivery an attempt.
_KEEP_ALIVE_S: Final = 4.0
# A receiver that has moved is noticed: its name is looked up, and judged, with each new connection.
_AGE_MAX_S: Final = 60.0
# A receiver can make every 6 bytes a chunk and every 16 an interim answer; the parser goes through
# a whole piece without letting others run, so a piece is small, unless nothing is to be parsed.
_PIECE_BYTES: Final = 1024
_PLAIN_PIECE_BYTES: Final = 16 * 1024
# The buffers of a socket hold that much even where they are small: there is nothing to wait for.
_AT_ONCE_BYTES: Final = 16 * 1024
_REDIRECT: Final = 300
_PORTS: Final = {"http": 80, "https": 443}
_FIELDS: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~]*\r\n)*")


class KeptConnections(httpx.AsyncBaseTransport):
    """Up to ``connections_max`` connections to one receiver; requests beyond wait their turn."""

    def __init__(self, guard: Guard, connections_max: int) -> None:
        self._guard = guard
        self._turns = trio.Semaphore(connections_max)
        self._idle: list[_Connection] = []  # the one that was used last at the end
        self._has_idle = trio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises AttemptError. The response must be closed."""
        await self._turns.acquire()
        connection = None
        try:
            head = _head(request)
            body = await request.aread()
            connection = self._kept(request.url) or await self._dialled(request)
            request.extensions[ADDRESS] = connection.address
            self._guard.judge(connection.line)
            exchange = _Exchange(self, connection)
            await exchange.begin(head + body)
        except BaseException:
            if connection is not None:
                connection.line.close()
            self._turns.release()
            raise
        answer = exchange.answer
        return httpx.Response(
            answer.status,
            headers=answer.fields,
            stream=exchange,
            extensions={"reason_phrase": answer.reason},
        )

    async def aclose(self) -> None:
        while self._idle:
            self._idle.pop().line.close()

    async def close_expired(self) -> None:
        """Closes, for ever, what nobody has used for so long; without it, that waits for its next
        use, and each takes one of the files that a process may have open.
        """
        while True:
            self._has_idle = trio.Event()
            await self._has_idle.wait()
            # Not sooner, or each request to a busy receiver would wake this task.
            await trio.sleep(_KEEP_ALIVE_S)
            while self._idle:
                now_s = trio.current_time()
                for connection in self._idle:
                    if connection.expires_at <= now_s:
                        connection.line.close()
                self._idle = [one for one in self._idle if one.expires_at > now_s]
                if self._idle:
                    await trio.sleep_until(min(one.expires_at for one in self._idle))

    def give_back(self, connection: _Connection, *, again: bool) -> None:
        """The answer has been read, or nobody wants the rest of it."""
        if again:
            connection.expires_at = min(trio.current_time() + _KEEP_ALIVE_S, connection.retires_at)
            self._idle.append(connection)
            self._has_idle.set()
        else:
            connection.line.close()
        self._turns.release()

    def _kept(self, url: httpx.URL) -> _Connection | None:
        """One that is as good as new, as far as one can know. Others are closed on the way."""
        while self._idle:
            connection = self._idle.pop()
            if connection.serves(url):
                return connection
            connection.line.close()
        return None

    async def _dialled(self, request: httpx.Request) -> _Connection:
        url = request.url
        port = url.port or _PORTS[url.scheme]
        line = await self._guard.dial(
            url.raw_host.decode("ascii"),
            port,
            encrypted=url.scheme == "https",
            tell=lambda address: request.extensions.update({ADDRESS: address}),
        )
        return _Connection(line, url, where(line.address, port))


class _Connection:
    def __init__(self, line: Line, url: httpx.URL, address: str) -> None:
        self.line = line
        self.address = address
        self.expires_at = 0.0
        self.retires_at = trio.current_time() + _AGE_MAX_S
        self._origin = _origin(url)

    def serves(self, url: httpx.URL) -> bool:
        return (
            trio.current_time() < self.expires_at
            and self._origin == _origin(url)
            and self.line.is_silent()
        )


class _Exchange(httpx.AsyncByteStream):
    """A request and its answer. Iterating gives the answer's body as it comes."""

    def __init__(self, kept: KeptConnections, connection: _Connection) -> None:
        self.answer = Answer()
        self._kept = kept
        self._connection = connection
        self._stream = connection.line.stream
        self._part = b""
        self._sent = False
        self._closed = False

    async def begin(self, request: bytes) -> None:
        """Sends the request, and returns when the head of the answer is there.

        What is refused before it has been sent is sent no further: RFC 9112, section 9.5. A 2xx is
        no reason to keep the rest back, since some receivers answer first and read then.
        """
        if len(request) <= _AT_ONCE_BYTES:
            await self._send(request)
            await self._hear()
            return
        failed = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, request)
            try:
                await self._hear()
            except AttemptError as error:
                failed = error
            if failed or self.answer.status >= _REDIRECT:
                nursery.cancel_scope.cancel()
        if failed:
            raise failed

    async def _send(self, request: bytes) -> None:
        try:
            await self._stream.send_all(request)
            self._sent = True
        except trio.BrokenResourceError:
            pass  # who says no and hangs up amid a long request has answered

    async def _hear(self) -> None:
        answer = self.answer
        while not answer.status:
            if answer.fault is not None:
                raise answer.fault
            self._part = await self._read()

    def __aiter__(self) -> _Exchange:
        return self

    async def __anext__(self) -> bytes:
        part, self._part = self._part, b""
        while not part:
            if self.answer.fault is not None:
                raise self.answer.fault
            if self.answer.ended:
                raise StopAsyncIteration
            part = await self._read()
        return part

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._kept.give_back(self._connection, again=self.answer.again and self._sent)

    async def _read(self) -> bytes:
        is_plain = self.answer.status and not self.answer.is_in_chunks
        try:
            data = await self._stream.receive_some(_PLAIN_PIECE_BYTES if is_plain else _PIECE_BYTES)
        except trio.BrokenResourceError as error:
            raise broken("read", error, ErrorKind.RESET) from error
        return self.answer.receive(bytes(data))


def _origin(url: httpx.URL) -> tuple[bytes, bytes, int | None]:
    return url.raw_scheme, url.raw_host, url.port


def _head(request: httpx.Request) -> bytes:
    url = request.url
    if url.scheme not in _PORTS or not url.raw_host:  # its ``host`` fails on names of IDNA 2003
        raise AttemptError(ErrorKind.URL, "Invalid URL: neither http:// nor https:// and a host")
    fields = b"".join(b"%b: %b\r\n" % field for field in request.headers.raw)
    lines = fields.count(b"\n")
    assert _FIELDS.fullmatch(fields), "a header field that is none"
    assert lines == len(request.headers.raw), "a header field that ends its line"
    method = request.method.encode("ascii")
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, url.raw_path, fields)
