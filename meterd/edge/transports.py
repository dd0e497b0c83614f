"""The bytes of one connection's socket, with TLS or without, at once or when they come.

Both kinds read and write the descriptor directly and are waited for with ``trio.lowlevel`` on it,
which is a third of the cost of trio's streams. That is right for TLS too: OpenSSL takes no more
from the socket than the record it is reading, and a read takes a whole record, so what is left to
read is always in the socket.

Nothing here has a time limit; ``guarded_stream`` gives them.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING, Final, Protocol

import trio

from meterd.edge.limits import KIB, PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

# What a TLS record holds (RFC 8446, section 5.1). Of a longer write OpenSSL may have sent a part
# that it does not tell of, and it insists on being given all of it again.
_RECORD_BYTES: Final = 16 * KIB


class Transport(Protocol):
    """What is said of errors holds for both kinds."""

    @property
    def socket(self) -> trio.socket.SocketType | ssl.SSLSocket: ...

    @property
    def is_encrypted(self) -> bool: ...

    @property
    def protocol(self) -> str | None:
        """What ALPN has agreed on, if anything."""

    async def handshake(self) -> None:
        """Comes before everything else. Raises as the other methods do."""

    def wait_readable(self) -> Awaitable[None]:
        """To be awaited at once: returns when there may be something to read. Raises
        trio.ClosedResourceError when ``wake`` says so.
        """

    def wake(self) -> None:
        """Wakes whoever waits for the socket, and leaves the socket as it is."""

    def read_now(self) -> bytes | None:
        """What has come; empty when nothing more will; None if nothing is here yet."""

    def write_now(self, data: bytes) -> int:
        """How many of the bytes the socket took at once. Raises trio.BrokenResourceError."""

    async def receive_some(self) -> bytes:
        """Raises trio.BrokenResourceError, and trio.ClosedResourceError when ``wake`` says so."""

    async def send_all(self, data: bytes) -> None:
        """Raises trio.BrokenResourceError."""

    async def send_eof(self) -> None:
        """Says that nothing more will be sent; of what is still received, only ``drain`` hears."""

    async def drain(self) -> None:
        """Reads until the client has said all, and forgets it. Raises trio.BrokenResourceError."""

    def shutdown(self) -> None:
        """Ends both directions from another task; who reads or writes finds out."""

    def close(self) -> None:
        """Only the connection's own task may."""


def read_all_now(transport: Transport) -> bytes | None:
    """As ``read_now``, but of all records that have come over TLS, about a piece at most."""
    data = transport.read_now()
    while data and len(data) < PIECE_BYTES and (more := transport.read_now()):
        data += more
    return data


class SocketTransport:
    """A connection without TLS."""

    is_encrypted: Final = False
    protocol: Final = None

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = stream.socket
        self._stream = stream
        self.descriptor = stream.socket.fileno()

    async def handshake(self) -> None:
        """There is none."""

    def wait_readable(self) -> Awaitable[None]:
        """See ``Transport``."""
        return trio.lowlevel.wait_readable(self.descriptor)  # noqa: ASYNC105 - the caller does

    def wake(self) -> None:
        """See ``Transport``."""
        trio.lowlevel.notify_closing(self.socket)

    def read_now(self) -> bytes | None:
        """See ``Transport``."""
        try:
            return os.read(self.descriptor, PIECE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""  # reset by the client

    def write_now(self, data: bytes) -> int:
        """See ``Transport``."""
        try:
            return os.write(self.descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as gone:
            raise trio.BrokenResourceError from gone

    async def receive_some(self) -> bytes:
        """See ``Transport``."""
        while True:
            await trio.lowlevel.wait_readable(self.descriptor)
            try:
                return os.read(self.descriptor, PIECE_BYTES)
            except BlockingIOError:
                pass
            except OSError as gone:
                raise trio.BrokenResourceError from gone

    async def send_all(self, data: bytes) -> None:
        """See ``Transport``."""
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        """See ``Transport``."""
        await self._stream.send_eof()

    async def drain(self) -> None:
        """See ``Transport``."""
        while await self.receive_some():
            pass

    def shutdown(self) -> None:
        """See ``Transport``."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster

    def close(self) -> None:
        """See ``Transport``."""
        self.socket.close()


class TlsTransport:
    """A connection with TLS on it.

    A read that would have to write first (a change of keys) is taken for one that has nothing yet:
    OpenSSL writes with the next answer, and renegotiation, which could not wait, is not offered.
    """

    is_encrypted: Final = True

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        """Takes the socket over from the stream. Raises trio.BrokenResourceError if it is dead."""
        accepted = socket.socket(fileno=stream.socket.detach())
        accepted.setblocking(False)
        try:
            accepted.getpeername()  # without a peer, wrap_socket fails and leaves the socket open
            self.socket = context.wrap_socket(
                accepted, server_side=True, do_handshake_on_connect=False
            )
        except (OSError, ValueError) as gone:
            accepted.close()
            raise trio.BrokenResourceError from gone
        self.descriptor = self.socket.fileno()

    @property
    def protocol(self) -> str | None:
        return self.socket.selected_alpn_protocol()

    async def handshake(self) -> None:
        """See ``Transport``."""
        while True:
            try:
                self.socket.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self.socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self.socket)
            except OSError as failed:
                raise trio.BrokenResourceError from failed
            else:
                return

    def wait_readable(self) -> Awaitable[None]:
        """See ``Transport``."""
        return trio.lowlevel.wait_readable(self.descriptor)  # noqa: ASYNC105 - the caller does

    def wake(self) -> None:
        """See ``Transport``."""
        trio.lowlevel.notify_closing(self.socket)

    def read_now(self) -> bytes | None:
        """See ``Transport``."""
        try:
            return self.socket.recv(PIECE_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError:
            return b""

    def write_now(self, data: bytes | memoryview) -> int:
        """See ``Transport``; no more than one record at once."""
        try:
            return self.socket.send(data[:_RECORD_BYTES])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError as gone:
            raise trio.BrokenResourceError from gone

    async def receive_some(self) -> bytes:
        """See ``Transport``."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.socket.recv(PIECE_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                await trio.lowlevel.wait_readable(self.socket)
            except OSError as gone:
                raise trio.BrokenResourceError from gone

    async def send_all(self, data: bytes) -> None:
        """See ``Transport``."""
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while left:
            sent = self.write_now(left)
            left = left[sent:]
            if not sent:
                await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """See ``Transport``."""
        await trio.lowlevel.checkpoint()
        try:
            self.socket.unwrap()
        except (OSError, ValueError):
            pass  # said; but the client has not said so too, or is gone
        self._shutdown(socket.SHUT_WR)

    async def drain(self) -> None:
        """See ``Transport``."""
        # Undecrypted, since OpenSSL takes it ill when a client speaks on after our farewell.
        while True:
            await trio.lowlevel.wait_readable(self.descriptor)
            try:
                if not os.read(self.descriptor, PIECE_BYTES):
                    return
            except BlockingIOError:
                pass
            except OSError as gone:
                raise trio.BrokenResourceError from gone

    def shutdown(self) -> None:
        """See ``Transport``."""
        self._shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See ``Transport``."""
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()

    def _shutdown(self, how: int) -> None:
        # Not SSLSocket's own, which would have later reads give what is still encrypted.
        try:
            socket.socket.shutdown(self.socket, how)
        except OSError:
            pass  # the client was faster


def transport_over(accepted: trio.SocketStream, tls: ssl.SSLContext | None) -> Transport:
    """Raises trio.BrokenResourceError if the client has gone."""
    return SocketTransport(accepted) if tls is None else TlsTransport(accepted, tls)


def accepted_now(
    listener: trio.abc.Listener[trio.SocketStream], at_most: int
) -> Iterator[trio.SocketStream]:
    """What waits to be accepted already, behind what was waited for; of a socket only."""
    if not isinstance(listener, trio.SocketListener):
        return  # one that a test has made
    try:
        descriptor = os.dup(listener.socket.fileno())
    except OSError:
        return  # what was waited for has the last file that was free
    with socket.socket(fileno=descriptor) as listening:
        for _ in range(at_most):
            try:
                accepted, _address = listening.accept()
            except OSError:
                return  # that was all, or whoever waits for the next one will be told what is wrong
            accepted.setblocking(False)
            yield trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
