"""Whom a front door has room for, over real loopback sockets; ``test_room.py`` has the rules."""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.front_door import FrontDoor
from meterd.edge.limits import Limits
from tests.edge.loopback import (
    GET,
    HELD,
    REQUESTS,
    App,
    open_door,
    wait_until,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_full_house_drops_the_longest_idle() -> None:
    """One more than fits costs the connection that has been idle for longest its place."""
    limits = Limits(connections_max=2, connections_per_peer_max=2, idle_for_own_s=0.0)
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
            answer = await newcomer.answer()
            assert (answer.status, answer.json) == (503, {"error": "Too many connections"})
            assert answer.fields["retry-after"] == "1"
            assert await newcomer.is_closed()
        app.release.set()
        assert (await busy.answer()).status == 200
        assert door.door.statistics().turned_away == 1


async def test_young_objects_are_looked_through_behind_each_eighth_connection() -> None:
    """Where one ends as another begins Python counts none, and would look when they are thousands,
    for 4 ms.
    """
    looks: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            looks.append(info["generation"])

    gc.disable()  # so that each is one of ours
    gc.callbacks.append(note)
    try:
        async with open_door(App().quart) as door:
            for number in range(1, 18):
                async with await door.connect() as connection:
                    assert (await connection.ask(GET)).status == 200
                await wait_until(lambda: not door.door.statistics().open)
                assert looks == [0] * (number // 8)
    finally:
        gc.callbacks.remove(note)
        gc.enable()


async def test_a_full_queue_keeps_nobody_of_another_address_out() -> None:
    """Its last one of whoever has most in it is turned away for the newcomer."""
    turned_away: list[str] = []

    def transport(accepted: Any, _: object) -> Any:
        return SimpleNamespace(
            write_now=lambda _: turned_away.append(accepted.socket.getpeername()[0]),
            close=lambda: None,
        )

    limits = Limits(connections_max=1, connections_per_peer_max=1)
    door = FrontDoor(App().quart, limits, structlog.get_logger(), REQUESTS, transport=transport)

    def comes(host: str) -> None:
        peer = SimpleNamespace(getpeername=lambda: (host, 1))
        door._enqueue(cast("Any", SimpleNamespace(socket=peer)))

    for _ in range(100):
        comes("192.0.2.1")
    assert turned_away == ["192.0.2.1"] * 35  # one has the place, 64 wait for one
    comes("192.0.2.2")
    assert turned_away == ["192.0.2.1"] * 36
    assert [len(queue) for queue in door._waiting.values()] == [64, 1]
    for _ in range(100):
        comes("192.0.2.2")
    assert {len(queue) for queue in door._waiting.values()} == {32, 33}


@pytest.mark.parametrize("lacking", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_without_room_in_the_system_who_comes_waits_in_the_kernel(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, lacking: int
) -> None:
    """For a tenth of a second; then others may have given some back."""
    accept, failures = trio.SocketListener.accept, [lacking]

    async def accept_at_second(listener: trio.SocketListener) -> trio.SocketStream:
        if failures:
            raise OSError(failures.pop(), "no room")
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", accept_at_second)
    async with open_door(App().quart) as door, await door.connect() as client:
        await wait_all_tasks_blocked(0.01)
        assert door.door.statistics().accepted == 0
        mock_clock.jump(0.1)
        assert (await client.ask(GET)).status == 200


async def test_the_last_free_file_is_given_to_who_comes_and_ends_no_listener(
    mock_clock: MockClock,
) -> None:
    """Where the next look at who else has come needs one more, it is not looked: they wait."""
    async with open_door(App().quart) as door, await door.connect() as first:
        assert (await first.ask(GET)).status == 200
        with socket.socket() as client:
            client.setblocking(False)
            _, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
            try:
                with pytest.raises(BlockingIOError):
                    client.connect(("127.0.0.1", door.port))
                await door.wait_open(2)
                await wait_all_tasks_blocked()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        mock_clock.jump(0.1)
        assert await door.serves()


async def test_another_fault_of_a_listener_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would come again and again, and nobody would know."""

    async def broken(_: trio.SocketListener) -> trio.SocketStream:
        raise OSError(errno.EINVAL, "not a listener")

    monkeypatch.setattr(trio.SocketListener, "accept", broken)
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with open_door(App().quart) as door:
            await door.ended.wait()


async def test_who_is_gone_before_its_turn_costs_nothing() -> None:
    """Reset while the kernel kept it: no place, and no listener."""
    async with open_door(App().quart) as door:
        await wait_all_tasks_blocked()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", door.port)) as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert await door.serves()
        await door.wait_open(0)
        assert door.door._room.peers == 0
        seen = door.door.statistics()
        assert (seen.accepted, seen.failed) == (4, 0)


async def test_who_is_gone_at_its_turn_gives_its_place_back() -> None:
    """To whoever comes next of the same address."""
    limits = Limits(connections_max=1, connections_per_peer_max=1)
    async with open_door(App().quart, limits) as door:
        transport, gone = door.door._transport, [True]

        def made(accepted: Any, tls: Any) -> Any:
            if gone:
                gone.pop()
                accepted.socket.close()
                raise trio.BrokenResourceError
            return transport(accepted, tls)

        door.door._transport = made
        async with await door.connect() as first:
            assert await first.is_closed()
        assert await door.serves()


async def test_who_has_left_is_company_for_a_minute(mock_clock: MockClock) -> None:
    """However long it was here: it may come again, and would find what a lone peer has begun."""
    async with open_door(App().quart, Limits(keep_alive_s=1000)) as door:
        async with await door.connect():
            await door.wait_open(1)
            mock_clock.jump(600)
        await door.wait_open(0)
        for seconds, has_company in ((59, True), (2, False)):
            mock_clock.jump(seconds)
            assert door.door._has_company("192.0.2.1") == has_company
            assert not door.door._has_company("127.0.0.1")


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
