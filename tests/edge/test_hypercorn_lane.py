"""What the application sees of a connection that hypercorn serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h2.events
import pytest
import structlog
import trio
from structlog.testing import LogCapture
from trio.testing import wait_all_tasks_blocked

from meterd.edge.hypercorn_lane import HypercornLane
from meterd.edge.limits import Limits
from tests.edge.loopback import GET, REQUESTS, App, Http2Client, open_door

if TYPE_CHECKING:
    from trio.testing import MockClock

    from meterd.edge.hypercorn_lane import Application


async def test_disconnect_waits_for_the_last_send() -> None:
    """An application hears of the end only when its last send is through, so it cannot be cancelled
    by it in there.
    """
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            heard.append("disconnect")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            heard.append("sent")

    async with open_door(app) as door, await door.connect() as client:
        # Closing takes hypercorn a few steps more, in which the report would get ahead.
        assert (await client.ask(b"GET / HTTP/1.0\r\n\r\n")).status == 204
        await wait_all_tasks_blocked()
        assert heard == ["sent", "disconnect"]


async def test_slow_http2_body_is_given_up(mock_clock: MockClock) -> None:
    """A stream whose body stalls for 10 s is a disconnect to the application; others go on."""
    app = App()
    async with open_door(app.quart) as door, await Http2Client.connect(door) as client:
        slow = await client.request(b"/echo", b"POST", b"begin", end=False)
        await app.arrived.wait()
        for _ in range(9):
            await wait_all_tasks_blocked()
            mock_clock.jump(1)
            client.connection.send_data(slow, b"x")
            await client.flush()
        await wait_all_tasks_blocked()
        mock_clock.jump(1.1)
        assert (await client.until_answered(slow))[0] == 500
        assert app.completed == 0
        assert (await client.until_answered(await client.request(b"/ping")))[0] == 200


async def test_http2_answer_may_take_longer_than_a_body(mock_clock: MockClock) -> None:
    """Once the request is complete, the pace of its body no longer matters."""
    app = App()
    async with open_door(app.quart) as door, await Http2Client.connect(door) as client:
        held = await client.request(b"/held")
        await app.arrived.wait()
        await wait_all_tasks_blocked()
        mock_clock.jump(60)
        await wait_all_tasks_blocked()
        app.release.set()
        assert (await client.until_answered(held))[0] == 200


async def test_websocket_over_http2_is_turned_away() -> None:
    """There are no websockets here, and asking for one is answered."""
    app = App()
    async with open_door(app.quart) as door, await Http2Client.connect(door) as client:
        stream_id = client.connection.get_next_available_stream_id()
        headers = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")]
        headers += [(":path", "/ping"), (":authority", "a"), ("sec-websocket-version", "13")]
        client.connection.send_headers(stream_id, headers)
        await client.flush()
        assert (await client.until_answered(stream_id))[0] == 403
        assert (await client.until_answered(await client.request(b"/ping")))[0] == 200


async def test_http2_body_that_comes_behind_its_answer_harms_nobody() -> None:
    """Whoever is refused may still be sending; the connection's other requests are answered."""
    app = App()
    async with open_door(app.quart) as door, await Http2Client.connect(door) as client:
        held = await client.request(b"/held")
        for end in (True, False):
            refused = await client.request(b"/nowhere", b"POST", b"begin", end=False)
            assert (await client.until_answered(refused))[0] == 404
            client.connection.send_data(refused, b"x" * 10_000)
            client.connection.send_data(refused, b"x" * 10_000, end_stream=end)
            await client.flush()
            assert (await client.until_answered(await client.request(b"/ping")))[0] == 200
        app.release.set()
        assert (await client.until_answered(held))[0] == 200
        assert not any(isinstance(event, h2.events.StreamReset) for event in client.events)
    assert door.logged == []


@pytest.mark.parametrize("end", [True, False])
async def test_http2_client_that_sends_more_than_may_be_unread_is_told(*, end: bool) -> None:
    """By a reset of that stream, which is no error; more of it is taken and dropped."""
    limits = Limits(body_bytes_max=20_000)
    async with (
        open_door(App().quart, limits) as door,
        await Http2Client.connect(door) as client,
    ):
        refused = await client.request(b"/nowhere", b"POST", b"begin", end=False)
        assert (await client.until_answered(refused))[0] == 404
        for last in (False, False, end):
            client.connection.send_data(refused, b"x" * 10_000, end_stream=last)
        await client.flush()
        assert (await client.until_answered(await client.request(b"/ping")))[0] == 200
        resets = [event for event in client.events if isinstance(event, h2.events.StreamReset)]
        assert [(reset.stream_id, reset.error_code) for reset in resets] == (
            [] if end else [(refused, 0)]
        )
        assert (await client.until_answered(await client.request(b"/ping")))[0] == 200
    assert door.logged == []


async def test_escaped_exception_is_a_500_and_logged() -> None:
    """What an application lets escape is answered and logged; the connection is not to blame.

    One without a lifespan is served all the same.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    async with open_door(app) as door, await door.connect() as client:
        assert (await client.ask(GET)).status == 500
        assert [(entry["log_level"], entry["event"]) for entry in door.logged] == [
            ("warning", "ASGI Framework Lifespan error, continuing without Lifespan support"),
            ("error", "Error in ASGI Framework"),
        ]
        assert door.logged[-1]["exc_info"]
        assert door.door.statistics().failed == 0


def lane_of(app: Application) -> HypercornLane:
    log = structlog.wrap_logger(None, processors=[LogCapture()])
    return HypercornLane(app, Limits(), log, REQUESTS)


async def test_application_is_started_and_stopped() -> None:
    """The application starts before anything is served, and stops after the last of it."""
    app = App()
    seen: list[str] = []

    @app.quart.before_serving
    async def start() -> None:
        seen.append("started")

    @app.quart.after_serving
    async def stop() -> None:
        seen.append("stopped")

    async with lane_of(app.quart).running():
        seen.append("serving")
    assert seen == ["started", "serving", "stopped"]


async def test_application_that_cannot_start_ends_it() -> None:
    """An application that failed to start ends what was to serve it, and says why."""
    app = App()

    @app.quart.before_serving
    async def fail() -> None:
        msg = "no store"
        raise RuntimeError(msg)

    with pytest.RaisesGroup(pytest.RaisesExc(Exception, match="no store"), flatten_subgroups=True):
        async with lane_of(app.quart).running():
            await trio.sleep_forever()
