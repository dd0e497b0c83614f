"""HTTP/2 clients over real loopback sockets that would have us work for nothing."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

import h2.errors
import h2.events
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import Limits
from meterd.edge.spare_time import PATIENCE_BEHIND_REQUESTS_S
from tests.edge.loopback import (
    GET,
    App,
    Client,
    Http2Client,
    keep_busy,
    open_door,
    passes,
    wait_until,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

FOUR: Final = Limits(requests_per_peer_at_once=4)
_THE_END: Final = (h2.events.ConnectionTerminated, h2.events.ResponseReceived)


async def test_http2_client_that_asks_for_nothing_is_told_to_calm_down() -> None:
    """A flood of pings costs that client its connection, and the next one is served."""
    async with open_door(App().quart) as door, await Http2Client.connect(door) as client:
        for _ in range(1000):
            client.connection.ping(b"8 octets")
        await client.flush()
        while await client.receive():
            pass
        [farewell] = [
            event for event in client.events if isinstance(event, h2.events.ConnectionTerminated)
        ]
        assert farewell.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert await door.serves()
        assert door.door.statistics().failed == 0


async def test_a_head_is_bounded_before_the_client_has_said_that_it_knows() -> None:
    """So many short fields are milliseconds to read, and a client need never confirm settings."""
    async with open_door(App().quart) as door, await Http2Client.connect(door) as client:
        head = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
        head += [(b":authority", b"a"), *[(b"a", b"b")] * 500]
        client.connection.send_headers(1, head, end_stream=True)
        await client.flush()
        while not any(isinstance(event, _THE_END) for event in client.events):
            assert await client.receive()
        farewell = client.events[-1]
        assert isinstance(farewell, h2.events.ConnectionTerminated)
        assert farewell.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert await door.serves()
        assert door.door.statistics().failed == 0


async def test_http2_client_that_opens_no_window_is_cut(mock_clock: MockClock) -> None:
    """It may keep a piece of its answer waiting for 30 s, however often it says something."""
    app = App()
    async with open_door(app.quart) as door, await Http2Client.connect(door) as client:
        await client.request(b"/large")
        await app.arrived.wait()
        await wait_all_tasks_blocked(0.01)
        for _ in range(29):
            client.connection.ping(b"still up")
            await client.flush()
            await wait_all_tasks_blocked(0.001)
            mock_clock.jump(1)
        assert door.door.statistics().open == 1
        mock_clock.jump(1.1)
        await door.wait_open(0)


async def test_requests_of_one_peer_are_worked_on_in_turn() -> None:
    """A few at once, however many streams and connections they come by; another peer's at once."""
    app = App()
    async with (
        open_door(app.quart, FOUR) as door,
        await Http2Client.connect(door) as one,
        await Http2Client.connect(door) as two,
    ):
        asked = [await two.request(b"/held") for _ in range(20)]
        for _ in range(20):
            await one.request(b"/held")
        await wait_until(lambda: len(app.calls) >= 4)
        await wait_all_tasks_blocked(0.05)
        assert app.calls == ["/held"] * 4
        stream = await trio.open_tcp_stream("127.0.0.1", door.port, local_address="127.0.0.2")
        async with Client(stream) as other:
            assert (await other.ask(GET)).status == 200
        app.release.set()
        for stream_id in asked:
            assert (await two.until_answered(stream_id))[0] == 200
        await wait_until(lambda: len(app.calls) == 41)


async def test_answers_that_are_not_read_keep_no_turn() -> None:
    """Their client is waited for, and it is not the others of its address that pay for it."""
    app = App()
    async with open_door(app.quart, FOUR) as door, await Http2Client.connect(door) as client:
        for _ in range(10):
            await client.request(b"/large")
        await app.arrived.wait()
        assert await door.serves()


async def test_bodies_that_do_not_come_keep_no_turn() -> None:
    """Nor who is slow to send."""
    app = App()
    async with open_door(app.quart, FOUR) as door, await Http2Client.connect(door) as client:
        for _ in range(10):
            await client.request(b"/echo", b"POST", b"x", end=False)
        await wait_until(lambda: app.calls.count("/echo") == 10)
        assert await door.serves()


async def test_a_client_that_is_gone_has_all_its_requests_ended_in_one_go(
    mock_clock: MockClock,
) -> None:
    """They wait for no turns, and do not end at one moment with those of all others that went."""
    app, rests = App(), trio.Event()
    async with open_door(app.quart, FOUR) as door, await Http2Client.connect(door) as client:
        stream = await trio.open_tcp_stream("127.0.0.1", door.port, local_address="127.0.0.2")
        async with stream, trio.open_nursery() as nursery:
            for _ in range(10):
                await client.request(b"/held")
            await wait_until(lambda: len(app.calls) == 4)
            await wait_all_tasks_blocked(0.05)
            nursery.start_soon(keep_busy, rests)
            linger = struct.pack("ii", 1, 0)
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await client.stream.aclose()
            for _ in range(2):
                await passes()
                mock_clock.jump(PATIENCE_BEHIND_REQUESTS_S)
            await passes()
            left = door.door.statistics().open
            rests.set()
            mock_clock.autojump_threshold = 0.01  # or a failure would wait for ever
            assert left == 1
