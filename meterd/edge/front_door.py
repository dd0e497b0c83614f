"""Accepts connections, keeps each in its bounds, and ends them all when told to.

The serving loop is ours because hypercorn's is unfit for a daemon of one process: a fault in one
connection must end that connection only, an idle one must be closed, and a shutdown must end.
``hypercorn_lane`` serves what a connection says; this file knows no HTTP.
"""

from __future__ import annotations

import errno
import gc
import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from meterd.edge.framing import Refusal
from meterd.edge.guarded_stream import GuardedStream
from meterd.edge.hypercorn_lane import HypercornLane
from meterd.edge.peers import peer_of
from meterd.edge.room import Room
from meterd.edge.spare_time import Company, SpareTime
from meterd.edge.transports import accepted_now, transport_over

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from meterd.edge.hypercorn_lane import Application, HypercornSession
    from meterd.edge.limits import Limits
    from meterd.edge.plain_lane import PlainLane
    from meterd.edge.request_log import RequestLog
    from meterd.edge.transports import Transport

    MakeTransport = Callable[[trio.SocketStream, ssl.SSLContext | None], Transport]

# 0.05 ms each; then the others have their turn.
_ACCEPTED_AT_ONCE: Final = 8
_ACCEPTED_IN_TURN: Final = 2
# Of fifty objects each. Python looks through young ones when 500 more live than at its last look:
# where old connections end as others begin, seldom, at thousands, and for 4 ms.
_ENDED_BETWEEN_LOOKS: Final = 8
# Half of the files that ``connections_max`` leaves free.
_WITHOUT_PLACE_MAX: Final = 64
# Out of files or of memory, which others give back; the kernel keeps who has come.
_NO_ROOM_FOR_NOW: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_OUT_OF_FILES_S: Final = 0.1

# Whoever opened hundreds at once has them overdue at once; the others have their turn in between.
_ENDED_AT_ONCE: Final = 8

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
        self._came_at = trio.current_time()
        self.session: HypercornSession | None = None
        self.has_place = True

    @property
    def silent_since(self) -> float:
        """See ``Held``; without a place it gives way to nobody."""
        return self.stream.active_at if self.has_place else math.nan

    @property
    def leaving(self) -> bool:
        """See ``Held``."""
        return self.stream.leaving

    @property
    def idle(self) -> bool:
        """See ``Held``."""
        if self.session is None:
            return self.stream.between_requests
        return self.session.idle

    def is_newcomer(self, since: float) -> bool:
        """Whether it came behind that moment, and has not asked yet."""
        return self._came_at > since and not self.stream.was_heard

    def give_way(self) -> None:
        """See ``Held``."""
        self.has_place = False
        if self.leaving:
            self.stream.cut()
        else:
            self.stream.expire()


class _Waiting(NamedTuple):
    """Accepted; it may have its place already."""

    accepted: trio.SocketStream
    host: str
    has_place: bool


class FrontDoor:
    """Serves one application on any number of listeners."""

    def __init__(
        self,
        app: Application,
        limits: Limits,
        log: FilteringBoundLogger,
        requests: RequestLog,
        *,
        plain: PlainLane | None = None,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        transport: MakeTransport = transport_over,
    ) -> None:
        """Without ``plain`` every request is the application's.

        ``tls`` gives what new connections are encrypted with, None for nothing. ``transport`` makes
        one of what listeners accept.
        """
        self._lane = HypercornLane(app, limits, log, requests)
        self._requests = requests
        self._plain = plain
        self._tls = tls
        self._transport = transport
        self._limits = limits
        self._log = log
        self._accepting = trio.CancelScope()
        self._room = Room(limits)
        self._company = Company()
        answers = None if plain is None else plain.answers
        self._spare_time = SpareTime(self._has_company, answers)
        self._connections: set[_Connection] = set()
        self._somebody = trio.lowlevel.ParkingLot()
        # Accepted and waiting for their turn, by peer.
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._without_place = 0
        self._some_wait = trio.Event()
        self._accepted = 0
        self._ended = 0
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
            watch.start_soon(self._spare_time.run)
            async with trio.open_nursery() as handlers:
                try:
                    with self._accepting:
                        async with trio.open_nursery() as accepting:
                            for listener in listeners:
                                accepting.start_soon(self._accept, listener)
                            accepting.start_soon(self._start_in_turn, handlers)
                            task_status.started(list(listeners))
                    while self._waiting:
                        self._start_one_of(next(iter(self._waiting)), handlers)
                    await self._wind_up(handlers)
                finally:
                    for connection in self._connections:
                        connection.stream.cut()
                    for waiting in self._waiting.values():
                        for each in waiting:
                            self._drop(each.accepted)
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
            overdue = [each for each in self._connections if each.stream.expires_at <= now]
            for number, connection in enumerate(overdue, 1):
                if connection.stream.expires_at <= now:  # it may have asked meanwhile
                    connection.stream.expire()
                if not number % _ENDED_AT_ONCE:
                    await trio.lowlevel.checkpoint()

    def begin_shutdown(self) -> None:
        """Stops accepting; idle connections end now, the others when they have their answer, and
        who has only just come when it has asked, or did not for a moment.
        """
        self._accepting.cancel()

    def statistics(self) -> Statistics:
        return Statistics(
            open=len(self._connections),
            idle=sum(connection.idle for connection in self._connections),
            accepted=self._accepted,
            expired_for_room=self._room.made,
            turned_away=self._turned_away,
            requests_refused=self._requests_refused,
            handshakes_failed=self._handshakes_failed,
            failed=self._failed,
        )

    async def _wind_up(self, handlers: trio.Nursery) -> None:
        with trio.move_on_after(self._limits.graceful_s):
            # Not the connections: the last one accepted may not have come to be one of them yet.
            while handlers.child_tasks:
                newcomers_since = trio.current_time() - self._limits.newcomer_s
                for connection in self._connections:
                    if connection.idle and not connection.is_newcomer(newcomers_since):
                        connection.stream.expire()
                await trio.sleep(_SWEEP_S)

    async def _accept(self, listener: trio.SocketListener) -> None:
        """Takes what has come from the kernel, which keeps one queue for honest and other peers."""
        async with listener:
            while True:
                try:
                    accepted = await listener.accept()
                except OSError as fault:
                    if fault.errno not in _NO_ROOM_FOR_NOW:
                        raise
                    await trio.sleep(_OUT_OF_FILES_S)
                    continue
                # Who else has come stays in the kernel's queue while somebody is answered.
                await self._spare_time.give_way(self._enqueue(accepted))
                for number, each in enumerate(accepted_now(listener, _ACCEPTED_AT_ONCE), 1):
                    self._enqueue(each)
                    if not number % _ACCEPTED_IN_TURN:
                        await trio.lowlevel.checkpoint()

    def _enqueue(self, accepted: trio.SocketStream) -> str:
        """Its peer; empty where it is gone before its turn."""
        self._accepted += 1
        try:
            host, *_ = accepted.socket.getpeername()
        except OSError:
            self._drop(accepted)
            return ""
        peer = peer_of(host)
        has_place = self._room.take_free(peer)
        if not has_place and self._without_place == _WITHOUT_PLACE_MAX and not self._shorten(peer):
            self._turn_away(accepted)
            return peer
        self._without_place += not has_place
        self._waiting.setdefault(peer, deque()).append(_Waiting(accepted, host, has_place))
        self._some_wait.set()
        return peer

    def _shorten(self, newcomer: str) -> bool:
        """Whether a peer with more in the queue than the newcomer's has lost its last one."""
        longest = max(self._waiting, key=lambda peer: len(self._waiting[peer]))
        queue = self._waiting[longest]
        if queue[-1].has_place or len(queue) <= len(self._waiting.get(newcomer, ())) + 1:
            return False
        self._without_place -= 1
        self._turn_away(queue.pop().accepted)
        return True

    async def _start_in_turn(self, handlers: trio.Nursery) -> None:
        """One connection of each peer, then the next ones; behind each, what else there is to do.

        A peer that opens many at once delays itself: another's next one is started at once.
        """
        while True:
            await self._some_wait.wait()
            self._some_wait = trio.Event()
            while self._waiting:
                peers = list(self._waiting)
                await self._spare_time.give_way(peers[0])
                for peer in peers:
                    self._start_one_of(peer, handlers)
                    await trio.lowlevel.checkpoint()

    def _start_one_of(self, peer: str, handlers: trio.Nursery) -> None:
        waiting = self._waiting[peer].popleft()
        if not self._waiting[peer]:
            del self._waiting[peer]
        self._without_place -= not waiting.has_place
        # Only now does somebody else have to go: who is many does not end many at once.
        if waiting.has_place or self._room.take(peer, self._connections, trio.current_time()):
            handlers.start_soon(self._handle, waiting.accepted, waiting.host)
        else:
            self._turn_away(waiting.accepted)

    def _turn_away(self, accepted: trio.SocketStream) -> None:
        """Says why, as far as that costs nothing: the answer fits into the socket's buffer."""
        self._turned_away += 1
        self._drop(accepted, b"" if self._tls() else _FULL.answer())

    def _drop(self, accepted: trio.SocketStream, last_words: bytes = b"") -> None:
        transport = self._transport(accepted, None)
        try:
            if last_words:
                transport.write_now(last_words)
        except trio.BrokenResourceError:
            pass
        transport.close()

    async def _handle(self, accepted: trio.SocketStream, host: str) -> None:
        peer = peer_of(host)
        try:
            transport = self._transport(accepted, self._tls())
        except trio.BrokenResourceError:
            self._room.give_back(peer)
            return  # gone before its turn
        stream = GuardedStream(
            transport,
            self._limits,
            host=host,
            plain=self._plain,
            on_refusal=partial(self._note_refusal, host),
            spare_time=self._spare_time,
        )
        self._company.note(peer, trio.current_time())
        connection = _Connection(peer, stream)
        self._connections.add(connection)
        self._somebody.unpark_all()
        try:
            with stream.scope:
                if not await stream.handshake():
                    self._handshakes_failed += 1
                elif await stream.wait_foreign():
                    connection.session = self._lane.session(stream)
                    await connection.session.run()
            await self._spare_time.give_way(peer)
            await stream.linger()
        # The one place where any exception is only logged: what hypercorn and its parsers trip over
        # is the doing of one client, and must cost that client's connection and nothing else.
        # KeyboardInterrupt, SystemExit and Cancelled pass, and actors do not run in here.
        except* Exception as failures:  # noqa: BLE001
            self._failed += 1
            self._log.error("connection failed", client=host, exc_info=failures)
        finally:
            self._connections.remove(connection)
            self._company.note(peer, trio.current_time())
            if connection.has_place:
                self._room.give_back(peer)
                connection.has_place = False
            transport.close()
            self._ended += 1
            if not self._ended % _ENDED_BETWEEN_LOOKS:
                gc.collect(0)

    def _has_company(self, peer: str) -> bool:
        return self._room.peers > 1 or self._company.has_others(peer, trio.current_time())

    def _note_refusal(self, host: str, refusal: Refusal) -> str:
        self._requests_refused += 1
        return self._requests.refused(refusal.status, refusal.error, host)
