"""HTTP/2 clients over real loopback sockets that would have us work for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.errors
import h2.events
from trio.testing import wait_all_tasks_blocked

from tests.edge.loopback import App, Http2Client, open_door

if TYPE_CHECKING:
    from trio.testing import MockClock


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
