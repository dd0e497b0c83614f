"""One connection's byte stream with all its limits: what the HTTP server is given for a socket.

It answers for four promises. No wait for the client is without a limit. A request reaches the
server only as ``framing`` lets it, one at a time, and a refused one is answered here. Whoever holds
the stream can end it from another task (``expire``, ``cut``). And only the connection's own task
closes the socket: the server's ``aclose`` ends the conversation, after which ``linger`` lets the
client read the answer before the socket goes.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import trio

from meterd.edge.certificates import HTTP2
from meterd.edge.framing import Phase, Refusal, RequestFramer
from meterd.edge.http2_frames import GOAWAY, FrameAllowance, Portions
from meterd.edge.limits import PIECE_BYTES, Drip, Limits, Pace
from meterd.edge.peers import peer_of
from meterd.edge.spare_time import SpareTime
from meterd.edge.transports import read_all_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.edge.plain_lane import PlainLane
    from meterd.edge.transports import Transport

_CUT_SHORT = Refusal(400, "Request ended before it was complete")
_SLOW_HEAD = Refusal(408, "Request head did not arrive in time")
_RESTLESS = Refusal(429, "Too many HTTP/2 frames that ask for nothing")
_SLOW_BODY = Refusal(408, "Request body arrived too slowly")


class GuardedStream:
    """Stands in for ``trio.SocketStream`` towards the HTTP server, also where there is TLS."""

    def __init__(
        self,
        transport: Transport,
        limits: Limits,
        *,
        host: str = "",
        plain: PlainLane | None = None,
        on_refusal: Callable[[Refusal], str] = lambda _: "",
        spare_time: SpareTime | None = None,
    ) -> None:
        """``on_refusal`` says what the request is called; ``spare_time`` is waited for before the
        server is given anything to do, a refusal is told, and more is read of what comes in pieces.
        """
        self.transport = transport
        self.socket = transport.socket
        self.host = host
        self.peer = peer_of(host)
        # Everything that serves this connection runs inside.
        self.scope = trio.CancelScope()
        self.active_at = trio.current_time()
        # Whether the client has said anything yet, beside its part of the handshake.
        self.was_heard = False
        self._limits = limits
        self._plain = plain
        # When it is to end, while the plain lane waits on it.
        self.expires_at = math.inf
        self._plain_serves = False
        self._on_refusal = on_refusal
        self.spare_time = spare_time or SpareTime(lambda _: False)
        self._framer = RequestFramer(limits)
        self._first_part = b""  # of the first foreign request, until the server asks for it
        self.pace = Pace(limits.body_stall_s, limits.body_bytes_per_s_min)
        self._drip = Drip(limits.dripping_rest_s)
        # When the wait for a head began: for its first byte, and from that for the others.
        self._waiting_since = self.active_at
        self._reading = trio.CancelScope()
        self._next_request = trio.Event()
        self._answering = False
        self._received_all = False  # the client has sent its last byte
        self._gone = False  # nobody will read an answer
        self._expired = False
        self._ended = False  # the server is given nothing more
        self._closed = False  # and nothing more is taken from it

    @cached_property
    def _frames(self) -> FrameAllowance:
        """For HTTP/2."""
        return FrameAllowance(trio.current_time())

    @cached_property
    def _portions(self) -> Portions:
        """For HTTP/2: what has been paid for."""
        return Portions()

    @property
    def is_http2(self) -> bool:
        return self._framer.phase is Phase.HTTP2

    @property
    def body_is_due(self) -> bool:
        """HTTP/1: the client has not sent all of its request."""
        return self._framer.body_is_due

    @property
    def between_requests(self) -> bool:
        """HTTP/1: every request is answered, and no byte of another has come."""
        return self._framer.is_between and not self.leaving and not self._plain_serves

    @property
    def leaving(self) -> bool:
        """The connection is about to end."""
        return self._ended or self._expired

    async def handshake(self) -> bool:
        """Whether there is anybody to serve: first of all, and without TLS always."""
        with trio.move_on_after(self._limits.handshake_s):
            try:
                await self.transport.handshake()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            else:
                if self.transport.protocol == HTTP2:
                    self._framer.pass_http2()
                self._waiting_since = trio.current_time()
                return True
        self._received_all = True  # there is nobody to linger for
        self._end()
        return False

    async def wait_foreign(self) -> bool:
        """Whether there is a request for the server; plain ones are answered here meanwhile.

        Until then no server is needed. False where the connection has ended without one.
        """
        while not (self._ended or self._framer.buffered or self.is_http2):
            await self._feed()
        if self.is_http2:  # the server speaks first
            await self.spare_time.wait(self.peer)
            return not self._ended
        # Nor is a server needed for what is refused: a head is waited for and looked at here.
        self._first_part = await self._next_part()
        if self._first_part:
            await self.spare_time.wait(self.peer)
        return bool(self._first_part)

    def begin_wait(self) -> None:
        """See ``Wire``."""
        self.active_at = trio.current_time()
        self.expires_at = self.active_at + self._limits.keep_alive_s
        self._plain_serves = False

    def end_wait(self) -> None:
        """See ``Wire``."""
        self.expires_at = math.inf
        self.was_heard = self._plain_serves = True

    async def receive_some(self, _max_bytes: int | None = None) -> bytes:
        """The next bytes of the request under way or, once that is answered, of the next one.

        Raises trio.ClosedResourceError when the client, a limit or ``aclose`` has ended the
        connection. A client that has only stopped sending still gets its answer first.
        """
        await trio.lowlevel.checkpoint()
        part, self._first_part = self._first_part, b""
        if not part:
            part = await self._next_part()
            await self.spare_time.wait(self.peer)
            if self._gone and self.is_http2:
                # All of its requests end, which is work as well, and not for all at one moment.
                self.scope.cancel()
        if not part:
            raise trio.ClosedResourceError
        return part

    async def _next_part(self) -> bytes:
        """Empty when the connection has ended."""
        while not self._ended:
            if self.is_http2 and (portion := self._portions.next()):
                return portion
            part = self._framer.next_part()
            if isinstance(part, Refusal):
                await self._refuse(part)
            elif part and not self.is_http2:
                return part
            elif part and self._frames.covers(part, trio.current_time()):
                self._portions.add(part)
            elif part:
                self._calm_down()
            else:
                await self._feed()
        return b""

    async def send_all(self, data: bytes) -> None:
        """Raises trio.BrokenResourceError when the client is gone, or takes too long."""
        if self._closed:
            raise trio.BrokenResourceError
        # After "100 Continue" a refusal is still the answer; after anything else it is too late.
        self._answering = self._answering or not data.startswith(b"HTTP/1.1 100 ")
        try:
            await self._send(data)
        except trio.BrokenResourceError:
            # The server gives the answer up, and whoever waits for its end would wait for ever.
            self._received_all = True
            self._end()
            raise
        if self.is_http2:
            self._frames.earn(data)

    def begin_next_request(self) -> None:
        """The server is ready for another request; without one under way it changes nothing."""
        if self._framer.phase is not Phase.ANSWER or self._first_part:
            return
        self._framer.next_request()
        self._answering = False
        self.pace = Pace(self._limits.body_stall_s, self._limits.body_bytes_per_s_min)
        self._drip = Drip(self._limits.dripping_rest_s)
        self._waiting_since = trio.current_time()
        self._reading.deadline = self._deadline()
        self._next_request.set()
        self._next_request = trio.Event()
        if self._expired:
            self.transport.wake()

    async def send_eof(self) -> None:
        await self.transport.send_eof()

    async def aclose(self) -> None:
        """Ends the conversation; the socket is left to ``linger`` and to whoever accepted it."""
        self._closed = True
        self._end()
        await trio.lowlevel.checkpoint()

    def expire(self) -> None:
        """Ends an idle connection; a request that has arrived by now is served first."""
        self._expired = True
        self.transport.wake()

    def cut(self) -> None:
        """Ends the connection now, whatever it is doing."""
        self._closed = True
        self._received_all = True
        self._end()
        # A cancellation does not reach a send that the server shields; an error does.
        self.transport.shutdown()
        self.scope.cancel()

    async def linger(self) -> None:
        """Says good-bye, and reads on for a moment.

        A socket closed with bytes unread resets the connection, and a reset may take the answer
        away from a client that is still sending.
        """
        with trio.move_on_after(self._limits.linger_s):
            try:
                await self.transport.send_eof()
                if not self._received_all:
                    await self.transport.drain()
            except trio.BrokenResourceError:
                pass

    async def _feed(self) -> None:
        """Waits for the client; returns when there may be a next part, or the connection ended."""
        phase = self._framer.phase
        if phase is Phase.ANSWER and (self._framer.buffered or self._received_all):
            # Nothing to wait for but the answer. What was sent ahead fills one piece, no more.
            await self._next_request.wait()
            if self._plain is not None and self._framer.phase is Phase.HEAD:
                await self._receive_foreign(self._plain, self._framer.take_back())
        elif self._received_all:
            if phase is Phase.BODY or self._framer.head_has_begun:
                await self._refuse(_CUT_SHORT)
            self._end()
        elif self._framer.is_between and self._expired:
            self._framer.feed(self.transport.read_now() or b"")
            self._received_all = not self._framer.buffered
        elif self._plain is not None and self._framer.is_between:
            await self._receive_foreign(self._plain, b"")
        else:
            await self._receive()

    async def _receive_foreign(self, plain: PlainLane, begun: bytes) -> None:
        """Between requests: lets the plain lane answer what it can, and takes what it cannot."""
        self._plain_serves = bool(begun)
        try:
            data = await plain.serve(self, begun)
        except trio.BrokenResourceError:
            data = b""
        self._plain_serves = False
        self._answering = False
        self._received_all = not data
        self._waiting_since = trio.current_time()
        self._framer.feed(data)

    async def _receive(self) -> None:
        began_at, unread_s, data = trio.current_time(), 0.0, b""
        with trio.CancelScope(deadline=self._deadline()) as self._reading:
            try:
                # The frames of HTTP/2 are small.
                if not self.is_http2 and (self._drip.has_begun or self._framer.head_has_begun):
                    await trio.sleep(self._drip.rest_s)
                    await self.transport.wait_readable()
                    heard_at = trio.current_time()
                    await self.spare_time.wait(self.peer)
                    unread_s = trio.current_time() - heard_at
                    data = read_all_now(self.transport) or b""
                data = data or await self.transport.receive_some()
            except trio.ClosedResourceError:  # by ``expire``
                data = self.transport.read_now() or b""
            except trio.BrokenResourceError:
                # After our own end with TLS it says nothing of the client, who is still drained.
                self._received_all = self._gone = self._received_all or not self._ended
                self._end()
        if self._ended:
            return
        if self._reading.cancelled_caught:
            await self._out_of_time()
            return
        self._received_all = not data
        self.was_heard = True
        self.active_at = trio.current_time()
        waited_s = self.active_at - began_at - unread_s
        self._drip.record(waited_s, len(data))
        if self._framer.phase is Phase.BODY:
            self.pace.record(waited_s, len(data))
        elif self._framer.is_between:
            self._waiting_since = self.active_at
            if data and self._plain is not None:
                await self._receive_foreign(self._plain, data)
                return
        self._framer.feed(data)

    def _deadline(self) -> float:
        match self._framer.phase:
            case Phase.HEAD if self._framer.head_has_begun:
                return self._waiting_since + self._limits.head_s
            case Phase.HEAD:
                return self._waiting_since + self._limits.keep_alive_s
            case Phase.BODY:
                return trio.current_time() + self.pace.left_s
            case Phase.ANSWER:
                return math.inf
            case Phase.HTTP2:
                # Whether a client owes bytes is known to the server only; one that has an answer
                # coming sends window updates.
                return trio.current_time() + self._limits.keep_alive_s

    async def _out_of_time(self) -> None:
        match self._framer.phase:
            case Phase.HEAD if self._framer.head_has_begun:
                await self._refuse(_SLOW_HEAD)
            case Phase.BODY:
                await self._refuse(_SLOW_BODY)
            case _:
                self._received_all = True  # idle: there is nobody to linger for
        self._end()

    async def _refuse(self, refusal: Refusal) -> None:
        await self.spare_time.wait(self.peer)
        request_id = self._on_refusal(refusal)
        if self._answering:
            # What the client is being told already stays whole; the server ends behind it.
            with trio.move_on_after(self._limits.linger_s):
                await self._next_request.wait()
        self._closed = True
        if not self._answering:
            try:
                await self._send(refusal.answer(request_id))
            except trio.BrokenResourceError:
                pass
        self._end()

    def _calm_down(self) -> None:
        self._on_refusal(_RESTLESS)
        self._closed = True
        try:
            # At once or not at all: an answer that waits for the socket is not waited for.
            self.transport.write_now(GOAWAY)
        except trio.BrokenResourceError:
            pass
        self._end()

    async def _send(self, data: bytes) -> None:
        # Nearly always the socket takes it all at once, without a time limit to be set up.
        sent = self.transport.write_now(data)
        for start in range(sent, len(data), PIECE_BYTES):
            with trio.move_on_after(self._limits.send_s) as waiting:
                await self.transport.send_all(data[start : start + PIECE_BYTES])
            if waiting.cancelled_caught:
                self.cut()
                raise trio.BrokenResourceError
        self.active_at = trio.current_time()

    def _end(self) -> None:
        self._ended = True
        self._reading.cancel()
        self._next_request.set()
        # The application is told, and may finish; hypercorn can wait for ever on one that does not
        # read, or for a window that a departed HTTP/2 client will not open.
        latest = trio.current_time() + self._limits.linger_s
        self.scope.deadline = min(self.scope.deadline, latest)
