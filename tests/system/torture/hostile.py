"""Receivers of webhooks that mean no good, by what they do to a connection.

Each is a handler for ``tests.edge.receivers.listening``; what must come of an attempt stands beside
it: the error, or None where it did answer 2xx.
"""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.edge.receivers import Handler, Stream

FOREVER_S = 1000
OK = b"HTTP/1.1 200 OK\r\n"
# Or the next request may be on its way to who has just closed.
CLOSES = b"connection: close\r\ncontent-length: 0\r\n\r\n"
TIMEOUT = "Request timeout"


class Hostile(NamedTuple):
    """``errors`` are the beginnings of what may be said of an attempt; None for delivered."""

    handler: Handler
    errors: tuple[str | None, ...]
    tls: str = ""


async def _head(stream: Stream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some(65536)
        if not piece:
            break
        data += piece
    return data


async def _request(stream: Stream) -> bool:
    """Reads a request to its end: who closes before that resets, and its answer may be lost. False
    where there is none.
    """
    head, _, body = (await _head(stream)).partition(b"\r\n\r\n")
    fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    length = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
    while len(body) < length and (piece := await stream.receive_some(65536)):
        body += piece
    return bool(head)


def _sending(first: bytes, again: Callable[[int], bytes] | None, pause_s: float = 0.0) -> Handler:
    async def handler(stream: Stream) -> None:
        await _head(stream)
        await stream.send_all(first)
        pieces = map(again, itertools.count()) if again is not None else ()
        for piece in pieces:
            await stream.send_all(piece)
            await trio.sleep(pause_s)
        await trio.sleep(FOREVER_S)

    return handler


def _answering(answer: bytes) -> Handler:
    async def handler(stream: Stream) -> None:
        await _request(stream)
        await stream.send_all(answer)

    return handler


def _reset(stream: Stream) -> None:
    under = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    under.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    under.socket.close()


async def reset_before(stream: Stream) -> None:
    await trio.lowlevel.checkpoint()
    _reset(stream)


async def reset_amid(stream: Stream) -> None:
    await _head(stream)
    await stream.send_all(OK + b"content-length: 1000\r\n\r\nabc")
    await trio.sleep(0.05)
    _reset(stream)


async def never_reads(stream: Stream) -> None:
    await trio.sleep(FOREVER_S)


async def early(stream: Stream) -> None:
    await stream.receive_some(10)
    await stream.send_all(OK + b"content-length: 0\r\n\r\n")


async def well(stream: Stream) -> None:
    """No harm at all: reads each request to its end, and answers."""
    while await _request(stream):
        await stream.send_all(OK + b"content-length: 0\r\n\r\n")


async def redirects_to_itself(stream: Stream) -> None:
    await _request(stream)
    under = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    port = under.socket.getsockname()[1]
    location = b"location: http://127.0.0.1:%d/\r\n" % port
    await stream.send_all(b"HTTP/1.1 302 Found\r\n" + location + CLOSES)


async def speaks_plainly(stream: Stream) -> None:
    """Where TLS was expected."""
    await stream.receive_some(100)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = b"\0" * (1 << 20)
    body = b"".join(packer.compress(zeros) for _ in range(50)) + packer.flush()
    return OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def hostiles() -> dict[str, Hostile]:
    """Twenty-two of them."""
    endless = OK + b"transfer-encoding: chunked\r\n\r\n"
    sized = OK + b"content-length: 99999\r\n\r\n"
    broken = ("Parse Error", "read ECONNRESET", "socket hang up", "write ")
    return {
        "drips its head": Hostile(_sending(OK + b"x: ", lambda _: b"a", 0.1), (TIMEOUT,)),
        "drips its body": Hostile(_sending(sized, lambda _: b"a", 0.1), (TIMEOUT,)),
        "never answers": Hostile(_sending(b"", None), (TIMEOUT,)),
        "never reads": Hostile(never_reads, (TIMEOUT,)),
        "resets before": Hostile(reset_before, broken),
        "resets amid its answer": Hostile(reset_amid, ("read ECONNRESET",)),
        "ends short of its length": Hostile(
            _answering(OK + b"content-length: 1000\r\n\r\nabc"), broken
        ),
        "never ends its body": Hostile(_sending(OK + b"\r\n", lambda _: b"a" * 65536), (None,)),
        "a gzip bomb": Hostile(_answering(_bomb()), (None,)),
        "never ends its head": Hostile(
            _sending(OK, lambda number: b"x-%d: %s\r\n" % (number, b"a" * 4000)),
            ("Parse Error", TIMEOUT),
        ),
        # The limit of an answer is thousands of chunks, which take their time to be read.
        "never ends its chunks": Hostile(
            _sending(endless, lambda _: b"1\r\na\r\n" * 1000), (None, TIMEOUT)
        ),
        "speaks nonsense": Hostile(_answering(os.urandom(2000)), broken),
        "redirects to itself": Hostile(redirects_to_itself, ("HTTP 302: Found",)),
        "says 100 for ever": Hostile(
            _sending(b"", lambda _: b"HTTP/1.1 100 Continue\r\n\r\n"), ("Parse Error", TIMEOUT)
        ),
        "hints for ever": Hostile(
            _sending(b"", lambda _: b"HTTP/1.1 103 Early Hints\r\nlink: </>\r\n\r\n", 0.01),
            ("Parse Error", TIMEOUT),
        ),
        "answers before the body": Hostile(early, (None, "read ECONNRESET", "write ")),
        "switches protocols": Hostile(
            _answering(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"),
            ("HTTP 101", "Parse Error", "socket hang up"),
        ),
        "two lengths": Hostile(
            _answering(OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"), ("Parse Error",)
        ),
        "is signed by itself": Hostile(early, ("certificate verify failed",), "self-signed"),
        "is somebody else": Hostile(early, ("certificate verify failed",), "other"),
        "speaks an old TLS": Hostile(early, ("TLS handshake failed",), "old"),
        "speaks plainly": Hostile(speaks_plainly, ("TLS handshake failed",), "none"),
    }


def old_context(context: ssl.SSLContext) -> ssl.SSLContext:
    """TLS 1.1 at most."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context
