"""A network in memory: a listener, and connections whose bytes pass without a socket.

Deterministic where the kernel's order of events is not, and a connection breaks when it is told to.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from meterd.edge.limits import PIECE_BYTES

if TYPE_CHECKING:
    import ssl

    from meterd.edge.transports import Transport

# What a client may send, and a server answer, before the other one reads.
_BUFFER_BYTES = 256 * 1024


class RefusedError(Exception):
    """Nobody listens."""


class _Pipe:
    """One direction. ``is_broken`` is a reset, behind which nothing is read any more."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_ended = False
        self.is_broken = False
        self.changed = trio.lowlevel.ParkingLot()

    def write(self, data: bytes | memoryview) -> int:
        if self.is_broken or self.is_ended:
            raise trio.BrokenResourceError
        taken = data[: max(0, _BUFFER_BYTES - len(self.data))]
        self.data += taken
        self.changed.unpark_all()
        return len(taken)

    def read(self) -> bytes | None:
        if self.is_broken:
            return b""
        if not self.data:
            return b"" if self.is_ended else None
        piece = bytes(self.data[:PIECE_BYTES])
        del self.data[:PIECE_BYTES]
        self.changed.unpark_all()
        return piece

    def end(self) -> None:
        self.is_ended = True
        self.changed.unpark_all()

    def reset(self) -> None:
        self.is_broken = True
        self.changed.unpark_all()


class _Socket:
    """What is asked of a socket, but for its bytes."""

    family = socket.AF_INET

    def __init__(self, peer: tuple[str, int]) -> None:
        self._peer = peer

    def getpeername(self) -> tuple[str, int]:
        return self._peer

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8080)


class ServerEnd(trio.abc.AsyncResource):
    """See ``edge.transports.Transport``; also what the listener accepts."""

    is_encrypted = False
    protocol = None

    def __init__(self, peer: tuple[str, int], incoming: _Pipe, outgoing: _Pipe) -> None:
        self.socket = _Socket(peer)
        self._incoming, self._outgoing = incoming, outgoing
        self._is_woken = False

    async def handshake(self) -> None:
        pass

    async def wait_readable(self) -> None:
        self._is_woken = False
        await trio.lowlevel.checkpoint()
        pipe = self._incoming
        while not (pipe.data or pipe.is_ended or pipe.is_broken):
            await pipe.changed.park()
            if self._is_woken:
                raise trio.ClosedResourceError

    def wake(self) -> None:
        if self._incoming.changed:
            self._is_woken = True
            self._incoming.changed.unpark_all()

    def read_now(self) -> bytes | None:
        return self._incoming.read()

    def write_now(self, data: bytes | memoryview) -> int:
        return self._outgoing.write(data)

    async def receive_some(self) -> bytes:
        while True:
            await self.wait_readable()
            data = self._incoming.read()
            if data is not None:
                return data

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while left:
            sent = self.write_now(left)
            left = left[sent:]
            if not sent:
                await self._outgoing.changed.park()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._outgoing.end()

    async def drain(self) -> None:
        while await self.receive_some():
            pass

    def shutdown(self) -> None:
        self._outgoing.end()
        self._incoming.reset()

    def close(self) -> None:
        self._outgoing.end()
        self._incoming.reset()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class ClientEnd:
    """A client's side of a connection."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    def send(self, data: bytes) -> None:
        """Raises trio.BrokenResourceError."""
        sent = self._outgoing.write(data)
        assert sent == len(data), "a client sends more than fits into the buffer"

    async def receive(self) -> bytes:
        """Empty when nothing more comes."""
        while (data := self._incoming.read()) is None:
            await self._incoming.changed.park()
        return data

    def reset(self) -> None:
        """Gone without a word."""
        self._outgoing.reset()
        self._incoming.reset()

    def close(self) -> None:
        self._outgoing.end()
        self._incoming.reset()


class _Listener(trio.abc.AsyncResource):
    def __init__(self, network: Network) -> None:
        self._network = network
        self.socket = _Socket(("", 0))

    async def accept(self) -> ServerEnd:
        await trio.lowlevel.checkpoint()
        while not self._network.waiting:
            await self._network.came.park()
        return self._network.waiting.pop(0)

    async def aclose(self) -> None:
        self._network.stop_listening()
        await trio.lowlevel.checkpoint()


class Network:
    """All connections to the daemon."""

    def __init__(self) -> None:
        self.waiting: list[ServerEnd] = []
        self.came = trio.lowlevel.ParkingLot()
        self._is_listening = False
        self._port = 1024
        self._connections: list[ClientEnd] = []

    def listener(self) -> _Listener:
        self._is_listening = True
        return _Listener(self)

    def connect(self) -> ClientEnd:
        """Raises RefusedError."""
        if not self._is_listening:
            raise RefusedError
        self._port = self._port + 1 if self._port < 65535 else 1025
        there, back = _Pipe(), _Pipe()
        self.waiting.append(ServerEnd((f"10.0.0.{self._port % 7}", self._port), there, back))
        self.came.unpark_all()
        client = ClientEnd(back, there)
        self._connections.append(client)
        return client

    def forget(self, client: ClientEnd) -> None:
        self._connections.remove(client)

    def stop_listening(self) -> None:
        self._is_listening = False
        for accepted in self.waiting:
            accepted.close()
        self.waiting.clear()

    def cut(self) -> None:
        """As when the machine goes off: nobody hears another word."""
        self.stop_listening()
        for client in self._connections:
            client.reset()


def transport(accepted: ServerEnd, tls: ssl.SSLContext | None) -> Transport:
    assert tls is None
    return accepted  # type: ignore[return-value]
