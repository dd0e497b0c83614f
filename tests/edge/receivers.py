"""Webhook receivers on loopback ports, each doing to a connection what a test tells it to."""

from __future__ import annotations

import itertools
import ssl
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from meterd.domain.endpoints import Endpoint
from meterd.edge.egress import DEADLINE_S, open_sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from meterd.domain.outcomes import Outcome
    from meterd.edge.dialling import Resolve

Stream: TypeAlias = "trio.SocketStream | trio.SSLStream[trio.SocketStream]"
Handler: TypeAlias = "Callable[[Stream], Awaitable[None]]"

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEADERS = {"Content-Type": "application/json", "User-Agent": "meterd/0", "webhook-id": "msg_1"}
BODY = b'{"type":"aggregation.completed"}'


def endpoint(*allowed: str) -> Endpoint:
    networks = tuple(ip_network(text) for text in allowed)
    return Endpoint("billing", "http://billing.test/", ("secret",), allow_private=networks)


# Much cheaper than one that trusts somebody.
TRUSTING_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
LOOPBACK = endpoint("127.0.0.0/8", "::1/128")


class Receiver:
    """A server on loopback; every connection is given to ``handler``."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.ended = trio.Event()
        self.port = 0
        self._handler = handler
        self._tls = tls

    async def serve(self, connection: trio.SocketStream) -> None:
        self.connections += 1
        stream: Stream = connection
        if self._tls:
            stream = trio.SSLStream(connection, self._tls, server_side=True, https_compatible=True)
        try:
            await self._handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the sender has gone, as many of these tests want it to
        finally:
            self.ended.set()
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver(handler, tls)
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        receiver.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, receiver.serve, [listener])
        yield receiver
        nursery.cancel_scope.cancel()


async def request_from(stream: Stream) -> bytes:
    """One request; empty when the sender has closed."""
    data = b""
    while not data.endswith(BODY):
        piece = await stream.receive_some()
        if not piece:
            return b""
        data += piece
    return data


def answering(*answers: bytes, requests: list[bytes] | None = None) -> Handler:
    """Answers one request after the other, and then closes."""

    async def handler(stream: Stream) -> None:
        for answer in answers:
            if not (request := await request_from(stream)):
                return
            if requests is not None:
                requests.append(request)
            await stream.send_all(answer)

    return handler


def resolving(*answers: Sequence[str]) -> Resolve:
    """Gives each look-up the next answer, and the last one for ever."""
    following = itertools.chain(answers, itertools.repeat(answers[-1]))

    async def resolve(host: str) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return next(following)

    return resolve


async def post(
    target: str | int,
    allowing: Endpoint = LOOPBACK,
    tls: ssl.SSLContext | None = None,
    deadline_s: float = DEADLINE_S,
    **options: Any,
) -> Outcome:
    url = target if isinstance(target, str) else f"http://127.0.0.1:{target}/hook?token=t0ps3cret"
    async with open_sender(allowing, tls or TRUSTING_NOBODY, **options) as sender:
        return await sender.post(url, HEADERS, BODY, deadline_s=deadline_s)


async def error_from(handler: Handler) -> str | None:
    async with listening(handler) as receiver:
        return (await post(receiver.port)).error
