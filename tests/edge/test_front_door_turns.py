"""What one peer has a front door do in numbers is done in pieces, between which others have their
turn, and none of them gets lost; over real loopback sockets.
"""

from __future__ import annotations

import math
import socket
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.front_door import FrontDoor
from meterd.edge.limits import Limits
from meterd.edge.peers import peer_of
from meterd.edge.spare_time import GIVEN_WAY_S
from tests.edge.lane_bench import EVENT, lane, request
from tests.edge.loopback import GET, REQUESTS, App, open_door, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio.testing import MockClock

    from tests.edge.loopback import Door

MANY, OTHER = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def connect() -> Iterator[Callable[[Door, str], socket.socket]]:
    """Connects at once, whatever the loop does: the kernel keeps who has come."""
    with ExitStack() as opened:

        def connect(door: Door, host: str) -> socket.socket:
            address = ("127.0.0.1", door.port)
            return opened.enter_context(socket.create_connection(address, source_address=(host, 0)))

        yield connect


class Steps(trio.abc.Instrument):
    """By how much a count grew between two looks at who has sent something."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._before = count()
        self.found: list[int] = []

    def before_io_wait(self, _timeout: float) -> None:
        now = self._count()
        if now != self._before:
            self.found.append(now - self._before)
        self._before = now


async def test_two_more_are_accepted_in_a_turn(
    connect: Callable[[Door, str], socket.socket],
) -> None:
    """Beside the one that was waited for: 0.05 ms each, in front of whoever asks meanwhile."""
    async with open_door(App().quart) as door:
        await wait_all_tasks_blocked()
        steps = Steps(lambda: door.door.statistics().accepted)
        for _ in range(40):
            connect(door, MANY)
        trio.lowlevel.add_instrument(steps)
        await door.wait_open(40)
        trio.lowlevel.remove_instrument(steps)
    assert (max(steps.found), sum(steps.found)) == (3, 40)


async def test_one_is_started_in_each_turn(
    connect: Callable[[Door, str], socket.socket],
) -> None:
    """However many have been accepted by then."""
    async with open_door(App().quart) as door:
        await wait_all_tasks_blocked()
        steps = Steps(lambda: door.door.statistics().open)
        for _ in range(40):
            connect(door, MANY)
        trio.lowlevel.add_instrument(steps)
        await door.wait_open(40)
        trio.lowlevel.remove_instrument(steps)
    assert (max(steps.found), sum(steps.found)) == (1, 40)


async def test_peers_are_started_in_turn(
    connect: Callable[[Door, str], socket.socket],
) -> None:
    """Whoever came behind many of another is not started behind them."""
    order: list[str] = []
    async with open_door(App().quart) as door:
        transport = door.door._transport

        def noted(accepted: trio.SocketStream, tls: Any) -> Any:
            order.append(accepted.socket.getpeername()[0])
            return transport(accepted, tls)

        door.door._transport = noted
        await wait_all_tasks_blocked()
        for host in (MANY, OTHER):
            for _ in range(20):
                connect(door, host)
        await wait_until(lambda: len(order) == 40)
    assert order.index(OTHER) < 20
    # Of who comes second one may not have been accepted yet when its turn is.
    in_turn = order[order.index(OTHER) : order.index(OTHER) + 20]
    assert max(len(list(alike)) for _, alike in groupby(in_turn)) <= 3


async def some_accepted(door: Door, connect: Callable[[Door, str], socket.socket]) -> list[Any]:
    """Clients that have asked: the first are served, others are accepted and wait."""
    await wait_all_tasks_blocked()
    clients = [connect(door, MANY) for _ in range(40)]
    for client in clients:
        client.sendall(GET)
    while door.door.statistics().open < 2:
        await trio.lowlevel.checkpoint()
    assert len(door.door._waiting[peer_of(MANY)]) > 2
    return clients


async def test_who_asks_while_others_end_is_not_overdue_any_more(mock_clock: MockClock) -> None:
    """They end eight at a time; what has come meanwhile is the beginning of more."""
    door = FrontDoor(App().quart, Limits(), structlog.get_logger(), REQUESTS)
    expired: list[int] = []
    streams = [
        SimpleNamespace(expires_at=0.0, expire=partial(expired.append, number))
        for number in range(10)
    ]

    def ask() -> None:
        streams[9].expires_at = math.inf

    streams[0].expire = ask
    door._connections = cast("Any", [SimpleNamespace(stream=each) for each in streams])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door._expire_overdue)
        await wait_all_tasks_blocked()
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert expired == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_shutdown_serves_who_was_accepted_and_waits(
    connect: Callable[[Door, str], socket.socket],
) -> None:
    """The kernel has told them that they are connected, and nobody else can serve them."""
    async with open_door(App().quart) as door:
        clients = await some_accepted(door, connect)
        door.door.begin_shutdown()
        with trio.fail_after(5):
            await door.ended.wait()
        accepted = door.door.statistics().accepted
    answered = sum(received(client).startswith(b"HTTP/1.1 200 ") for client in clients)
    assert 2 < answered == accepted


async def test_cancelling_closes_who_was_accepted_and_waits(
    connect: Callable[[Door, str], socket.socket],
) -> None:
    """At once: nothing is left open behind it."""
    async with open_door(App().quart) as door:
        clients = await some_accepted(door, connect)
    for client in clients:
        client.setblocking(False)
        received(client)  # and does not block


def received(client: socket.socket) -> bytes:
    """Until the end, whichever it is."""
    found = b""
    try:
        while more := client.recv(4096):
            found += more
    except ConnectionResetError:
        pass
    return found


async def test_who_leaves_gives_way_while_an_event_is_stored(
    mock_clock: MockClock, connect: Callable[[Door, str], socket.socket]
) -> None:
    """A stranger's good-bye may wait for a moment; who has shown a key goes first."""
    async with lane(fast=True, limits=Limits()) as fast, await fast.door.connect() as client:
        append, may_store = fast.ledger.append, trio.Event()

        async def append_slowly(*events: Any, **rules: Any) -> Any:
            await may_store.wait()
            return await append(*events, **rules)

        fast.ledger.append = append_slowly  # type: ignore[method-assign]
        stranger = connect(fast.door, OTHER)
        stranger.setblocking(False)
        await fast.door.wait_open(2)
        await client.send(request(EVENT))
        await wait_all_tasks_blocked(0.05)
        stranger.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked(0.05)
        with pytest.raises(BlockingIOError):
            stranger.recv(1)
        mock_clock.jump(GIVEN_WAY_S)
        await fast.door.wait_open(1)
        assert stranger.recv(1) == b""
        may_store.set()
        assert (await client.answer()).status == 201
