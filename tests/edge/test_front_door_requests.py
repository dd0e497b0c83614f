"""Requests through the front door over real loopback sockets: what is served, what is refused."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import Limits
from tests.edge.loopback import (
    GET,
    LARGE,
    LARGE_BYTES,
    UPGRADE,
    App,
    Client,
    Http2Client,
    open_door,
    post,
)
from tests.edge.refused_requests import CHUNKED, CHUNKED_HEAD, REFUSED_BODIES, REFUSED_HEADS, head

H2C = (
    b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
)


# Honest traffic


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


async def test_client_address_reaches_the_application() -> None:
    """The application is told who asks."""
    async with open_door(App().quart) as door, await door.connect() as client:
        answer = await client.ask(b"GET /client HTTP/1.1\r\nHost: a\r\n\r\n")
        host, port = client.local_address
        assert answer.json == {"client": [host, port], "remote": host}


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
        await client.stream.aclose()
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


async def test_an_early_answer_stays_whole_when_its_request_is_cut_short() -> None:
    """What is wrong with the rest of the request does not take the answer's body away."""
    raw = post(b"x" * 100, path=b"/nowhere")[:-1]
    async with open_door(App().quart) as door:
        for _ in range(50):
            async with await door.connect() as client:
                await client.send(raw)
                await client.stream.send_eof()
                answer = await client.answer()
                assert answer.status in (400, 404)
                assert answer.body
