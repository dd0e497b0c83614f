"""Accepts connections, keeps each in its bounds, and ends them all when told to.

The serving loop is ours because hypercorn's is unfit for a daemon of one process: a fault in one
connection must end that connection only, an idle one must be closed, and a shutdown must end.
``hypercorn_lane`` serves what a connection says; this file knows no HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from meterd.edge.framing import Refusal
from meterd.edge.guarded_stream import GuardedStream
from meterd.edge.hypercorn_lane import HypercornLane
from meterd.edge.peers import peer_of
from meterd.edge.transports import transport_over

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from meterd.edge.hypercorn_lane import Application, HypercornSession
    from meterd.edge.limits import Limits
    from meterd.edge.plain_lane import PlainLane
    from meterd.edge.transports import Transport

    MakeTransport = Callable[[trio.SocketStream, ssl.SSLContext | None], Transport]

# How late an idle connection may be ended.
_OVERDUE_SWEEP_S = 1.0

# While shutting down. No event tells when the last frame of an HTTP/2 answer is out.
_SWEEP_S = 0.02

_FULL = Refusal(503, "Too many connections", retry_after_s=1)


class Statistics(msgspec.Struct, frozen=True):
    """Open connections now, and what happened since the start."""

    open: int
    idle: int
    accepted: int
    expired_for_room: int
    turned_away: int
    requests_refused: int
    handshakes_failed: int
    failed: int


class _Connection:
    """``session`` is there from the first request on that the plain lane does not serve."""

    def __init__(self, peer: str, stream: GuardedStream) -> None:
        self.peer = peer
        self.stream = stream
        self.session: HypercornSession | None = None

    @property
    def idle(self) -> bool:
        if self.session is None:
            return self.stream.between_requests
        return self.session.idle


class FrontDoor:
    """Serves one application on any number of listeners."""

    def __init__(
        self,
        app: Application,
        limits: Limits,
        log: FilteringBoundLogger,
        *,
        plain: PlainLane | None = None,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        transport: MakeTransport = transport_over,
    ) -> None:
        """Without ``plain`` every request is the application's.

        ``tls`` gives what new connections are encrypted with, None for nothing. ``transport`` makes
        one of what listeners accept.
        """
        self._lane = HypercornLane(app, limits, log)
        self._plain = plain
        self._tls = tls
        self._transport = transport
        self._limits = limits
        self._log = log
        self._accepting = trio.CancelScope()
        self._connections: set[_Connection] = set()
        self._somebody = trio.lowlevel.ParkingLot()
        self._accepted = 0
        self._expired_for_room = 0
        self._turned_away = 0
        self._requests_refused = 0
        self._handshakes_failed = 0
        self._failed = 0

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves until ``begin_shutdown``, then for at most ``graceful_s``; closes the listeners.

        Cancelled, it ends every connection at once.
        """
        async with self._lane.running(), trio.open_nursery() as watch:
            watch.start_soon(self._expire_overdue)
            async with trio.open_nursery() as handlers:
                try:
                    with self._accepting:
                        await trio.serve_listeners(
                            self._handle,
                            list(listeners),
                            handler_nursery=handlers,
                            task_status=task_status,
                        )
                    await self._wind_up(handlers)
                finally:
                    for connection in self._connections:
                        connection.stream.cut()
            watch.cancel_scope.cancel()

    async def _expire_overdue(self) -> None:
        """Ends connections that the plain lane waits on for too long, idle or amid a body.

        One task for all: a time limit round each read would cost twice what reading does.
        """
        shortest_s = min(self._limits.keep_alive_s, self._limits.body_stall_s)
        while True:
            if not self._connections:
                await self._somebody.park()
            await trio.sleep(min(_OVERDUE_SWEEP_S, shortest_s / 4))
            now = trio.current_time()
            for connection in self._connections:
                if connection.stream.expires_at <= now:
                    connection.stream.expire()

    def begin_shutdown(self) -> None:
        """Stops accepting; idle connections end now, the others when they have their answer."""
        self._accepting.cancel()

    def statistics(self) -> Statistics:
        return Statistics(
            open=len(self._connections),
            idle=sum(connection.idle for connection in self._connections),
            accepted=self._accepted,
            expired_for_room=self._expired_for_room,
            turned_away=self._turned_away,
            requests_refused=self._requests_refused,
            handshakes_failed=self._handshakes_failed,
            failed=self._failed,
        )

    async def _wind_up(self, handlers: trio.Nursery) -> None:
        with trio.move_on_after(self._limits.graceful_s):
            # Not the connections: the last one accepted may not have come to be one of them yet.
            while handlers.child_tasks:
                for connection in self._connections:
                    if connection.idle:
                        connection.stream.expire()
                await trio.sleep(_SWEEP_S)

    async def _handle(self, accepted: trio.SocketStream) -> None:
        self._accepted += 1
        context = self._tls()
        try:
            host, *_ = accepted.socket.getpeername()
        except OSError:
            return  # gone before its turn
        if not self._make_room(peer_of(host)):
            self._turned_away += 1
            if context is None:
                await self._turn_away(accepted)
            return
        try:
            transport = self._transport(accepted, context)
        except trio.BrokenResourceError:
            return  # gone before its turn
        stream = GuardedStream(
            transport, self._limits, plain=self._plain, on_refusal=self._note_refusal
        )
        connection = _Connection(peer_of(host), stream)
        self._connections.add(connection)
        self._somebody.unpark_all()
        try:
            with stream.scope:
                if not await stream.handshake():
                    self._handshakes_failed += 1
                elif await stream.wait_foreign():
                    connection.session = self._lane.session(stream)
                    await connection.session.run()
            await stream.linger()
        # The one place where any exception is only logged: what hypercorn and its parsers trip over
        # is the doing of one client, and must cost that client's connection and nothing else.
        # KeyboardInterrupt, SystemExit and Cancelled pass, and actors do not run in here.
        except* Exception as failures:  # noqa: BLE001
            self._failed += 1
            self._log.error("connection failed", client=host, exc_info=failures)
        finally:
            self._connections.remove(connection)
            transport.close()

    def _make_room(self, peer: str) -> bool:
        """Whether another connection fits in, which may cost the longest idle one its place."""
        present = [held for held in self._connections if not held.stream.leaving]
        neighbours = [held for held in present if held.peer == peer]
        if len(neighbours) >= self._limits.connections_per_peer_max:
            return self._expire_longest_idle(neighbours)
        if len(present) >= self._limits.connections_max:
            return self._expire_longest_idle(present)
        return True

    def _expire_longest_idle(self, held: list[_Connection]) -> bool:
        idle = [connection for connection in held if connection.idle]
        if not idle:
            return False
        min(idle, key=lambda connection: connection.stream.active_at).stream.expire()
        self._expired_for_room += 1
        return True

    async def _turn_away(self, transport: trio.SocketStream) -> None:
        """Says why, as far as that costs nothing: the answer fits into the socket's buffer."""
        with trio.move_on_after(0.1):
            try:
                await transport.send_all(_FULL.answer())
            except trio.BrokenResourceError:
                pass

    def _note_refusal(self, refusal: Refusal) -> None:
        self._requests_refused += 1
        self._log.debug("request refused", status=refusal.status, error=refusal.error)
