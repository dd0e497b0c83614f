"""The front door over real loopback sockets: what it survives, whom it lets in, how it ends.

Each fault that hypercorn has by itself is here; ``test_front_door_requests.py`` has the requests.
"""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import h2.events
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import Limits
from tests.edge.loopback import (
    GET,
    HELD,
    LARGE,
    UPGRADE,
    App,
    Client,
    Http2Client,
    open_door,
    post,
    wait_until,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.edge.loopback import Door


# One client's fault


async def test_byte_behind_websocket_upgrade_harms_nobody() -> None:
    """An upgrade that is not taken up is an ordinary request, whatever follows it."""
    async with open_door(App().quart) as door, await door.connect() as client:
        await client.send(UPGRADE + b"x")
        assert (await client.answer()).status == 200
        assert await door.serves()


@pytest.mark.parametrize(
    ("path", "method"),
    [(b"/p\xc3\xafng", b"GET"), (b"/ping", b"G\xc3\x8bT")],
    ids=["path", "method"],
)
async def test_http2_pseudo_header_outside_ascii_costs_one_connection(
    path: bytes, method: bytes
) -> None:
    """What hypercorn cannot decode ends that connection, is logged, and the next is served."""
    async with open_door(App().quart) as door, await Http2Client.connect(door) as client:
        await client.request(path, method)
        while await client.receive():
            pass
        await _assert_one_connection_failed(door)


async def _assert_one_connection_failed(door: Door) -> None:
    assert await door.serves()
    assert door.door.statistics().failed == 1
    [entry] = [entry for entry in door.logged if entry["event"] == "connection failed"]
    assert entry["client"] == "127.0.0.1"
    assert entry["exc_info"]


# Closing


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /ping HTTP/1.0\r\n\r\n",
    ],
)
async def test_connection_ends_after_its_last_answer(request_bytes: bytes) -> None:
    """Who says that this is the last request sees the connection end behind the answer."""
    async with open_door(App().quart) as door, await door.connect() as client:
        assert (await client.ask(request_bytes)).status == 200
        with trio.fail_after(1):
            assert await client.is_closed()
        await client.stream.aclose()
        await door.wait_open(0)


async def test_idle_connection_ends(mock_clock: MockClock) -> None:
    """75 s after its answer a silent connection is closed, and not a second earlier."""
    async with open_door(App().quart) as door, await door.connect() as client:
        assert (await client.ask(GET)).status == 200
        await wait_all_tasks_blocked()
        mock_clock.jump(74.9)
        await wait_all_tasks_blocked()
        assert door.door.statistics().idle == 1
        mock_clock.jump(0.2)
        assert await client.is_closed()
        await door.wait_open(0)


async def test_silent_http2_connection_ends(mock_clock: MockClock) -> None:
    """An HTTP/2 client that says nothing for 75 s is gone, even with a request under way."""
    app = App()
    async with open_door(app.quart) as door, await Http2Client.connect(door) as client:
        await client.request(b"/held")
        await app.arrived.wait()
        await wait_all_tasks_blocked()
        mock_clock.jump(75.1)
        while await client.receive():
            pass
        await door.wait_open(0)
        assert app.cancelled == ["/held"]
        assert not any(isinstance(event, h2.events.StreamEnded) for event in client.events)


@pytest.mark.parametrize("http2", [False, True])
async def test_connection_goes_with_its_client(http2: bool) -> None:
    """A client that leaves after its answer leaves nothing behind."""
    async with open_door(App().quart) as door:
        if http2:
            async with await Http2Client.connect(door) as client:
                assert (await client.until_answered(await client.request(b"/ping")))[0] == 200
        else:
            assert await door.serves()
        with trio.fail_after(1):
            await door.wait_open(0)


async def test_half_closed_client_is_answered() -> None:
    """A client may stop sending and still read: its request is served to the end."""
    app = App()
    async with open_door(app.quart) as door, await door.connect() as client:
        await client.send(GET + HELD)
        await client.stream.send_eof()
        await app.arrived.wait()
        await wait_all_tasks_blocked()
        app.release.set()
        assert (await client.answer()).status == 200
        assert (await client.answer()).json == {"status": "released"}
        assert await client.is_closed()


async def test_reset_reaches_the_application() -> None:
    """The work for a client that is surely gone is given up."""
    app = App()
    async with open_door(app.quart) as door:
        client = await door.connect()
        await client.send(HELD)
        await app.arrived.wait()
        await _reset(client)
        await door.wait_open(0)
        assert app.cancelled == ["/held"]


@pytest.mark.parametrize("asked", [GET, LARGE], ids=["small", "large"])
async def test_reset_amid_an_answer_ends_the_connection(asked: bytes) -> None:
    """A client that has seen enough, as health checks often have, leaves nothing behind: its
    connection would count as open for ever.
    """
    async with open_door(App().quart) as door:
        for _ in range(20):
            client = await door.connect()
            await client.send(asked)
            await client.stream.receive_some(16)
            await _reset(client)
        with trio.fail_after(1):
            await door.wait_open(0)


async def _reset(client: Client) -> None:
    linger_zero = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger_zero)
    await client.stream.aclose()


async def test_answer_before_the_body_is_read_by_the_client() -> None:
    """A 404 reaches a client that is still sending its body, and no reset takes it away."""
    async with open_door(App().quart) as door, await door.connect() as client:
        await client.send(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
        await client.send(bytes(1000))
        await wait_all_tasks_blocked(0.01)
        await client.send(bytes(200_000))
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (404, "close")
        assert await client.is_closed()


async def test_answer_behind_the_whole_body_keeps_the_connection() -> None:
    """Also where the application did not look at the body."""
    async with open_door(App().quart) as door, await door.connect() as client:
        for _ in range(20):
            answer = await client.ask(post(b"x" * 1000, path=b"/nowhere"))
            assert answer.status == 404
            assert "connection" not in answer.fields


# Shutdown


async def test_shutdown_ends_idle_connections_at_once() -> None:
    """A shutdown waits for nobody who asks nothing."""
    async with open_door(App().quart) as door:
        fresh, used = await door.connect(), await door.connect()
        async with fresh, used, await Http2Client.connect(door) as http2:
            assert (await used.ask(GET)).status == 200
            assert (await http2.until_answered(await http2.request(b"/ping")))[0] == 200
            await wait_all_tasks_blocked()
            assert door.door.statistics().idle == 3
            door.door.begin_shutdown()
            with trio.fail_after(1):
                await door.ended.wait()


async def test_shutdown_lets_newcomers_ask() -> None:
    """Who connected a moment before it asks a moment later, and is answered: of all who come while
    a service manager keeps the socket open it would be the only one that is turned away.
    """
    async with open_door(App().quart) as door, await door.connect() as client:
        await door.wait_open(1)
        await wait_all_tasks_blocked()
        door.door.begin_shutdown()
        await wait_all_tasks_blocked()
        assert (await client.ask(GET)).status == 200
        with trio.fail_after(1):
            await door.ended.wait()


async def test_shutdown_stops_accepting() -> None:
    """From the beginning of the shutdown on nobody new comes in."""
    app = App()
    async with open_door(app.quart) as door, await door.connect() as client:
        await client.send(HELD)
        await app.arrived.wait()
        door.door.begin_shutdown()
        await wait_all_tasks_blocked()
        with pytest.raises(OSError, match="connect"):
            await door.connect()
        app.release.set()
        assert (await client.answer()).json == {"status": "released"}
        await door.ended.wait()


async def test_shutdown_serves_what_has_arrived() -> None:
    """A request that was sent before the shutdown is answered, though nobody had read it yet."""
    async with open_door(App().quart) as door, await door.connect() as client:
        assert (await client.ask(GET)).status == 200
        await wait_all_tasks_blocked()
        await client.send(GET)
        door.door.begin_shutdown()
        assert (await client.answer()).status == 200
        await door.ended.wait()


async def test_shutdown_waits_for_the_end_of_http2_answers() -> None:
    """Answers under way at the shutdown arrive whole, each with its END_STREAM before any GOAWAY.

    The last answer of a connection is the one at risk, and only by the order in which tasks happen
    to run: hence many connections.
    """
    app = App()
    limits = Limits(requests_per_peer_at_once=60)
    async with open_door(app.quart, limits) as door, AsyncExitStack() as open_clients:
        clients = [
            await open_clients.enter_async_context(await Http2Client.connect(door))
            for _ in range(20)
        ]
        streams = [(client, await client.request(b"/held")) for client in clients for _ in range(3)]
        await wait_until(lambda: len(app.calls) == len(streams))
        door.door.begin_shutdown()
        await wait_all_tasks_blocked()
        app.release.set()
        for client, stream_id in streams:
            status, body = await client.until_answered(stream_id)
            assert (status, body) == (200, b'{"status":"released"}\n')
        await door.ended.wait()


@pytest.mark.parametrize("steps", range(8))
async def test_shutdown_ends_a_connection_that_is_just_being_accepted(steps: int) -> None:
    """However far a newcomer has come when the shutdown begins, it does not hold up the end."""
    with socket.socket() as newcomer:
        async with open_door(App().quart) as door:
            await wait_all_tasks_blocked()
            newcomer.connect(("127.0.0.1", door.port))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            door.door.begin_shutdown()
            with trio.fail_after(1):
                await door.ended.wait()


async def test_shutdown_cuts_a_client_that_does_not_read() -> None:
    """A send that nobody takes ends with the graceful deadline."""
    app = App()
    limits = Limits(graceful_s=0.2)
    async with open_door(app.quart, limits) as door, await door.connect() as client:
        await client.send(LARGE)
        await app.arrived.wait()
        door.door.begin_shutdown()
        with trio.fail_after(2):
            await door.ended.wait()


async def test_shutdown_cuts_an_http2_client_that_opens_no_window() -> None:
    """Neither can flow control hold up the end."""
    app = App()
    limits = Limits(graceful_s=0.2)
    async with open_door(app.quart, limits) as door, await Http2Client.connect(door) as client:
        await client.request(b"/large")
        await app.arrived.wait()
        door.door.begin_shutdown()
        with trio.fail_after(2):
            await door.ended.wait()


async def test_shutdown_cuts_an_application_that_hangs() -> None:
    """A handler that does not come to an end is cancelled at the graceful deadline."""
    app = App()
    async with (
        open_door(app.quart, Limits(graceful_s=0.2)) as door,
        await door.connect() as client,
    ):
        await client.send(HELD)
        await app.arrived.wait()
        door.door.begin_shutdown()
        with trio.fail_after(2):
            await door.ended.wait()
        assert app.cancelled == ["/held"]
        assert await client.is_closed()


async def test_cancelling_ends_everything_at_once() -> None:
    """Cancelled, serving does not wait for anything, not even for a send that is shielded."""
    app = App()
    with trio.fail_after(2):
        async with open_door(app.quart) as door:
            client = await door.connect()
            await client.send(LARGE)
            await app.arrived.wait()
            await wait_all_tasks_blocked(0.01)
    await client.stream.aclose()


# In company


@pytest.mark.parametrize("in_company", [False, True])
async def test_in_company_requests_begin_when_nothing_else_is_ready(
    mock_clock: MockClock, *, in_company: bool
) -> None:
    """Of the application's, whatever their peer is; a lone peer's begin at once."""
    app, rests, began_at = App(), trio.Event(), mock_clock.current_time()
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(open_door(app.quart))
        client = await stack.enter_async_context(await door.connect())
        if in_company:
            stream = await trio.open_tcp_stream("127.0.0.1", door.port, local_address="127.0.0.2")
            await stack.enter_async_context(Client(stream))
        await door.wait_open(2 if in_company else 1)
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(_keep_busy, rests)
        await client.send(GET)
        for _ in range(200):
            await trio.lowlevel.checkpoint()
        assert app.calls == ([] if in_company else ["/ping"])
        rests.set()
        assert (await client.answer()).status == 200
        assert mock_clock.current_time() == began_at


async def _keep_busy(rests: trio.Event) -> None:
    while not rests.is_set():
        await trio.lowlevel.checkpoint()
