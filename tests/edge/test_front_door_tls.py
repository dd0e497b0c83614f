"""The front door with TLS: both lanes and both protocols, and what a handshake may cost."""

from __future__ import annotations

import shutil
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import Limits
from tests.edge.encrypted import client_of, connect, http2_client_of, served_with
from tests.edge.lane_bench import EVENT, LEFT, LIMITS, SERVED, Lane, request
from tests.edge.loopback import GET, LARGE, LARGE_BYTES, App, Door, open_door, post, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    context = served_with(tmp_path)
    async with open_door(App().quart, tls=lambda: context) as opened:
        yield opened


# What is served


async def test_http2_by_alpn(door: Door) -> None:
    """Several requests at once, with the scheme that they came by."""
    async with await http2_client_of(door) as client:
        echoes = [await client.request(b"/echo", b"POST", bytes([n]) * 10_000) for n in range(3)]
        for number, echo in enumerate(echoes):
            assert await client.until_answered(echo) == (200, bytes([number]) * 10_000)


async def test_http2_is_hypercorns_before_the_first_byte(door: Door) -> None:
    """A client may wait for the server's settings, which begin the connection (RFC 9113, 3.4)."""
    async with await connect(door, "h2") as stream:
        settings = await stream.receive_some(9)
        assert settings[3] == 4, "the type of the first frame"


async def test_http2_that_was_agreed_on_and_is_not_spoken_ends(door: Door) -> None:
    """What follows is no request of HTTP/1."""
    async with await client_of(door, "h2") as client:
        await client.send(GET)
        received = b""
        while data := await client.stream.receive_some(65536):
            received += data
        assert b"HTTP/1" not in received
    await door.wait_open(0)


async def test_http1_over_tls(door: Door) -> None:
    """Keep-alive, chunked bodies, and bodies larger than a record, in both directions."""
    chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with await client_of(door) as client, trio.open_nursery() as nursery:
        assert (await client.ask(GET)).json == {"status": "ok"}
        assert (await client.ask(chunked + b"2\r\nab\r\n0\r\n\r\n")).body == b"ab"
        nursery.start_soon(client.send, post(b"x" * 1_000_000) + LARGE)
        assert (await client.answer()).body == b"x" * 1_000_000
        assert len((await client.answer()).body) == LARGE_BYTES


async def test_a_refusal_arrives_and_the_end_is_orderly(door: Door) -> None:
    """Also at a client that is still sending."""
    async with await client_of(door) as client:
        await client.send(b"GET / HTTP/9.9\r\nHost: a\r\n\r\n" + bytes(100_000))
        assert (await client.answer()).status == 400
        assert await client.stream.receive_some(1) == b"", "no end of TLS, just of TCP"


async def test_the_end_is_orderly_whoever_wants_it(tmp_path: Path) -> None:
    """An end of TCP alone may be somebody else's doing (RFC 8446, 6.1): a strict client says so."""
    context = served_with(tmp_path)
    lane = Lane(fast=True, limits=LIMITS)
    async with open_door(lane.app, LIMITS, lane.plain, lambda: context) as door:
        stream = await connect(door)
        await stream.send_all(request(EVENT))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 201 ")
        rest, _ = await stream.unwrap()
        await rest.aclose()
        async with await client_of(door) as idle:
            assert (await idle.ask(request(EVENT))).status == 201
            door.door.begin_shutdown()
            assert await idle.stream.receive_some(1) == b"", "no end of TLS, just of TCP"


def _given(context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    return context


async def exchange(door: Door, raw: bytes, *, encrypted: bool) -> bytes:
    """All that is answered, but for the date, to the request and to one that asks for the end."""
    last = b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    stream: Any
    if encrypted:
        stream = await connect(door)
    else:
        stream = await trio.open_tcp_stream("127.0.0.1", door.port)
    answered = b""
    async with stream:
        await stream.send_all(raw + last)
        while data := await stream.receive_some(65536):
            answered += data
    lines = answered.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"date: "))


@pytest.mark.parametrize("fast", [True, False])
async def test_ingest_is_answered_as_without_tls(tmp_path: Path, *, fast: bool) -> None:
    """To the byte, in both lanes, with the same events stored."""
    answers, stored = [], []
    for tls in (None, served_with(tmp_path)):
        lane = Lane(fast=fast, limits=LIMITS)
        async with open_door(lane.app, LIMITS, lane.plain, partial(_given, tls)) as door:
            answers.append(
                [
                    await exchange(door, raw, encrypted=tls is not None)
                    for name, raw in {**SERVED, **LEFT}.items()
                    if name not in ("connection close", "HTTP/1.0")
                ]
            )
            stored.append(await lane.stored())
            by_hypercorn = [path for path in lane.by_hypercorn if path != "/ping"]
            assert by_hypercorn
            assert fast == ("/usage/a~b" not in by_hypercorn)
    assert answers[0] == answers[1]
    assert stored[0] == stored[1] != []


async def test_an_event_may_come_in_many_records(tmp_path: Path) -> None:
    """And each record in many pieces."""
    context = served_with(tmp_path)
    lane = Lane(fast=True, limits=LIMITS)
    async with (
        open_door(lane.app, LIMITS, lane.plain, lambda: context) as door,
        await client_of(door) as client,
    ):
        for byte in request(EVENT):
            await client.send(bytes([byte]))
        assert (await client.answer()).status == 201
        assert len(await lane.stored()) == 1


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
async def test_curl(door: Door, protocol: str) -> None:
    """As users try it."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    command = ["curl", "-sk", protocol, "-w", " %{http_version}", "-d", "hello"]
    done = await trio.run_process(
        [*command, f"https://127.0.0.1:{door.port}/echo"], capture_stdout=True
    )
    version = b"2" if protocol == "--http2" else b"1.1"
    assert done.stdout == b"hello " + version


# What a handshake may cost


async def test_a_failed_handshake_costs_only_its_connection(door: Door) -> None:
    """A client without TLS, and one that does not trust us."""
    async with await client_of(door) as honest:
        async with await door.connect() as client:
            await client.send(GET)
            with pytest.raises((trio.BrokenResourceError, AssertionError, ValueError)):
                await client.answer()
        with pytest.raises(trio.BrokenResourceError) as refused:
            stream = await trio.open_tcp_stream("127.0.0.1", door.port)
            async with stream:
                context = ssl.create_default_context()
                await trio.SSLStream(stream, context, server_hostname="a").do_handshake()
        assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)
        await wait_until(lambda: door.door.statistics().handshakes_failed == 2)
        await door.wait_open(1)
        assert (await honest.ask(GET)).status == 200
    assert door.logged == [], "nothing that clients can make us log without end"


async def test_a_handshake_has_a_time_limit(tmp_path: Path) -> None:
    """However slowly its bytes come, and it counts as a connection until then."""
    context = served_with(tmp_path)
    limits = Limits(handshake_s=0.1)
    async with (
        open_door(App().quart, limits, tls=lambda: context) as door,
        await door.connect() as client,
    ):
        await client.send(b"\x16\x03\x01\x02")
        await door.wait_open(1)
        assert door.door.statistics().handshakes_failed == 0
        assert await client.is_closed()
        await door.wait_open(0)
        assert door.door.statistics().handshakes_failed == 1


async def test_a_handshake_holds_up_no_shutdown(door: Door) -> None:
    """Nothing was asked on it."""
    async with await door.connect() as client:
        await door.wait_open(1)
        await wait_all_tasks_blocked()
        door.door.begin_shutdown()
        assert await client.is_closed()
        await door.ended.wait()


async def test_a_handshake_keeps_no_honest_client_out(tmp_path: Path) -> None:
    """A connection that has not greeted yet gives way, as an idle one does."""
    context = served_with(tmp_path)
    limits = Limits(connections_max=1, connections_per_peer_max=1, idle_for_own_s=0.0)
    async with (
        open_door(App().quart, limits, tls=lambda: context) as door,
        await door.connect() as silent,
    ):
        await door.wait_open(1)
        async with await client_of(door) as client:
            assert (await client.ask(GET)).status == 200
        assert await silent.is_closed()


async def test_who_is_turned_away_is_told_nothing_unencrypted(tmp_path: Path) -> None:
    """It would not understand it."""
    context = served_with(tmp_path)
    limits = Limits(connections_max=1, connections_per_peer_max=1)
    app = App()
    async with (
        open_door(app.quart, limits, tls=lambda: context) as door,
        await client_of(door) as busy,
    ):
        await busy.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        await app.arrived.wait()
        async with await door.connect() as client:
            assert await client.is_closed()
        assert door.door.statistics().turned_away == 1


async def test_a_new_certificate_is_for_new_connections(tmp_path: Path) -> None:
    """Those that are open go on with the old one."""
    contexts = [served_with(tmp_path)]
    async with (
        open_door(App().quart, tls=lambda: contexts[-1]) as door,
        await client_of(door) as before,
    ):
        contexts.append(served_with(tmp_path))
        async with await client_of(door) as after:
            seen = [_certificate(client.stream) for client in (before, after)]
            assert seen[0] != seen[1]
            for client in (before, after):
                assert (await client.ask(GET)).status == 200


def _certificate(stream: Any) -> object:
    return stream.getpeercert(binary_form=True)
