"""meterd/edge/transports.py, each kind with a client at the other end of a real socket."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meterd.edge.limits import MIB, PIECE_BYTES
from meterd.edge.transports import SocketTransport, TlsTransport
from tests.edge.encrypted import served_with, trusting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from meterd.edge.transports import Transport


def sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Of TCP, because what has no peer name has no TLS either."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    server, client = (trio.socket.from_stdlib_socket(each) for each in (ours, theirs))
    return trio.SocketStream(server), trio.SocketStream(client)


@asynccontextmanager
async def pair(folder: Path | None) -> AsyncIterator[tuple[Transport, trio.abc.Stream]]:
    """A transport and its client, after the handshake; without a folder there is no TLS."""
    accepted, plain = sockets()
    if folder is None:
        transport: Transport = SocketTransport(accepted)
        client: Any = plain
    else:
        transport = TlsTransport(accepted, served_with(folder))
        client = trio.SSLStream(plain, trusting("h2", "http/1.1"), server_hostname="127.0.0.1")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.handshake)
            if folder is not None:
                await client.do_handshake()
        try:
            yield transport, client
        finally:
            transport.close()
            await trio.aclose_forcefully(client)


@pytest.fixture(params=["plain", "tls"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "tls" else None


async def test_what_has_come_is_read_at_once(folder: Path | None) -> None:
    """Nothing yet is told from nothing more."""
    async with pair(folder) as (transport, client):
        assert transport.read_now() is None
        await client.send_all(b"said")
        await transport.wait_readable()
        assert transport.read_now() == b"said"
        assert transport.read_now() is None
        await client.aclose()
        await transport.wait_readable()
        assert transport.read_now() == b""


async def test_nothing_readable_hides_from_who_waits(folder: Path | None) -> None:
    """Waiting for the socket is enough, however records and reads are cut."""
    async with pair(folder) as (transport, client), trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(range(256)) * 4096)
        received = b""
        while len(received) < MIB:
            await transport.wait_readable()
            received += transport.read_now() or b""
        assert received == bytes(range(256)) * 4096


async def test_a_slow_reader_gets_everything_in_order(folder: Path | None) -> None:
    """What the socket does not take at once is taken later, from where it stopped."""
    data = b"".join(b"%07d\n" % number for number in range(MIB))
    async with pair(folder) as (transport, client), trio.open_nursery() as nursery:
        sent = 0
        while taken := transport.write_now(data[sent:]):
            sent += taken
        assert 0 < sent < len(data)

        async def send_the_rest() -> None:
            for start in range(sent, len(data), PIECE_BYTES):
                await transport.send_all(data[start : start + PIECE_BYTES])

        nursery.start_soon(send_the_rest)
        await wait_all_tasks_blocked()
        received = bytearray()
        while len(received) < len(data):
            received += await client.receive_some(PIECE_BYTES)
        assert received == data


async def test_after_the_end_of_sending_a_client_may_speak_on(folder: Path | None) -> None:
    """It sees an orderly end, and is drained until it has ended too."""
    async with pair(folder) as (transport, client), trio.open_nursery() as nursery:
        await client.send_all(b"still speaking")
        await transport.send_eof()
        await transport.send_eof()
        nursery.start_soon(transport.drain)
        await client.send_all(bytes(MIB))
        assert await client.receive_some() == b""
        assert len(nursery.child_tasks) == 1
        await client.aclose()


async def test_a_shutdown_wakes_who_reads(folder: Path | None) -> None:
    """And gives them nothing, not even what TLS has not decrypted."""
    received: list[bytes] = []
    async with pair(folder) as (transport, client):

        async def read() -> None:
            received.append(await transport.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            transport.shutdown()
        assert b"".join(received) == b""
        with pytest.raises(trio.BrokenResourceError):
            transport.write_now(b"too late")
        await trio.aclose_forcefully(client)


async def test_a_client_that_is_gone_is_noticed(folder: Path | None) -> None:
    """When writing, as a broken connection; a second write cannot go into the buffer."""
    async with pair(folder) as (transport, client):
        await trio.aclose_forcefully(client)
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(100):
                await transport.send_all(bytes(MIB))


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01", b""])
async def test_a_client_that_does_not_speak_tls_is_broken(tmp_path: Path, said: bytes) -> None:
    """It asks without TLS, or leaves before its greeting is whole."""
    accepted, client = sockets()
    async with client:
        await client.send_all(said)
        await client.send_eof()
        transport = TlsTransport(accepted, served_with(tmp_path))
        with closing(transport), pytest.raises(trio.BrokenResourceError):
            await transport.handshake()


async def test_a_client_that_has_left_before_is_broken(tmp_path: Path) -> None:
    """Nothing of it stays open."""
    accepted, client = sockets()
    client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1" + bytes(7))
    await client.aclose()
    await trio.lowlevel.wait_readable(accepted.socket)
    with pytest.raises(trio.BrokenResourceError):
        TlsTransport(accepted, served_with(tmp_path))
