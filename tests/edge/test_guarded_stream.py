"""The limits in time of one connection, with a clock that stands still unless told otherwise.

The other end is a real socket: what a kernel makes of a shutdown is part of the promise.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.framing import HTTP2_PREFACE, Refusal
from meterd.edge.guarded_stream import GuardedStream
from meterd.edge.limits import MIB, Limits
from meterd.edge.spare_time import SpareTime
from meterd.edge.transports import SocketTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


class Pair:
    """A guarded stream, what a server receives from it, and the client's end."""

    def __init__(self, stream: GuardedStream, client: trio.SocketStream) -> None:
        self.stream = stream
        self.client = client
        self.received: list[bytes] = []
        self._ended = False
        self.refusals: list[Refusal] = []

    async def serve(self, application: Callable[[], Awaitable[None]]) -> None:
        with self.stream.scope:
            await self.stream.handshake()
            while True:
                try:
                    self.received.append(await self.stream.receive_some())
                except trio.ClosedResourceError:
                    break
            await application()
        self._ended = True

    def has_ended(self) -> bool:
        return self._ended

    async def client_sends(self, data: bytes) -> None:
        await self.client.send_all(data)
        await wait_all_tasks_blocked()

    async def refused_with(self) -> int:
        await wait_all_tasks_blocked()
        assert self.has_ended()
        return int((await self.client.receive_some()).split()[1])


class InRecords(SocketTransport):
    """As with TLS, of two bytes there is nothing before both have come."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._begun = b""

    def read_now(self) -> bytes | None:
        come = super().read_now()
        if not come:
            return come
        whole = self._begun + come
        self._begun = whole[len(whole) // 2 * 2 :]
        return whole[: len(whole) // 2 * 2] or None

    async def receive_some(self) -> bytes:
        while True:
            await self.wait_readable()
            if (come := self.read_now()) is not None:
                return come


class SlowToGreet(SocketTransport):
    async def handshake(self) -> None:
        await trio.sleep(4)


@asynccontextmanager
async def pair(
    application: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    spare_time: SpareTime | None = None,
    over: type[SocketTransport] = SocketTransport,
) -> AsyncIterator[Pair]:
    ours, theirs = socket.socketpair()
    transport = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    refusals: list[Refusal] = []

    def refused(refusal: Refusal) -> str:
        refusals.append(refusal)
        return "name-of-the-refused"

    stream = GuardedStream(over(transport), Limits(), on_refusal=refused, spare_time=spare_time)
    held = Pair(stream, client)
    held.refusals = refusals
    async with transport, client, trio.open_nursery() as nursery:
        nursery.start_soon(held.serve, application)
        await wait_all_tasks_blocked()
        try:
            yield held
        finally:
            held.stream.cut()


async def pass_time(clock: MockClock, seconds: float) -> None:
    clock.jump(seconds)
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("over", [SocketTransport, SlowToGreet])
async def test_silent_connection_ends(mock_clock: MockClock, over: type[SocketTransport]) -> None:
    """Without a first byte it ends 75 s behind its handshake, and nobody is told why: nobody
    asked.
    """
    async with pair(over=over) as held:
        await pass_time(mock_clock, 4 if over is SlowToGreet else 0)
        await pass_time(mock_clock, 74.9)
        assert not held.has_ended()
        assert held.stream.between_requests
        await pass_time(mock_clock, 0.2)
        assert held.has_ended()
        assert held.refusals == []


async def test_slow_head_is_refused(mock_clock: MockClock) -> None:
    """5 s after its first byte a head must be there, however busily it drips."""
    async with pair() as held:
        await pass_time(mock_clock, 60)
        for byte in GET[:5]:
            await held.client_sends(bytes([byte]))
            await pass_time(mock_clock, 0.99)
        assert not held.has_ended()
        await held.client_sends(GET[5:6])
        await pass_time(mock_clock, 0.1)
        assert await held.refused_with() == 408
        assert held.received == []


async def test_who_drips_is_read_once_a_second(mock_clock: MockClock) -> None:
    """After some bytes alone, the next ones are left in the socket until they are many."""
    async with pair() as held:
        for byte in GET[:5]:
            await pass_time(mock_clock, 0.01)
            await held.client_sends(bytes([byte]))
        await pass_time(mock_clock, 0.5)
        await held.client_sends(GET[5:])
        assert held.received == []
        await pass_time(mock_clock, 0.6)
        assert b"".join(held.received) == GET


async def test_who_drips_is_read_and_refused_in_spare_time(mock_clock: MockClock) -> None:
    """Hundreds that drip together, or whose time is over, are not what others wait for."""
    spare_time = SpareTime(lambda _: True)
    async with pair(spare_time=spare_time) as held:
        await held.client_sends(GET[:1])
        for byte in GET[1:6]:  # heads in pieces
            await pass_time(mock_clock, 0.01)
            before = held.stream._framer.buffered
            await held.client_sends(bytes([byte]))
            assert held.stream._framer.buffered == before
            await spare(spare_time)
            assert held.stream._framer.buffered == before + 1
        await held.client_sends(GET[6:10])
        await pass_time(mock_clock, 1.1)
        assert held.stream._framer.buffered == 6
        await spare(spare_time)
        assert held.stream._framer.buffered == 10
        await pass_time(mock_clock, 5)
        assert held.refusals == []
        await spare(spare_time)
        assert await held.refused_with() == 408


async def spare(spare_time: SpareTime) -> None:
    """For a while the loop has nothing else to do."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spare_time.run)
        await wait_all_tasks_blocked(0.005)
        nursery.cancel_scope.cancel()


async def test_slow_later_head_is_refused(mock_clock: MockClock) -> None:
    """So with a later request, whose first bytes came while the one before was being answered."""
    async with pair() as held:
        await held.client_sends(GET + GET[:5])
        await pass_time(mock_clock, 1000)
        held.stream.begin_next_request()
        await pass_time(mock_clock, 4.9)
        assert not held.has_ended()
        await pass_time(mock_clock, 0.2)
        assert await held.refused_with() == 408


async def test_answer_may_take_its_time(mock_clock: MockClock) -> None:
    """While a request is being answered no limit runs; afterwards the idle time does."""
    async with pair() as held:
        await held.client_sends(GET)
        await pass_time(mock_clock, 1000)
        assert not held.has_ended()
        held.stream.begin_next_request()
        await pass_time(mock_clock, 74.9)
        assert not held.has_ended()
        await pass_time(mock_clock, 0.2)
        assert held.has_ended()


async def test_stalled_body_is_refused(mock_clock: MockClock) -> None:
    """A body may stall for 10 s in all, and a drip does not make up for it."""
    async with pair() as held:
        await held.client_sends(POST)
        for _ in range(9):
            await pass_time(mock_clock, 1)
            await held.client_sends(b"x")
        assert not held.has_ended()
        await pass_time(mock_clock, 1.1)
        assert await held.refused_with() == 408


async def test_a_record_that_has_begun_is_waited_for_no_longer_than_its_body(
    mock_clock: MockClock,
) -> None:
    """The first byte of each comes soon, the others of one that drips are still waited for."""
    assert len(POST) % 2
    async with pair(over=InRecords) as held:
        await held.client_sends(POST + b"x")
        for _ in range(2):
            await pass_time(mock_clock, 0.01)
            await held.client_sends(b"x")
            await pass_time(mock_clock, 4.9)
            await held.client_sends(b"x")
        assert not held.has_ended()
        await pass_time(mock_clock, 0.01)
        await held.client_sends(b"x")
        await pass_time(mock_clock, 0.2)
        assert await held.refused_with() == 408


async def test_no_time_in_which_nobody_read_is_counted_as_a_stall(mock_clock: MockClock) -> None:
    """What drips waits for spare time, and its client cannot help that."""
    spare_time = SpareTime(lambda _: True)
    async with pair(spare_time=spare_time) as held:
        await spare(spare_time)
        await held.client_sends(POST)
        await spare(spare_time)
        for _ in range(4):
            await pass_time(mock_clock, 0.01)
            await held.client_sends(b"x")
            await pass_time(mock_clock, 4)
            await spare(spare_time)
        assert held.refusals == []


async def test_steady_body_may_be_slow(mock_clock: MockClock) -> None:
    """At 4 KiB a second a body may take as long as it needs."""
    async with pair() as held:
        await held.client_sends(POST)
        for _ in range(100):
            await pass_time(mock_clock, 1)
            await held.client_sends(b"x" * 4096)
        assert not held.has_ended()
        assert sum(map(len, held.received)) == len(POST) + 100 * 4096


async def test_client_that_does_not_read_is_cut(mock_clock: MockClock) -> None:
    """A piece of the answer that nobody takes within 30 s ends the connection, shield or not."""
    failed = trio.Event()

    async def send(stream: GuardedStream) -> None:
        with trio.CancelScope(shield=True):
            try:
                await stream.send_all(bytes(4 * MIB))
            except trio.BrokenResourceError:
                failed.set()

    async with pair() as held, trio.open_nursery() as nursery:
        await held.client_sends(GET)
        nursery.start_soon(send, held.stream)
        await wait_all_tasks_blocked()
        await pass_time(mock_clock, 29.9)
        assert not failed.is_set()
        await held.client.receive_some(MIB)
        await wait_all_tasks_blocked()
        await pass_time(mock_clock, 29.9)
        assert not failed.is_set()
        await pass_time(mock_clock, 0.2)
        await failed.wait()
        assert held.has_ended()


async def test_what_is_sent_ahead_is_bounded() -> None:
    """A client that sends on and on while it is being answered is not read any further."""
    async with pair() as held, trio.open_nursery() as nursery:
        nursery.start_soon(held.client.send_all, GET + GET * 200_000)
        await wait_all_tasks_blocked()
        assert held.received == [GET]
        assert held.stream._framer.buffered < 128 * 1024
        nursery.cancel_scope.cancel()


async def test_refusal_does_not_mix_with_an_answer(mock_clock: MockClock) -> None:
    """Behind a bad rest of the request an answer that has begun has 2 s to end; no other comes."""
    async with pair() as held:
        await held.client_sends(
            POST.replace(b"Content-Length: 1000000", b"Transfer-Encoding: chunked")
        )
        await held.stream.send_all(b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhe")
        await held.client_sends(b"x\r\n")
        assert not held.has_ended()
        await held.stream.send_all(b"llo")
        assert (await held.client.receive_some()).endswith(b"hello")
        await pass_time(mock_clock, 2.1)
        assert held.has_ended()
        with pytest.raises(trio.BrokenResourceError):
            await held.stream.send_all(b"more")
        await held.stream.send_eof()
        assert await held.client.receive_some() == b""


async def test_expired_stream_gives_what_had_arrived() -> None:
    """Expiring an idle connection loses no request that is already in the socket."""
    async with pair() as held:
        await held.client.send_all(GET)
        held.stream.expire()
        await wait_all_tasks_blocked()
        assert held.received == [GET]
        assert not held.has_ended()
        await held.stream.send_all(b"HTTP/1.1 200 \r\n\r\n")
        held.stream.begin_next_request()
        await wait_all_tasks_blocked()
        assert held.has_ended()
        assert held.refusals == []


async def test_end_reaches_a_waiting_application(mock_clock: MockClock) -> None:
    """What is still running 2 s after the end of its connection is cancelled."""
    async with pair(application=trio.sleep_forever) as held:
        await held.client_sends(GET)
        await held.stream.aclose()
        await pass_time(mock_clock, 1.9)
        assert not held.has_ended()
        await pass_time(mock_clock, 0.2)
        assert held.has_ended()


async def test_lingering_lets_the_client_finish(mock_clock: MockClock) -> None:
    """A client that is still sending sees our end of stream, not a reset; for 2 s."""
    async with pair() as held, trio.open_nursery() as nursery:
        await held.client_sends(POST)
        await held.stream.aclose()
        nursery.start_soon(held.stream.linger)
        await wait_all_tasks_blocked()
        assert await held.client.receive_some() == b""
        for _ in range(3):
            await held.client_sends(bytes(100_000))
            await pass_time(mock_clock, 0.6)
        assert nursery.child_tasks
        await pass_time(mock_clock, 0.6)
        assert not nursery.child_tasks


async def test_cut_needs_no_client() -> None:
    """Cutting a connection whose client has left is no failure."""
    async with pair() as held:
        await held.client.aclose()
        await wait_all_tasks_blocked()
        held.stream.cut()
        held.stream.cut()
        assert held.has_ended()


async def test_http2_passes_without_requests_being_counted(mock_clock: MockClock) -> None:
    """Behind the preface bytes pass at once, and silence is the only limit."""
    async with pair() as held:
        await held.client_sends(HTTP2_PREFACE + b"\0\0\0\4\0\0\0\0\0")
        assert held.stream.is_http2
        await pass_time(mock_clock, 74)
        await held.client_sends(b"frame")
        assert held.received[-1] == b"frame"
        await pass_time(mock_clock, 74)
        assert not held.has_ended()
        await pass_time(mock_clock, 1.1)
        assert held.has_ended()
