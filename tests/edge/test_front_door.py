"""The front door over real loopback sockets: the faults that hypercorn alone has, what it refuses,
what it serves, how it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.events
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import Limits
from tests.edge.loopback import (
    GET,
    LARGE_BYTES,
    App,
    Client,
    Http2Client,
    open_door,
    post,
    wait_until,
)
from tests.edge.refused_requests import CHUNKED, CHUNKED_HEAD, REFUSED_BODIES, REFUSED_HEADS, head

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.edge.loopback import Door

HELD = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
H2C = (
    b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
)


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


async def test_http2_data_after_the_answer_costs_one_connection() -> None:
    """A client that goes on streaming after a 404 loses its connection, and only that."""
    async with open_door(App().quart) as door, await Http2Client.connect(door) as client:
        stream_id = await client.request(b"/nowhere", b"POST", b"begin", end=False)
        assert (await client.until_answered(stream_id))[0] == 404
        client.connection.send_data(stream_id, b"more")
        await client.flush()
        while await client.receive():
            pass
        await _assert_one_connection_failed(door)


async def _assert_one_connection_failed(door: Door) -> None:
    assert await door.serves()
    assert door.door.statistics().failed == 1
    [entry] = [entry for entry in door.logged if entry["event"] == "connection failed"]
    assert entry["client"] == "127.0.0.1"
    assert entry["exc_info"]


# Requests with two readings

COMPLETE = {**REFUSED_HEADS, "ended early": (400, post(b"hello")[:-1])}


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("name", COMPLETE)
async def test_doubtful_head_is_refused(name: str, later: bool) -> None:
    """Refused in JSON, the connection closed, the application not asked; later requests too."""
    status, raw = COMPLETE[name]
    app = App()
    async with open_door(app.quart) as door, await door.connect() as client:
        if later:
            assert (await client.ask(GET)).status == 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_all_of_it, client, raw)
            await _assert_refused(client, status)
        assert app.calls == ["/ping"] * later + ["/echo"] * (name == "ended early")


async def _send_all_of_it(client: Client, raw: bytes) -> None:
    await client.send(raw)
    await client.stream.send_eof()


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("name", REFUSED_BODIES)
async def test_doubtful_body_is_refused(name: str, later: bool) -> None:
    """So is a chunked body; the application never sees its end."""
    status, raw = REFUSED_BODIES[name]
    app = App()
    async with open_door(app.quart) as door, await door.connect() as client:
        await client.send(GET * later + CHUNKED_HEAD + raw)
        if later:
            assert (await client.answer()).status == 200
        await _assert_refused(client, status)
        await door.wait_open(0)
        assert app.completed == 0


async def _assert_refused(client: Client, status: int) -> None:
    answer = await client.answer()
    assert answer.status == status
    assert list(answer.json) == ["error"]
    assert answer.fields["content-type"] == "application/json"
    assert answer.fields["connection"] == "close"
    assert answer.fields["cache-control"] == "no-store"
    assert await client.is_closed()


async def test_request_behind_a_refused_one_is_not_served() -> None:
    """What a smuggler hides in a body stays unread."""
    app = App()
    async with open_door(app.quart) as door, await door.connect() as client:
        await client.send(head(b"Content-Length: 40", CHUNKED) + b"0\r\n\r\n" + GET)
        await _assert_refused(client, 400)
        assert app.calls == []


async def test_body_refused_after_100_continue() -> None:
    """A client that was told to go on is still told that it went too far."""
    async with open_door(App().quart) as door, await door.connect() as client:
        assert (await client.ask(head(CHUNKED, b"Expect: 100-continue"))).status == 100
        await client.send(b"x\r\n")
        await _assert_refused(client, 400)


async def test_body_too_long_is_refused_before_100_continue() -> None:
    """Nobody is told to send what will not be taken."""
    async with open_door(App().quart) as door, await door.connect() as client:
        await client.send(head(b"Content-Length: 5000000", b"Expect: 100-continue"))
        await _assert_refused(client, 413)


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
        await client.send(HELD + GET)
        await client.stream.send_eof()
        await app.arrived.wait()
        await wait_all_tasks_blocked()
        app.release.set()
        assert (await client.answer()).json == {"status": "released"}
        assert (await client.answer()).status == 200
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
        assert (await client.answer()).status == 404
        assert await client.is_closed()


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


async def test_shutdown_waits_for_the_end_of_an_http2_answer() -> None:
    """Answers under way at the shutdown arrive whole, each with its END_STREAM."""
    app = App()
    async with open_door(app.quart) as door, await Http2Client.connect(door) as client:
        streams = [await client.request(b"/held") for _ in range(20)]
        await wait_until(lambda: len(app.calls) == 20)
        door.door.begin_shutdown()
        await wait_all_tasks_blocked()
        app.release.set()
        for stream_id in streams:
            status, body = await client.until_answered(stream_id)
            assert (status, body) == (200, b'{"status":"released"}\n')
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


# Room


async def test_full_house_drops_the_longest_idle() -> None:
    """One more than fits costs the connection that has been idle for longest its place."""
    limits = Limits(connections_max=2, connections_per_peer_max=2)
    async with open_door(App().quart, limits) as door:
        older, newer = await door.connect(), await door.connect()
        async with older, newer:
            assert (await newer.ask(GET)).status == 200
            assert (await older.ask(GET)).status == 200
            assert (await newer.ask(GET)).status == 200
            assert await door.serves()
            assert await older.is_closed()
            assert (await newer.ask(GET)).status == 200
            assert door.door.statistics().expired_for_room == 1


@pytest.mark.parametrize(
    "limits",
    [
        Limits(connections_max=1, connections_per_peer_max=1),
        Limits(connections_max=8, connections_per_peer_max=1),
    ],
    ids=["in all", "per address"],
)
async def test_full_and_busy_house_turns_away(limits: Limits) -> None:
    """Nobody who is being served makes room: the newcomer is told 503."""
    app = App()
    async with open_door(app.quart, limits) as door, await door.connect() as busy:
        await busy.send(HELD)
        await app.arrived.wait()
        async with await door.connect() as newcomer:
            assert (await newcomer.answer()).json == {"error": "Too many connections"}
            assert await newcomer.is_closed()
        app.release.set()
        assert (await busy.answer()).status == 200
        assert door.door.statistics().turned_away == 1


# Honest traffic


async def test_statistics_count() -> None:
    """Open, idle and accepted connections and refused requests are what they are."""
    app = App()
    async with open_door(app.quart) as door:
        idle, busy = await door.connect(), await door.connect()
        async with idle, busy, await door.connect() as refused:
            assert (await idle.ask(GET)).status == 200
            await busy.send(HELD)
            assert (await refused.ask(b"GET / HTTP/1.1\r\n\r\n")).status == 400
            await app.arrived.wait()
            await wait_all_tasks_blocked()
            seen = door.door.statistics()
            assert (seen.open, seen.idle, seen.accepted, seen.requests_refused) == (3, 1, 3, 1)


async def test_keep_alive_serves_hundred_requests() -> None:
    """One connection serves one request after another."""
    async with open_door(App().quart) as door, await door.connect() as client:
        for number in range(100):
            body = b"%d" % number
            answer = await client.ask(post(body))
            assert (answer.status, answer.body) == (200, body)
        assert door.door.statistics().accepted == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests sent ahead wait for their turn, with and without bodies."""
    async with open_door(App().quart) as door, await door.connect() as client:
        chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(
            post(b"1") + GET + chunked + b"2\r\n2,\r\n1\r\n3\r\n0\r\n\r\n" + post(b"4")
        )
        bodies = [(await client.answer()).body for _ in range(4)]
        assert bodies == [b"1", b'{"status":"ok"}\n', b"2,3", b"4"]


async def test_requests_may_arrive_byte_by_byte() -> None:
    """Where the network cuts a request makes no difference."""
    async with open_door(App().quart) as door, await door.connect() as client:
        chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        for byte in post(b"first") + chunked + b"3\r\nsec\r\n3\r\nond\r\n0\r\n\r\n":
            await client.send(bytes([byte]))
            await wait_all_tasks_blocked()
        assert (await client.answer()).body == b"first"
        assert (await client.answer()).body == b"second"


async def test_large_body_and_large_answer() -> None:
    """The largest body passes whole, and so does an answer larger than any buffer."""
    body = bytes(range(256)) * (Limits().body_bytes_max // 256)
    async with (
        open_door(App().quart) as door,
        await door.connect() as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.send, post(body) + LARGE)
        assert (await client.answer()).body == body
        assert len((await client.answer()).body) == LARGE_BYTES


async def test_expect_100_continue() -> None:
    """A client that asks first is told to go on, and then served."""
    async with open_door(App().quart) as door, await door.connect() as client:
        head = (
            b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await client.ask(head)).status == 100
        answer = await client.ask(b"hello")
        assert (answer.status, answer.body) == (200, b"hello")
        assert (await client.ask(GET)).status == 200


async def test_head_request() -> None:
    """HEAD is answered like GET, without the body, and the connection goes on."""
    async with open_door(App().quart) as door, await door.connect() as client:
        await client.send(b"HEAD /ping HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
        assert (await client.answer(body=False)).fields["content-length"] == "16"
        assert (await client.answer()).json == {"status": "ok"}


@pytest.mark.parametrize("offer", [UPGRADE, H2C], ids=["websocket", "h2c"])
async def test_offered_upgrade_is_ignored(offer: bytes) -> None:
    """An upgrade may be offered with any request: the connection stays HTTP/1.1."""
    async with open_door(App().quart) as door, await door.connect() as client:
        assert (await client.ask(offer)).status == 200
        assert (await client.ask(GET)).status == 200


async def test_http2_by_prior_knowledge() -> None:
    """HTTP/2 is served, also several requests at once."""
    app = App()
    async with open_door(app.quart) as door, await Http2Client.connect(door) as client:
        held = await client.request(b"/held")
        echo = await client.request(b"/echo", b"POST", b"x" * 10_000)
        assert await client.until_answered(echo) == (200, b"x" * 10_000)
        app.release.set()
        assert (await client.until_answered(held))[0] == 200


async def test_http2_connection_serves_more_than_a_thousand_requests() -> None:
    """No number of requests makes a connection end under its client's hands."""
    async with open_door(App().quart) as door, await Http2Client.connect(door) as client:
        for _ in range(1100):
            stream_id = await client.request(b"/ping")
            assert (await client.until_answered(stream_id))[0] == 200
            client.events.clear()


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


async def test_client_address_reaches_the_application() -> None:
    """The application is told who asks."""
    async with open_door(App().quart) as door, await door.connect() as client:
        answer = await client.ask(b"GET /client HTTP/1.1\r\nHost: a\r\n\r\n")
        host, port = client.local_address
        assert answer.json == {"client": [host, port], "remote": host}
